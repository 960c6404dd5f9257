"""The inner loops, compiled by numba.

A squared L2 distance is a sum over neighbours. Three steps find the least: small lower bounds,
looked up in tables that fit the caches and added up for every entry; for the few that this lets
through the rounded distance; for those near enough the distance itself. Distances are whole numbers
(int64 fixed point, see ``FIXED_BITS``), hence a sum is exact in any order: permuted keys tie, and a
row's result cannot depend on the batch, the block size or the order in which lists are scanned. A
sum is then rounded to float32, and results are ordered by (float32, entry): what is returned is
sorted by what can be seen of it. Bounds decide which entries are measured, never what is returned.

They are in one file because numba's cache does not notice a change in another one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FIXED_BITS = 60
"""Sums of fixed-point distances stay below 2 to this power."""
FAR = np.float32(np.inf)
"""Distance of an empty slot."""
GROUP = 4
"""Neighbours whose bounds share a byte in the scan of grids; their number is a multiple of it."""
NO_ENTRY = 0x80
"""Added to the bounds at places that are no entries: more than any limit."""
_CHUNK = 512  # rows of a list between two looks at the bounds' unit
_FOUND = 8 * _CHUNK  # rows noted before they are measured
_COLUMNS = 1024  # codes whose distances are computed together: their vectors fit the first cache
_LEAST = np.float64(1 << 30)  # smaller distances, fixed point, share the unit of this one


@njit(cache=True, nogil=True)
def distance_rows(vectors, codes, rows):
    """Squared L2 from some codes to all, rounded: fills rows float32 [U, V + 1].

    vectors: float32 [d, V + 1], the last column zero (a missing neighbour). codes: int64 [U];
    V + 1 stands for a neighbour that does not count and gives zeros. The relative error is at most
    (d + 3) 2^-24.
    """
    dimension, width = vectors.shape
    rows[:] = np.float32(0)
    for start in range(0, width, _COLUMNS):
        for u in range(len(codes)):
            if codes[u] >= width:
                continue
            row = rows[u, start : start + _COLUMNS]
            for axis in range(dimension):
                centre, line = vectors[axis, codes[u]], vectors[axis, start : start + _COLUMNS]
                for held in range(len(row)):
                    step = line[held] - centre
                    row[held] += step * step


@njit(cache=True, nogil=True)
def distance(points, scale, asked, held):
    """Fixed-point squared L2 between two codes: one order of summation, rounded once.

    points: float32 [V + 1, d], the last one zero; asked: V + 1 if it does not count.
    """
    if asked >= len(points):
        return np.int64(0)
    total = 0.0
    for axis in range(points.shape[1]):
        step = np.float64(points[held, axis]) - np.float64(points[asked, axis])
        total += step * step
    return np.int64(np.rint(total * scale))


@njit(cache=True, nogil=True)
def replace_worst(distances, entries, codes, distance, entry, code):
    """Put a candidate in place of the root of a max-heap ordered by (distance, entry)."""
    size = len(distances)
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            distances[right] > distances[child]
            or (distances[right] == distances[child] and entries[right] > entries[child])
        ):
            child = right
        if distances[child] < distance or (distances[child] == distance and entries[child] < entry):
            break
        distances[hole] = distances[child]
        entries[hole] = entries[child]
        codes[hole] = codes[child]
        hole = child
    distances[hole] = distance
    entries[hole] = entry
    codes[hole] = code


@njit(cache=True, nogil=True)
def _slack(points):
    """More than the relative errors of rounded distances, of their sums and of bounds."""
    return (points.shape[1] + 64) * 2.0**-22


@njit(cache=True, nogil=True)
def _reach(worst, scale, n, slack):
    """No less than any rounded sum of an entry within ``worst``, itself rounded."""
    return np.float64(worst) * (1.0 + 4.0 * slack) + n / scale  # n: the rounding to fixed point


@njit(cache=True, nogil=True)
def _per_unit(worst, scale, levels):
    """Bounds per unit of distance, such that ``worst`` is at ``levels``."""
    return levels / max(np.float64(worst), _LEAST / scale)


@njit(cache=True, nogil=True)
def _pack(high, low, rows, query, factor):
    """Bounds of all codes, four bits a neighbour: two and two, each of four neighbours in a byte.

    high, low: uint8 [n / GROUP, V + 1], filled. rows: float32 [U, V + 1]; query: int64 [n], rows.
    """
    most = np.float32(15)
    for group in range(len(high)):
        a, b = rows[query[GROUP * group]], rows[query[GROUP * group + 1]]
        c, d = rows[query[GROUP * group + 2]], rows[query[GROUP * group + 3]]
        above, below = high[group], low[group]
        for code in range(len(above)):
            first = np.int32(min(a[code] * factor, most)) | np.int32(
                min(b[code] * factor, most)
            ) << np.int32(4)
            second = np.int32(min(c[code] * factor, most)) | np.int32(
                min(d[code] * factor, most)
            ) << np.int32(4)
            # first: aaAA bbBB -> pairs of the upper and of the lower two bits
            above[code] = _upper(first) | _upper(second) << 4
            below[code] = _upper(first << 2) | _upper(second << 2) << 4


@njit(cache=True, nogil=True)
def _upper(pair):
    """The upper two bits of two four-bit fields, side by side."""
    return ((pair >> 2) & 3) | ((pair >> 4) & 12)


@njit(cache=True, nogil=True)
def _byte(tables, group, codes, j, at):
    return np.uint64(tables[group, codes[j + np.uint64(at)]]) << np.uint64(8 * at)


@njit(cache=True, nogil=True)
def _look_up(words, codes, start, tables, group):
    """Bytes of an image's codes, eight to a word: the loop that takes most of an exact scan."""
    for word in range(np.uint64(len(words))):
        j = np.uint64(start) + word * np.uint64(8)
        low = _byte(tables, group, codes, j, 0) | _byte(tables, group, codes, j, 1)
        low = low | _byte(tables, group, codes, j, 2) | _byte(tables, group, codes, j, 3)
        high = _byte(tables, group, codes, j, 4) | _byte(tables, group, codes, j, 5)
        high = high | _byte(tables, group, codes, j, 6) | _byte(tables, group, codes, j, 7)
        words[word] = low | high


