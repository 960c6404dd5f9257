"""Mode ivf: search the inverted lists nearest to a query. Distances within them are exact.

A search adds up the bounds of the entries of ``nprobe`` lists, 2 (n + 1) bytes an entry. Entries
within the limit, which the k-th least sum so far sets, become candidates; only their numbers are
read from the file of ids. How lists are built and stored: ``arrag.retrieval.ivf_lists``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

from arrag.data.token_store import TokenStore
from arrag.retrieval import ivf_lists
from arrag.retrieval._avx512 import prefetch
from arrag.retrieval.base import BuildOptions, Fields, PatchIndex
from arrag.retrieval.device import ListScan, fits
from arrag.retrieval.distances import (
    MAX_BOUND,
    Heap,
    empty_candidates,
    empty_heap,
    replace_largest,
    replace_worst,
    rerank_exact,
)
from arrag.retrieval.keys import KeyExtractor
from arrag.retrieval.meta import META, REBUILD, IndexMeta
from arrag.retrieval.neighborhood import MISSING
from arrag.utils.errors import FormatError, UsageError

CHUNK = 256
"""Rows of a list whose sums are held at once."""
ROOM = 8 * CHUNK
"""Candidates noted before they are measured."""
_ALL = np.iinfo(np.int64).max
_LINE = 64  # bytes of a cache line
_UNSET = 65535  # MAX_BOUND: no limit yet


class IvfIndex(PatchIndex):
    """Search the ``nprobe`` lists nearest to a query."""

    def _load(self) -> None:
        for field in ("nprobe", "nlist", "seed", "trained_images"):
            if getattr(self.meta, field) is None:
                raise FormatError("missing", path=self.path / META, field=field, hint=REBUILD)
        if not 1 <= self.nprobe <= self.meta.nlist:
            raise UsageError(
                f"found {self.nprobe}, the index has {self.meta.nlist} lists",
                path=self.path,
                field="nprobe",
                hint="use 1 <= nprobe <= nlist",
            )
        self.lists = ivf_lists.read_lists(self.path, self.store, self.meta)
        self._centroids = np.ascontiguousarray(self.lists.centroids.T)  # float32 [n * d, nlist]
        # Four codes at a time (little-endian), as the rows are no multiple of eight bytes.
        rows, width = self.lists.codes.shape
        shape, strides = (rows, width // 4), (2 * width, 8)
        self._words = np.ndarray(shape, np.dtype("<u8"), self.lists.codes, strides=strides)
        # An entry's list is that of the nearest centroid but for the rounding of FAISS's products:
        # about D 2^-24 |x|² each, for two centroids.
        longest = len(self.neighborhood.offsets) * self._longest
        self._tolerance = 16 * len(self._centroids) * 2.0**-24 * longest

    @classmethod
    def build(cls, store: TokenStore, path: Path, meta: IndexMeta, options: BuildOptions) -> Fields:
        """Train the centroids and write the lists."""
        return ivf_lists.build_lists(KeyExtractor(store, meta.neighborhood), path, options)

    def extend(self, store: TokenStore, path: Path, *, progress: bool) -> Fields:
        """Keep the centroids, assign the new images only."""
        extractor, old = KeyExtractor(store, self.neighborhood), (self.meta.images, self.lists)
        kept = self.meta.model_dump(include={"nlist", "nprobe", "seed", "trained_images"})
        return kept | ivf_lists.write_lists(extractor, path, self.lists.centroids, progress, old)

    def check_contents(self) -> None:
        """Raise FormatError for a code outside the codebook, or an entry outside the store."""
        ivf_lists.check_lists(self.path, self.store, self.lists)

    def info(self) -> dict[str, Any]:
        """What the index holds, and the ``nprobe`` that searches use."""
        return {**super().info(), "nprobe": self.nprobe}

    def nearest_lists(self, keys: np.ndarray) -> np.ndarray:
        """The ``nprobe`` lists nearest to queries int64 [Q, n]: int64 [Q, nprobe]."""
        return self._probes(keys)[0]

    def _scan_for(self, device: torch.device) -> Callable[[np.ndarray, int], Heap]:
        size = self.lists.codes.nbytes + 8 * len(self.lists.ids)
        return ListScan(self, device).scan if fits(size, device) else self._scan

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        probes, near, tolerance = self._probes(keys)
        rows, slots, keys = self._rows(keys)
        heap = empty_heap(len(keys), k)
        self._scan_probes(probes, near, tolerance, rows, slots, keys, heap)
        return heap

    def _probes(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nearest lists of queries int64 [Q, n], their distances, and the tolerance [Q] of them."""
        counts = np.ones(keys.shape, bool)
        if self.neighborhood.masked_distance:
            counts = keys != MISSING
        tolerance = np.where(counts.all(axis=1), self._tolerance, -1.0)
        counts = np.repeat(counts, self.points.shape[1], axis=1)
        vectors = self.points[keys].reshape(len(keys), -1)  # MISSING = -1 reads the last, zero
        found = nearest_lists(self._centroids, vectors, counts, self.nprobe)
        return *found, tolerance

    def _scan_probes(self, probes, near, tolerance, rows, slots, keys, heap) -> np.ndarray:
        """Scan the probed lists; see ``scan_lists``. Returns how many entries: int64 [Q]."""
        count, k = heap[0].shape
        at, candidates = np.zeros(3, np.int64), empty_candidates(ROOM, keys.shape[1])
        limits, scanned = np.full(count, MAX_BOUND, np.int32), np.zeros(count, np.int64)
        last = np.full(count, _ALL)
        state = limits, np.full((count, k), MAX_BOUND, np.int32), scanned, last
        while at[0] < count:
            noted = scan_lists(
                (self.lists.codes.reshape(-1), self._words),
                self.lists.ids,
                self.lists.offsets,
                at,
                (self.lists.centroids, probes, near, tolerance),
                self._unit,
                rows,
                slots,
                state,
                candidates[:3],
                self._error,
            )
            noted = read_rows(candidates, noted, limits, self.lists.codes, self.lists.ids)
            rerank_exact(candidates, noted, limits, keys, self.points, self.scale, heap)
            # Once k entries are at distance zero, later ones lose every tie.
            full = heap[0][:, 0] == 0
            last[full] = heap[1][full, 0]
        return scanned


