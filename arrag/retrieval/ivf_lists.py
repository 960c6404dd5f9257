"""The scan of inverted lists: which entries of the probed lists may be among the nearest.

The bounds of an entry's neighbours are added up; those within the limit, which is what the k-th
least sum so far allows, are noted, to be measured.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from arrag.retrieval._avx512 import fetch
from arrag.retrieval.topk import replace_largest, replace_worst

CHUNK = 256
"""Rows of a list whose sums are held at once."""
_ALL = np.iinfo(np.int64).max
_LINE = 64  # bytes of a cache line
_NONE = 65535  # LARGEST of measure


@njit(cache=True, nogil=True)
def nearest_lists(centroids, vectors, counts, nprobe):
    """The ``nprobe`` lists nearest to each query, nearest first: int64 [Q, nprobe], and distances.

    centroids: float32 [n * d, nlist]; vectors: float32 [Q, n * d]; counts: bool [Q, n * d], which
    dimensions contribute. One query at a time and one order of summation, unlike a matrix product,
    whose rounding depends on the batch. Distances: float32 [Q, nprobe], squared L2.
    """
    dimensions, nlist = centroids.shape
    probes = np.empty((len(vectors), nprobe), np.int64)
    near = np.empty((len(vectors), nprobe), np.float32)
    total = np.empty(nlist, np.float32)
    for q in range(len(vectors)):
        total[:] = np.float32(0)
        for axis in range(dimensions):
            if counts[q, axis]:
                centre = vectors[q, axis]
                row = centroids[axis]
                for j in range(nlist):
                    step = row[j] - centre
                    total[j] += step * step
        distances = np.full(nprobe, np.float32(np.inf))
        lists = np.full(nprobe, np.int64(nlist))
        unused = np.empty(nprobe, np.int64)
        for j in range(nlist):
            if total[j] < distances[0] or (total[j] == distances[0] and j < lists[0]):
                replace_worst(distances, lists, unused, total[j], j, 0)
        order = np.argsort(distances, kind="mergesort")
        probes[q], near[q] = lists[order], distances[order]
    return probes, near


@njit(cache=True, nogil=True)
def _gap(centroids, one, other, nearer, farther, tolerance):
    """Squared distance, at least, of a query to the entries of list ``other``.

    They are no farther from their own centroid than from ``one``'s, save ``tolerance`` in the
    squares: they lie beyond the plane between the two. nearer, farther: the query's distances.
    """
    apart = 0.0
    for axis in range(centroids.shape[1]):
        step = np.float64(centroids[one, axis]) - np.float64(centroids[other, axis])
        apart += step * step
    beyond = np.float64(farther) - np.float64(nearer) - tolerance
    return beyond * beyond / (4.0 * apart) if beyond > 0 else 0.0


@njit(cache=True, nogil=True)
def _add_up(sums, words, rows, query):
    """Sums of bounds of a list's rows, uint16 [R]; words: uint64 [R, n / 4], four codes each."""
    low = np.uint64(0xFFFF)
    for group in range(words.shape[1]):
        a, b = rows[query[4 * group]], rows[query[4 * group + 1]]
        c, d = rows[query[4 * group + 2]], rows[query[4 * group + 3]]
        for j in range(np.uint64(len(words))):
            word = words[j, group]
            left = a[word & low] + b[(word >> np.uint64(16)) & low]
            right = c[(word >> np.uint64(32)) & low] + d[word >> np.uint64(48)]
            sums[j] = left + right if group == 0 else sums[j] + left + right