@njit(cache=True, nogil=True)
def _add(sums, to, before, marks, a, b, c, d):
    """sums[to] = sums[before] + bounds of GROUP neighbours, found from the places a, b, c, d on."""
    low = np.uint8(3)
    for e in range(np.uint64(sums.shape[1])):
        left = (marks[e + a] & low) + ((marks[e + b] >> np.uint8(2)) & low)
        right = ((marks[e + c] >> np.uint8(4)) & low) + (marks[e + d] >> np.uint8(6))
        sums[to, e] = sums[before, e] + left + right


@njit(cache=True, nogil=True)
def _add_bounds(sums, words, marks, codes, start, tables, starts):
    """Add up the bounds in ``tables`` of the neighbours of a run of places of an image.

    codes: uint16, flat, the image's from ``start`` on. sums: uint8 [3, R], the last the bias; two
    to write to in turn, as in place is many times slower. starts: uint64 [n], where the run begins
    as seen by a neighbour. Returns which of the sums holds the result. One that overflows is too
    small, which costs a needless look and no more.
    """
    before = 2
    for group in range(len(tables)):
        _look_up(words, codes, start, tables, group)
        i, to = GROUP * group, group % 2
        _add(sums, to, before, marks, starts[i], starts[i + 1], starts[i + 2], starts[i + 3])
        before = to
    return before


@njit(cache=True, nogil=True)
def _compare(hits, words, sums, which, limit):
    """Which sums are within the limit: fills hits uint8, words is a view of it; whether any."""
    for e in range(np.uint64(len(hits))):
        hits[e] = sums[which, e] <= limit
    some = np.uint64(0)
    for word in range(np.uint64(len(words))):
        some |= words[word]
    return some != 0