@njit(cache=True, nogil=True)
def nearest_lists(centroids, vectors, counts, nprobe):
    """The ``nprobe`` lists nearest to each query, nearest first.

    One query at a time and one order of summation: a matrix product rounds by the batch.

    Args:
        centroids: float32 [n * d, nlist].
        vectors: float32 [Q, n * d].
        counts: bool [Q, n * d], which dimensions contribute.
        nprobe: How many lists.

    Returns:
        Lists int64 [Q, nprobe], and their squared L2 distances float32 [Q, nprobe].
    """
    dimensions, nlist = centroids.shape
    probes = np.empty((len(vectors), nprobe), np.int64)
    near = np.empty((len(vectors), nprobe), np.float32)
    total = np.empty(nlist, np.float32)
    for q in range(len(vectors)):
        total[:] = np.float32(0)
        for axis in range(dimensions):
            if counts[q, axis]:
                center = vectors[q, axis]
                row = centroids[axis]
                for j in range(nlist):
                    step = row[j] - center
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
def _prefetch_rows(flat, width, start, stop):
    """Ask for rows of lists, ``width`` codes each; flat: all lists, uint16."""
    for at in range(start * width, stop * width, _LINE // 2):
        prefetch(flat, at)


@njit(cache=True, nogil=True)
def scan_lists(lists, ids, offsets, at, coarse, unit, rows, slots, state, candidates, error):
    """Note candidates in the probed lists, until all are scanned or there is no more room.

    A list that cannot hold an entry among the k nearest is left out.

    Args:
        lists: Codes uint16 [E * (n + 1)], of the neighbours and the patch itself; those of the
            neighbours again, as uint64 [E, n / 4].
        ids: [E], the entry of each row, ascending within a list.
        offsets: int64 [nlist + 1].
        at: int64 [3], query, probe and row of its list to continue at; updated. The scan is
            complete when the query is Q.
        coarse: Centroids float32 [nlist, n * d]; probes and distances from ``nearest_lists``;
            tolerance float64 [Q], how much nearer, in squares, another centroid may be than that
            of an entry's list; negative if some dimensions do not count, when lists say nothing
            of distances.
        unit: Bounds per unit of distance.
        rows: uint16 [R, V + 1], bounds.
        slots: int64 [Q, n], the row of each neighbour.
        state: limits int32 [Q], least sums int32 [Q, k], entries scanned int64 [Q], all updated;
            the last entry that can be among the k nearest, int64 [Q].
        candidates: Queries int32, sums int32, rows of the lists int64, all [C]; filled.
        error: Above 1 by what rounding can do.

    Returns:
        The number of candidates.
    """
    flat, words = lists
    centroids, probes, near, tolerance = coarse
    limits, least, scanned, last = state
    queries, totals, places = candidates
    n, count = slots.shape[1], 0
    sums, hits = np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
    numbers = np.empty(CHUNK + 8, np.uint16)
    for q in range(at[0], len(slots)):
        worst, one = least[q], probes[q, 0]
        for p in range(at[1], probes.shape[1]):
            probe, following = probes[q, p], probes[q, min(p + 1, probes.shape[1] - 1)]
            if p > 0 and at[2] == 0 and tolerance[q] >= 0 and limits[q] < _UNSET:
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
                _prefetch_rows(flat, n + 1, ahead, min(ahead + CHUNK, end))
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
                        if worst[0] < _UNSET:
                            limits[q] = min(limits[q], np.int64((worst[0] + n) * error) + 1)
            at[2] = 0
        at[1] = 0
    at[0] = len(slots)
    return count


@njit(cache=True, nogil=True)
def read_rows(candidates, count, limits, lists, ids):
    """Read what ``rerank_exact`` needs of the candidates that are still within the limits.

    Rows become entries, and the candidates that are left move up. Returns their number.
    """
    queries, totals, places, codes = candidates
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