@njit(cache=True, nogil=True)
def _within(numbers, hits, sums, limit):
    """Numbers of the sums within the limit, ascending; hits: uint8 [CHUNK]. Returns how many."""
    for j in range(np.uint64(len(sums))):
        hits[j] = sums[j] <= limit
    eights, count = hits.view(np.uint64), np.uint64(0)
    for eight in range(np.uint64((len(sums) + 7) // 8)):
        if eights[eight] == 0:
            continue
        for j in range(
            np.uint64(8) * eight, min(np.uint64(8) * (eight + np.uint64(1)), np.uint64(len(sums)))
        ):
            numbers[count] = j
            count += np.uint64(hits[j])
    return count


@njit(cache=True, nogil=True)
def _fetch_rows(flat, width, start, stop):
    """Ask for rows of lists, ``width`` codes each; flat: all lists, uint16."""
    for at in range(start * width, stop * width, _LINE // 2):
        fetch(flat, at)


@njit(cache=True, nogil=True)
def scan_lists(lists, ids, offsets, at, coarse, unit, rows, slots, state, found, error):
    """Note the rows of the probed lists that may be among the nearest.

    lists: (uint16 [E * (n + 1)], neighbours' codes and the patch's own; the neighbours' again,
    uint64 [E, n / 4]); ids: entry of each row, ascending within a list; offsets: int64 [nlist + 1].
    at: int64 [3], query, probe and row of its list to go on from, updated; the scan is over when
    the query is the last one's successor. coarse: centroids float32 [nlist, n * d]; probes and
    distances from ``nearest_lists``; tolerance float64 [Q], how much nearer another centroid may be
    than an entry's own, in squares, negative if lists say nothing of distances, because some
    dimensions do not count. A list that cannot hold an entry among the nearest is left out. unit:
    bounds per unit of distance. rows: uint16 [U, V + 1], bounds; slots: int64 [Q, n], rows of it.
    state: limits int32 [Q], least sums int32 [Q, k], rows scanned int64 [Q], all updated; last
    entry that can be among the nearest, int64 [Q]. found: queries int32, sums int32, rows of the
    lists int64, all [C]. error: above 1 by what rounding can do. Returns how many are noted.
    """
    flat, words = lists
    centroids, probes, near, tolerance = coarse
    limits, least, scanned, last = state
    queries, totals, places = found
    n, count = slots.shape[1], 0
    sums, hits = np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
    numbers = np.empty(CHUNK + 8, np.uint16)
    for q in range(at[0], len(slots)):
        worst, one = least[q], probes[q, 0]
        for p in range(at[1], probes.shape[1]):
            probe, following = probes[q, p], probes[q, min(p + 1, probes.shape[1] - 1)]
            if p > 0 and at[2] == 0 and tolerance[q] >= 0 and limits[q] < _NONE:
                gap = _gap(centroids, one, probe, near[q, 0], near[q, p], tolerance[q])
                if gap * unit > (limits[q] + 1) * error:
                    continue
            ahead, end = offsets[following], offsets[following + 1]
            for start in range(offsets[probe] + at[2], offsets[probe + 1], CHUNK):
                stop = min(start + CHUNK, offsets[probe + 1])
                if count + CHUNK > len(queries):
                    at[0], at[1], at[2] = q, p, start - offsets[probe]
                    return count
                if last[q] < _ALL and ids[start] > last[q]:
                    break
                _fetch_rows(flat, n + 1, ahead, min(ahead + CHUNK, end))
                ahead += CHUNK
                scanned[q] += stop - start
                some = sums[: stop - start]
                _add_up(some, words[start:stop], rows, slots[q])
                inside = _within(numbers, hits, some, np.uint16(limits[q]))
                for e in range(inside):
                    total, row = np.int32(some[numbers[e]]), start + np.int64(numbers[e])
                    if total > limits[q]:
                        continue
                    queries[count], totals[count], places[count] = q, total, row
                    count += 1
                    if total < worst[0]:
                        replace_largest(worst, total)
                        if worst[0] < _NONE:
                            limits[q] = min(limits[q], np.int64((worst[0] + n) * error) + 1)
            at[2] = 0
        at[1] = 0
    at[0] = len(slots)
    return count


@njit(cache=True, nogil=True)
def read_rows(found, count, limits, lists, ids):
    """What ``measure.rerank_exact`` wants of the noted rows that are still within the limits.

    found: as for ``scan_lists``, and codes uint16 [C, n + 1]; rows become entries, and those that
    are left move up. lists: uint16 [E, n + 1]; ids: entry of each row. Returns how many are left.
    """
    queries, totals, places, codes = found
    kept = 0
    for f in range(count):
        if totals[f] > limits[queries[f]]:
            continue
        row = places[f]
        for i in range(lists.shape[1]):
            codes[kept, i] = lists[row, i]
        queries[kept], totals[kept], places[kept] = queries[f], totals[f], ids[row]
        kept += 1
    return kept
