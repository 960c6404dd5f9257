"""The exact scan: note the entries of all grids that may be among the k nearest.

The codes are divided into 256 groups of codes near to each other. The bound of a group is the
least of its codes' bounds; scaled to a byte, the bounds of all groups are a table of 256 bytes.
For every entry the groups of its neighbours are looked up in such tables and added: that is all
the work for 99 entries in 100. For the others the codes' own bounds are added up. What is still
within the limit, which the k-th least sum so far sets, becomes a candidate for ``rerank_exact``.

Grids are laid out one after the other, with a margin where neighbours may be off the grid, so that
a neighbour is the same number of places away from every entry: the loops know no rows or images.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from arrag.retrieval._avx512 import add_looked_up, append_within, prefetch
from arrag.retrieval.distances import replace_largest

GROUPS = 256
BLOCK = 4096
"""Places scanned together: their sums and codes fit the first-level cache."""
_FIRST_BLOCK = 512  # under the first, loose limit; later blocks are twice as large each
_MAX_SUM = 254  # the limit in units of the tables; 255 is beyond it
_UNSET = 65535  # MAX_BOUND: no limit yet


def balanced_clusters(points: np.ndarray) -> np.ndarray:
    """Codes by group: float32 [P, d] -> int64 [GROUPS, s], s = P / GROUPS rounded up.

    Split in halves at the median along the line between two codes far apart, eight times. A group
    that is one code short repeats one; if there are fewer codes than groups, groups repeat.
    """
    groups = [np.arange(len(points))]
    while len(groups) < GROUPS:
        groups = [half for group in groups for half in _halves(points, group)]
    held, longest = max(groups, key=len), max(map(len, groups))
    table = np.empty((GROUPS, longest), np.int64)
    for row, group in zip(table, groups, strict=True):
        held = group if len(group) else held
        row[: len(held)], row[len(held) :] = held, held[0]
    return table


def _halves(points: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(members) > 1:
        steps = points[members] - points[members].mean(axis=0)
        one = steps[(steps**2).sum(axis=1).argmax()]
        other = steps[((steps - one) ** 2).sum(axis=1).argmax()]
        members = members[np.argsort(steps @ (one - other), kind="stable")]
    return members[: len(members) // 2], members[len(members) // 2 :]


@njit(cache=True, nogil=True)
def group_bounds(bounds, rows, slots):
    """Fill the least bound of each group: uint16 [Q, n, GROUPS].

    Args:
        bounds: Filled.
        rows: uint16 [R, GROUPS * s], bounds of the codes, group by group.
        slots: int64 [Q, n], the row of each neighbour.
    """
    queries, n, groups = bounds.shape
    size = rows.shape[1] // groups
    for q in range(queries):
        for i in range(n):
            row = rows[slots[q, i]]
            for group in range(groups):
                members, least = row[group * size : (group + 1) * size], np.uint16(_UNSET)
                for code in range(np.uint64(size)):
                    least = min(least, members[code])
                bounds[q, i, group] = least


@njit(cache=True, nogil=True)
def _set_tables(tables, bounds, limit):
    """Bounds of groups as bytes, uint8 [n, GROUPS]: sums up to ``limit`` are up to _MAX_SUM."""
    factor = np.float32(_MAX_SUM / max(limit, 1) * (1.0 - 1e-5))
    for i in range(len(tables)):
        table, bound = tables[i], bounds[i]
        for group in range(len(table)):
            table[group] = np.uint8(min(bound[group] * factor, np.float32(255)))


@njit(cache=True, nogil=True)
def _add_looked_up(sums, groups, starts, tables, buffer):
    """What ``_avx512.add_looked_up`` does, on any processor; buffer: uint32, scratch space."""
    packed, byte = np.zeros(tables.shape[1], np.uint32), np.uint32(255)
    for i in range(4):
        for group in range(len(packed)):
            packed[group] |= np.uint32(tables[i, group]) << np.uint32(8 * i)
    here = groups[starts.min() : starts.max() + len(sums)]
    for e in range(np.uint64(len(here))):
        buffer[e] = packed[here[e]]
    a, b = buffer[starts[0] - starts.min() :], buffer[starts[1] - starts.min() :]
    c, d = buffer[starts[2] - starts.min() :], buffer[starts[3] - starts.min() :]
    for e in range(np.uint64(len(sums))):
        left = (a[e] & byte) + ((b[e] >> np.uint32(8)) & byte)
        right = ((c[e] >> np.uint32(16)) & byte) + (d[e] >> np.uint32(24))
        sums[e] = np.uint8(min(np.uint32(sums[e]) + left + right, byte))


@njit(cache=True, nogil=True)
def _places_within(places, sums, groups, first, steps, tables, buffer, wide):
    """Fill ``places``, uint16, with the places whose sum is within _MAX_SUM; return their number.

    sums: uint8 [R], R a multiple of 64, at first 255 at places that are no entries. groups: uint8,
    the group at the first place is ``groups[first]``. steps: int64 [n], to the neighbours.
    """
    starts = first + steps
    for i in range(0, len(steps), 4):
        if wide:
            add_looked_up(sums, groups, starts[i : i + 4], tables[i : i + 4])
        else:
            _add_looked_up(sums, groups, starts[i : i + 4], tables[i : i + 4], buffer)
    if wide:
        return append_within(places, sums, np.uint8(_MAX_SUM))
    count = np.uint64(0)
    for e in range(np.uint64(len(sums))):
        places[count] = np.uint16(e)
        count += np.uint64(sums[e] <= _MAX_SUM)
    return count


@njit(cache=True, nogil=True)
def _add_code_bounds(places, totals, count, planes, first, steps, rows, slots, limit):
    """Add up the codes' own bounds, int32 ``totals``; keep the places within the limit."""
    groups, members = planes
    n, kept = len(slots), np.uint64(0)
    size = np.uint64(rows.shape[1] // GROUPS)
    for e in range(count):
        place, total = np.uint64(first) + np.uint64(places[e]), np.int32(0)
        for i in range(0, n, 4):
            a, b = place + np.uint64(steps[i]), place + np.uint64(steps[i + 1])
            c, d = place + np.uint64(steps[i + 2]), place + np.uint64(steps[i + 3])
            left = np.int32(rows[slots[i], groups[a] * size + members[a]])
            left += np.int32(rows[slots[i + 1], groups[b] * size + members[b]])
            right = np.int32(rows[slots[i + 2], groups[c] * size + members[c]])
            right += np.int32(rows[slots[i + 3], groups[d] * size + members[d]])
            total += left + right
            if total > limit:
                break
        places[kept], totals[kept] = places[e], total
        kept += np.uint64(total <= limit)
    return kept


@njit(cache=True, nogil=True)
def _add_candidate(candidates, count, q, place, total, planes, layout, codes, start):
    """Make the entry at ``place`` the candidate number ``count``."""
    groups, members = planes
    (height, width, margin), before, steps, _ = layout
    queries, totals, entries, around = candidates
    size, n = len(codes) // GROUPS, len(steps)
    for i in range(n):
        to = before + place + steps[i]
        around[count, i] = codes[groups[to] * size + members[to]]
    to = before + place
    around[count, n] = codes[groups[to] * size + members[to]]
    image, rest = divmod(place, (height + margin) * (width + margin))
    row, column = divmod(rest, width + margin)
    queries[count], totals[count] = q, total
    entries[count] = ((start + image) * height + row) * width + column


@njit(cache=True, nogil=True)
def scan_grids(planes, start, at, layout, rows, slots, codes, state, candidates, error, wide):
    """Note candidates in the images of a shard, until all are scanned or there is no more room.

    Args:
        planes: Groups of the codes and places within them, both uint8, laid out as in ``layout``.
        start: Number of the first image.
        at: int64 [2], query and place to continue at; updated. The scan of the shard is complete
            when the query is Q.
        layout: (height, width, margin); how many bytes precede the first place; steps int64 [n] to
            the neighbours; bias uint8 [m + BLOCK] of the m places of an image, repeated: 255 at
            places that are no entries.
        rows: uint16 [R, GROUPS * s], bounds.
        slots: int64 [Q, n], the row of each neighbour.
        codes: uint16 [GROUPS * s], the code of a group and a place in it.
        state: limits int32 [Q], negative when a query is done; least sums int32 [Q, k]; length of
            the last block int64 [Q]; bounds of groups uint16 [Q, n, GROUPS]. All but the last are
            updated.
        candidates: See ``Candidates``; filled from the start.
        error: Above 1 by what rounding can do.
        wide: Use the AVX-512 instructions.

    Returns:
        The number of candidates.
    """
    shape, before, steps, bias = layout
    limits, least, lengths, group = state
    groups, members = planes
    n, image = len(steps), (shape[0] + shape[2]) * (shape[1] + shape[2])
    end = len(groups) - before - BLOCK - max(0, steps.max())
    tables = np.empty((n, group.shape[2]), np.uint8)
    all_sums = np.empty(BLOCK, np.uint8)
    buffer = np.empty(BLOCK + steps.max() - steps.min(), np.uint32)
    places, totals, count = np.empty(BLOCK + 64, np.uint16), np.empty(BLOCK, np.int32), 0
    for q in range(at[0], len(slots)):
        worst, scaled_to = least[q], np.int64(2**40)
        begin = at[1]
        while begin < end and limits[q] >= 0:
            if count + BLOCK > len(candidates[0]):
                at[0], at[1] = q, begin
                return count
            if limits[q] < scaled_to * 0.98:
                scaled_to = np.int64(limits[q])
                _set_tables(tables, group[q], scaled_to)
            lengths[q] = min(max(2 * lengths[q], _FIRST_BLOCK), BLOCK)
            sums, outside = all_sums[: lengths[q]], bias[begin % image :]
            for e in range(np.uint64(len(sums))):
                sums[e] = outside[e]
            first = before + begin
            some = _places_within(places, sums, groups, first, steps, tables, buffer, wide)
            if some > len(sums) // 256:  # then most lines of the next block will be read
                for line in range(first + BLOCK, min(first + 2 * BLOCK, len(members)), 64):
                    prefetch(members, line)
            kept = _add_code_bounds(
                places, totals, some, planes, first, steps, rows, slots[q], limits[q]
            )
            for e in range(kept):
                place, total = begin + np.int64(places[e]), totals[e]
                if total > limits[q] or place >= end:
                    continue
                _add_candidate(candidates, count, q, place, total, planes, layout, codes, start)
                count += 1
                if total < worst[0]:
                    replace_largest(worst, total)
                    if worst[0] < _UNSET:
                        limits[q] = min(limits[q], np.int64((worst[0] + n) * error) + 1)
            begin += len(sums)
        at[1] = 0
    at[0] = len(slots)
    return count
