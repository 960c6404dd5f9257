"""The exact scan: which entries of the grids may be among the nearest.

The bound of a group of codes (see ``order``) is the least of its codes. For every entry the bounds
of its neighbours' groups, a byte each, are looked up and added: that is the whole of the work for
all but one entry in a hundred. For those the codes' own bounds are added up, and the few that are
still within the limit are noted, to be measured. The limit is what the k-th least sum allows.

Grids lie one after the other, with a margin where neighbours may be off the grid, so that the
neighbour of every entry is the same number of places away: the loops know no rows and no images.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from arrag.retrieval._avx512 import add_looked_up, append_within, fetch
from arrag.retrieval.topk import replace_largest

BLOCK = 4096
"""Places looked at together: what is known of them fits the first cache."""
_FIRST = 512  # with the first limit; later blocks are twice as large
_MOST = 254  # the limit, as sum of bytes
_NONE = 65535  # LARGEST of measure


@njit(cache=True, nogil=True)
def group_bounds(bounds, rows, slots):
    """Least bounds of groups: fills uint16 [Q, n, GROUPS] of rows [U, GROUPS * s], slots [Q, n]."""
    queries, n, groups = bounds.shape
    size = rows.shape[1] // groups
    for q in range(queries):
        for i in range(n):
            row = rows[slots[q, i]]
            for group in range(groups):
                members, least = row[group * size : (group + 1) * size], np.uint16(_NONE)
                for code in range(np.uint64(size)):
                    least = min(least, members[code])
                bounds[q, i, group] = least


@njit(cache=True, nogil=True)
def _set_tables(tables, bounds, limit):
    """Bounds of groups as bytes, uint8 [n, GROUPS]: sums of up to ``limit`` are up to _MOST."""
    factor = np.float32(_MOST / max(limit, 1) * (1.0 - 1e-5))
    for i in range(len(tables)):
        table, bound = tables[i], bounds[i]
        for group in range(len(table)):
            table[group] = np.uint8(min(bound[group] * factor, np.float32(255)))


@njit(cache=True, nogil=True)
def _add_four(sums, groups, starts, tables, looked):
    """What ``instructions.add_looked_up`` does, for any processor.

    looked: uint32, room for what is looked up: at each place, four bytes for four neighbours.
    """
    packed, byte = np.zeros(tables.shape[1], np.uint32), np.uint32(255)
    for i in range(4):
        for group in range(len(packed)):
            packed[group] |= np.uint32(tables[i, group]) << np.uint32(8 * i)
    here = groups[starts.min() : starts.max() + len(sums)]
    for e in range(np.uint64(len(here))):
        looked[e] = packed[here[e]]
    a, b = looked[starts[0] - starts.min() :], looked[starts[1] - starts.min() :]
    c, d = looked[starts[2] - starts.min() :], looked[starts[3] - starts.min() :]
    for e in range(np.uint64(len(sums))):
        left = (a[e] & byte) + ((b[e] >> np.uint32(8)) & byte)
        right = ((c[e] >> np.uint32(16)) & byte) + (d[e] >> np.uint32(24))
        sums[e] = np.uint8(min(np.uint32(sums[e]) + left + right, byte))


@njit(cache=True, nogil=True)
def _look_up(places, sums, groups, first, steps, tables, looked, wide):
    """Which sums are up to _MOST: fills places, uint16; returns how many.

    sums: uint8 [R], R a multiple of 64, at first 255 at places that are no entries. groups: uint8,
    that of the first place at ``first``; steps: int64 [n], to the neighbours. looked: see
    ``_add_four``.
    """
    starts = first + steps
    for i in range(0, len(steps), 4):
        if wide:
            add_looked_up(sums, groups, starts[i : i + 4], tables[i : i + 4])
        else:
            _add_four(sums, groups, starts[i : i + 4], tables[i : i + 4], looked)
    if wide:
        return append_within(places, sums, np.uint8(_MOST))
    count = np.uint64(0)
    for e in range(np.uint64(len(sums))):
        places[count] = np.uint16(e)
        count += np.uint64(sums[e] <= _MOST)
    return count


@njit(cache=True, nogil=True)
def _add_up(places, totals, count, groups, within, first, steps, rows, query, limit):
    """Sums of the codes' own bounds, int32; places within the limit move up; returns how many."""
    n, kept = len(query), np.uint64(0)
    size = np.uint64(rows.shape[1] // 256)
    for e in range(count):
        place, total = np.uint64(first) + np.uint64(places[e]), np.int32(0)
        for i in range(0, n, 4):
            a, b = place + np.uint64(steps[i]), place + np.uint64(steps[i + 1])
            c, d = place + np.uint64(steps[i + 2]), place + np.uint64(steps[i + 3])
            left = np.int32(rows[query[i], groups[a] * size + within[a]])
            left += np.int32(rows[query[i + 1], groups[b] * size + within[b]])
            right = np.int32(rows[query[i + 2], groups[c] * size + within[c]])
            right += np.int32(rows[query[i + 3], groups[d] * size + within[d]])
            total += left + right
            if total > limit:
                break
        places[kept], totals[kept] = places[e], total
        kept += np.uint64(total <= limit)
    return kept


@njit(cache=True, nogil=True)
def _note(found, count, q, place, total, planes, layout, codes, start):
    """Put the entry at ``place`` among those to be measured."""
    groups, within = planes
    (height, width, margin), before, steps, _ = layout
    queries, totals, entries, around = found
    size, n = len(codes) // 256, len(steps)
    for i in range(n):
        to = before + place + steps[i]
        around[count, i] = codes[groups[to] * size + within[to]]
    to = before + place
    around[count, n] = codes[groups[to] * size + within[to]]
    image, rest = divmod(place, (height + margin) * (width + margin))
    row, column = divmod(rest, width + margin)
    queries[count], totals[count] = q, total
    entries[count] = ((start + image) * height + row) * width + column


@njit(cache=True, nogil=True)
def scan_grids(planes, start, at, layout, rows, slots, codes, state, found, error, wide):
    """Note the entries of some images that may be among the nearest, until no more can be noted.

    planes: groups and places within them of images ``start`` and following, both uint8, laid out as
    ``layout`` says: shape (height, width, margin); how many bytes precede the first place; steps
    int64 [n] to the neighbours; bias uint8 [m + BLOCK], of the m places of an image and on, 255 at
    those that are no entries. at: int64 [2], query and place to go on from, updated; the scan is
    over when the query is the last one's successor. rows: uint16 [U, V'], bounds; slots: int64
    [Q, n], rows of it. codes: uint16 [V'], of a group and a place within. state: limits int32 [Q],
    negative when a query is done; least sums int32 [Q, k]; last block's length int64 [Q]; bounds
    of groups uint16 [Q, n, GROUPS]; all but the last are updated. found: see ``rerank_exact``.
    error: above 1 by what rounding can do. wide: use ``instructions``. Returns how many are noted.
    """
    shape, before, steps, bias = layout
    limits, least, lengths, group = state
    groups, within = planes
    n, image = len(steps), (shape[0] + shape[2]) * (shape[1] + shape[2])
    end = len(groups) - before - BLOCK - max(0, steps.max())
    tables = np.empty((n, group.shape[2]), np.uint8)
    buffer = np.empty(BLOCK, np.uint8)
    looked = np.empty(BLOCK + steps.max() - steps.min(), np.uint32)
    places, totals, count = np.empty(BLOCK + 64, np.uint16), np.empty(BLOCK, np.int32), 0
    for q in range(at[0], len(slots)):
        worst, made = least[q], np.int64(2**40)
        begin = at[1]
        while begin < end and limits[q] >= 0:
            if count + BLOCK > len(found[0]):
                at[0], at[1] = q, begin
                return count
            if limits[q] < made * 0.98:
                made = np.int64(limits[q])
                _set_tables(tables, group[q], made)
            lengths[q] = min(max(2 * lengths[q], _FIRST), BLOCK)
            sums, outside = buffer[: lengths[q]], bias[begin % image :]
            for e in range(np.uint64(len(sums))):
                sums[e] = outside[e]
            first = before + begin
            some = _look_up(places, sums, groups, first, steps, tables, looked, wide)
            if some > len(sums) // 256:  # then most lines of the next block will be read
                for line in range(first + BLOCK, min(first + 2 * BLOCK, len(within)), 64):
                    fetch(within, line)
            kept = _add_up(
                places, totals, some, groups, within, first, steps, rows, slots[q], limits[q]
            )
            for e in range(kept):
                place, total = begin + np.int64(places[e]), totals[e]
                if total > limits[q] or place >= end:
                    continue
                _note(found, count, q, place, total, planes, layout, codes, start)
                count += 1
                if total < worst[0]:
                    replace_largest(worst, total)
                    if worst[0] < _NONE:
                        limits[q] = min(limits[q], np.int64((worst[0] + n) * error) + 1)
            begin += len(sums)
        at[1] = 0
    at[0] = len(slots)
    return count