@njit(cache=True, nogil=True)
def _finer(bound, image, place, steps, low):
    """The bound with its lower bits."""
    total = np.int64(4) * np.int64(bound)
    for i in range(len(steps)):
        byte = low[i // GROUP, image[place + steps[i]]]
        total += (byte >> np.uint8(2 * (i % GROUP))) & np.uint8(3)
    return total


@njit(cache=True, nogil=True)
def _offer(e, image, number, layout, rows, query, key, points, scale, slack, heap):
    """Measure the entry at place ``e`` of the run, and keep it if it is near enough."""
    (height, width, margin), first, steps, _ = layout
    place = first + e
    rough = np.float32(0)
    for i in range(len(query)):
        rough += rows[query[i], image[place + steps[i]]]
    if rough > _reach(heap[0][0] / scale, scale, len(query), slack):
        return
    total = np.int64(0)
    for i in range(len(query)):
        total += distance(points, scale, key[i], np.int64(image[place + steps[i]]))
    rounded = np.float32(total)
    if rounded < heap[0][0]:  # entries come in ascending order: on a tie the one held stays
        row, column = place // (width + 2 * margin), place % (width + 2 * margin)
        entry = (number * height + row - margin) * width + column - margin
        replace_worst(heap[0], heap[1], heap[2], rounded, entry, np.int64(image[place]))


@njit(cache=True, nogil=True)
def _copy(image, grid, shape):
    """Put a grid, flat, into one with a margin. Loops: numba's slice assignment is slow."""
    height, width, margin = shape
    if margin == 0:
        for j in range(np.uint64(len(grid))):
            image[j] = grid[j]
        return
    for row in range(height):
        start = (row + margin) * (width + 2 * margin) + margin
        for column in range(width):
            image[start + column] = grid[row * width + column]


@njit(cache=True, nogil=True)
def scan_grids(grids, start, block, layout, rows, slots, keys, points, scale, state, heap):
    """Exact scan of some images for all queries, ``block`` images at a time.

    grids: uint16 [m, N], images ``start`` and following. layout: shape (height, width, margin);
    the run of places of a grid with that margin that holds all entries: its first place; steps
    int64 [n] to the neighbours; bias uint8 [R], NO_ENTRY or 0, R a multiple of eight. rows:
    float32 [U, V + 1]; slots: int64 [Q, n], rows of it; keys: int64 [Q, n], codes. points: float32
    [V + 1, d]. state: tables uint8 [Q, 2, n / GROUP, V + 1], zeros at first, and the distances
    float32 [Q] they are made for, FAR at first. heap: distances float32, entries int64, codes
    int64, each [Q, k]. State and heap are updated.
    """
    shape, first, steps, bias = layout
    n, slack = keys.shape[1], _slack(points)
    levels = min(3.75 * n, 384.0)  # 15 for four neighbours: one as far as all must be saturates
    places = (shape[0] + 2 * shape[2]) * (shape[1] + 2 * shape[2])
    image = np.full(-(-places // 8) * 8, np.uint16(len(points) - 1))
    padding = np.zeros(len(image) // 8 + 1, np.uint64)
    words, marks = padding[:-1], padding.view(np.uint8)
    starts = (first + steps).astype(np.uint64)
    sums, hits = np.empty((3, len(bias)), np.uint8), np.empty(len(bias), np.uint8)
    sums[2] = bias
    codes, size = grids.reshape(-1), grids.shape[1]
    whole = len(image) == size  # then a grid can be read where it is
    eights = hits.view(np.uint64)
    for begin in range(0, len(grids), block):
        for q in range(len(keys)):
            high, low, nearest = (
                state[0][q, 0],
                state[0][q, 1],
                (heap[0][q], heap[1][q], heap[2][q]),
            )
            known, limit = np.float32(-1), np.int64(0)
            for m in range(begin, min(begin + block, len(grids))):
                worst = nearest[0][0]
                if worst == 0:
                    break  # k entries at distance zero: later ones lose every tie
                if worst != known:
                    known = worst
                    if worst < np.float32(0.5) * state[1][q]:
                        state[1][q] = worst
                        factor = _per_unit(worst / scale, scale, levels) * (1.0 - slack)
                        _pack(high, low, rows, slots[q], np.float32(factor))
                    if worst < FAR:
                        unit = _per_unit(state[1][q] / scale, scale, levels)
                        limit = np.int64(_reach(worst / scale, scale, n, slack) * unit)
                if whole:
                    which = _add_bounds(sums, words, marks, codes, m * size, high, starts)
                else:
                    _copy(image, grids[m], shape)
                    which = _add_bounds(sums, words, marks, image, 0, high, starts)
                if not _compare(hits, eights, sums, which, np.uint8(limit // 4)):
                    continue
                if whole:
                    _copy(image, grids[m], shape)
                for eight in range(len(eights)):
                    if eights[eight] == 0:
                        continue
                    for e in range(8 * eight, 8 * eight + 8):
                        if hits[e] == 0 or bias[e] != 0:
                            continue
                        if _finer(sums[which, e], image, first + e, steps, low) <= limit:
                            _offer(
                                e,
                                image,
                                start + m,
                                layout,
                                rows,
                                slots[q],
                                keys[q],
                                points,
                                scale,
                                slack,
                                nearest,
                            )


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
    for axis in range(centroids.shape[0]):
        step = np.float64(centroids[axis, one]) - np.float64(centroids[axis, other])
        apart += step * step
    beyond = np.float64(farther) - np.float64(nearer) - tolerance
    return beyond * beyond / (4.0 * apart) if beyond > 0 else 0.0


@njit(cache=True, nogil=True)
def _add_list_bounds(sums, some, bounds):
    """Sums of the bounds of a list's rows, four neighbours at a time; some: uint64 [R, n / 4]."""
    low = np.uint64(0xFFFF)
    for group in range(some.shape[1]):
        i = 4 * group
        a, b, c, d = bounds[i], bounds[i + 1], bounds[i + 2], bounds[i + 3]
        for j in range(np.uint64(len(some))):
            word = some[j, group]
            left = a[word & low] + b[(word >> np.uint64(16)) & low]
            right = c[(word >> np.uint64(32)) & low] + d[word >> np.uint64(48)]
            sums[j] = left + right if group == 0 else sums[j] + left + right


@njit(cache=True, nogil=True)
def _set_bounds(bounds, rows, query, factor):
    """Bounds of all codes, a byte a neighbour: fills uint8 [n, V + 1]."""
    for i in range(len(query)):
        row, line = rows[query[i]], bounds[i]
        for code in range(len(row)):
            line[code] = np.uint8(min(row[code] * factor, np.float32(255)))


@njit(cache=True, nogil=True)
def _settle(found, count, reach, lists, ids, key, points, scale, heap):
    """Measure the rows found that are still within reach and keep the nearest."""
    n = len(key)
    for f in range(count):
        if found[0][f] > reach:
            continue
        row, total = found[1][f], np.int64(0)
        for i in range(n):
            total += distance(points, scale, key[i], np.int64(lists[row, i]))
        rounded, entry = np.float32(total), np.int64(ids[row])
        if rounded < heap[0][0] or (rounded == heap[0][0] and entry < heap[1][0]):
            replace_worst(heap[0], heap[1], heap[2], rounded, entry, np.int64(lists[row, n]))


@njit(cache=True, nogil=True)
def _gather(found, count, near, hits, start, lists, rows, query, scale, slack):
    """Note the hits, of the rows from ``start`` on, whose rounded sums are among the nearest."""
    n, words = len(query), hits.view(np.uint64)
    reach = _reach(near[0][0], scale, n, slack)
    for word in range(len(words)):
        if words[word] == 0:
            continue
        for j in range(8 * word, 8 * word + 8):
            if hits[j] == 0:
                continue
            rough = np.float32(0)
            for i in range(n):
                rough += rows[query[i], lists[start + j, i]]
            if rough > reach:
                continue
            found[0][count], found[1][count] = rough, start + j
            count += 1
            if rough < near[0][0]:
                replace_worst(near[0], near[1], near[2], rough, np.int64(start + j), np.int64(0))
                reach = _reach(near[0][0], scale, n, slack)
    return count


@njit(cache=True, nogil=True)
def scan_lists(
    lists, ids, offsets, centroids, probes, near, tolerance, rows, slots, keys, points, scale, heap
):
    """Exact distances within the probed lists; returns how many rows were scanned, int64 [Q].

    lists: (uint16 [E, n + 1], neighbours' codes and the patch's own; the same, uint64 [E, n / 4]);
    ids: entry of each row, read only for rows that are near; offsets: int64 [nlist + 1]; centroids:
    as in ``nearest_lists``, probes, near: from there. tolerance: how much nearer another centroid
    may be than an entry's own, in squares; negative if lists say nothing of distances, because some
    dimensions do not count. A list that cannot hold an entry among the nearest is left out. The
    others: as in ``scan_grids``.
    """
    codes, words = lists
    count, n = keys.shape
    k, slack = heap[0].shape[1], _slack(points)
    sums, bounds = np.zeros(_CHUNK, np.uint16), np.empty((n, rows.shape[1]), np.uint8)
    hits = np.empty(_CHUNK, np.uint8)
    found = np.empty(_FOUND, np.float32), np.empty(_FOUND, np.int64)
    best = np.empty(k, np.float32), np.empty(k, np.int64), np.empty(k, np.int64)
    scanned = np.zeros(count, np.int64)
    for q in range(count):
        nearest, query = (heap[0][q], heap[1][q], heap[2][q]), slots[q]
        best[0][:], best[1][:] = FAR, -1
        made, factor, noted = FAR, 0.0, 0
        for p in range(probes.shape[1]):
            one, probe = probes[q, 0], probes[q, p]
            if p > 0 and tolerance[q] >= 0 and best[0][0] < FAR:
                gap = _gap(centroids, one, probe, near[q, 0], near[q, p], tolerance[q])
                if gap > _reach(best[0][0], scale, n, slack):
                    continue
            for start in range(offsets[probe], offsets[probe + 1], _CHUNK):
                stop = min(start + _CHUNK, offsets[probe + 1])
                if best[0][0] == 0 or noted + _CHUNK > _FOUND:
                    reach = _reach(best[0][0], scale, n, slack)
                    _settle(found, noted, reach, codes, ids, keys[q], points, scale, nearest)
                    noted = 0
                    if nearest[0][0] == 0 and ids[start] > nearest[1][0]:
                        break  # entries ascend: the others of this list lose every tie
                scanned[q] += stop - start
                if best[0][0] < np.float32(0.5) * made:
                    made = best[0][0]
                    factor = _per_unit(made, scale, 254.0)
                    _set_bounds(bounds, rows, query, np.float32(factor * (1.0 - slack)))
                limit = np.uint16(0xFFFF)
                if made < FAR:
                    _add_list_bounds(sums, words[start:stop], bounds)
                    limit = np.uint16(_reach(best[0][0], scale, n, slack) * factor)
                for j in range(np.uint64(stop - start)):
                    hits[j] = sums[j] <= limit
                whole = (stop - start + 7) // 8 * 8
                for j in range(stop - start, whole):
                    hits[j] = 0
                noted = _gather(
                    found, noted, best, hits[:whole], start, codes, rows, query, scale, slack
                )
        reach = _reach(best[0][0], scale, n, slack)
        _settle(found, noted, reach, codes, ids, keys[q], points, scale, nearest)
    return scanned


@njit(cache=True, nogil=True)
def sort_heap(heap):
    """Sort each row of a heap in place by (distance, entry), ascending."""
    for distances, entries, codes in zip(*heap):  # noqa: B905 (numba has no strict)
        for last in range(len(distances) - 1, 0, -1):
            worst = distances[0], entries[0], codes[0]
            replace_worst(
                distances[:last],
                entries[:last],
                codes[:last],
                distances[last],
                entries[last],
                codes[last],
            )
            distances[last], entries[last], codes[last] = worst
