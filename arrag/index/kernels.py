"""The inner loops, compiled by numba.

A squared L2 distance is a sum over neighbours of a table ``tables[query neighbour][code]``. The
tables are whole numbers (int64 fixed point, see ``FIXED_BITS``), hence a sum is exact in any order:
permuted keys tie, and a row's result cannot depend on the batch, the block size or the order in
which lists are scanned. A sum is then rounded to float32, and results are ordered by (float32,
entry): what is returned is sorted by what can be seen of it.

They are in one file because numba's cache does not notice a change in another one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FIXED_BITS = 60
"""Sums of fixed-point distances stay below 2 to this power."""
FAR = np.float32(np.inf)
"""Distance of an empty slot."""
LANES = 4
"""Queries that share a 64-bit word in the exact scan, 16 bits each."""
_TOP_BITS = np.uint64(0x8000_8000_8000_8000)
_LANE_RANGE = 1 << 15
_COARSE_SHIFT = FIXED_BITS - 31  # leaves 31 bits, so that a product with a factor fits in 64


@njit(cache=True, nogil=True)
def distance_tables(vectors, codes, scale):
    """Fixed-point squared L2 from some codes to all codes: int64 [len(codes), V + 1].

    vectors: float64 [d, V + 1], the last column zero (a missing neighbour). codes: int64; V + 1
    stands for a neighbour that does not count and gives zeros.
    """
    dimension, width = vectors.shape
    tables = np.zeros((len(codes), width), np.int64)
    total = np.empty(width, np.float64)
    for row in range(len(codes)):
        if codes[row] >= width:
            continue
        total[:] = 0.0
        for axis in range(dimension):
            centre = vectors[axis, codes[row]]
            for code in range(width):
                step = vectors[axis, code] - centre
                total[code] += step * step
        for code in range(width):
            tables[row, code] = np.int64(np.rint(total[code] * scale))
    return tables


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
def _scaled(distance, factor):
    return ((distance >> _COARSE_SHIFT) * factor) >> 32


@njit(cache=True, nogil=True)
def pack_lanes(tables, queries):
    """Lower bounds of up to LANES queries in one word a code.

    tables: int64 [U, V + 1]; queries: int64 [q, n], rows of ``tables``. Returns words uint64
    [n * (V + 1)] and factors int64 [q]: 16-bit lane q holds the table scaled by the factor and
    rounded down. The sum over n neighbours stays below 2^15 and never exceeds the distance scaled
    likewise.
    """
    count, n = queries.shape
    width = tables.shape[1]
    words = np.zeros(n * width, np.uint64)
    factors = np.empty(count, np.int64)
    for lane in range(count):
        largest = np.int64(1)
        for i in range(n):
            for code in range(width):
                largest = max(largest, tables[queries[lane, i], code] >> _COARSE_SHIFT)
        factor = (np.int64((_LANE_RANGE - 1) // n) << 32) // largest
        factors[lane] = factor
        shift = np.uint64(16 * lane)
        for i in range(n):
            row = tables[queries[lane, i]]
            for code in range(width):
                bound = np.uint64(_scaled(row[code], factor))
                words[i * width + code] |= bound << shift
    return words, factors


@njit(cache=True, nogil=True)
def _lane_limit(worst, factor):
    """Lower bounds from this one on cannot beat ``worst``: they need distance < worst."""
    if worst == FAR:
        return np.int64(_LANE_RANGE)
    if worst == 0:
        return np.int64(0)
    return min(np.int64(_LANE_RANGE), _scaled(np.int64(worst) - 1, factor) + 1)


@njit(cache=True, nogil=True)
def _offer(bounds, image, sources, e, tables, queries, entry, code, heap):
    """Give an entry to every lane whose lower bound lets it through."""
    distances, entries, codes = heap
    for lane in range(queries.shape[0]):
        if (bounds >> np.uint64(16 * lane)) & np.uint64(_LANE_RANGE) != 0:
            continue
        distance = 0
        for i in range(queries.shape[1]):
            distance += tables[queries[lane, i], image[sources[i, e]]]
        # Entries come in ascending order, so on a tie the one already held stays.
        rounded = np.float32(distance)
        if rounded < distances[lane, 0]:
            replace_worst(distances[lane], entries[lane], codes[lane], rounded, entry, code)


@njit(cache=True, nogil=True)
def _headroom(distances, factors):
    """What to add to a word so that the top bit of a lane says: cannot be among the nearest."""
    word = np.uint64(0)
    for lane in range(LANES):
        limit = np.int64(0)  # an unused lane lets nothing through
        if lane < len(factors):
            limit = _lane_limit(distances[lane, 0], factors[lane])
        word |= np.uint64(_LANE_RANGE - limit) << np.uint64(16 * lane)
    return word


@njit(cache=True, nogil=True)
def _add_bounds(sums, image, sources, words, width):
    """Add the lower bounds of all entries of an image, four neighbours at a time.

    Their number is a multiple of four: 2 h (h + 1) in a causal context of hop h, twice that in a
    full one.
    """
    for i in range(0, len(sources), 4):
        s0, s1, s2, s3 = sources[i], sources[i + 1], sources[i + 2], sources[i + 3]
        w0 = words[i * width : (i + 1) * width]
        w1 = words[(i + 1) * width : (i + 2) * width]
        w2 = words[(i + 2) * width : (i + 3) * width]
        w3 = words[(i + 3) * width : (i + 4) * width]
        for e in range(np.uint64(len(sums))):  # unsigned: spares the test for wrap-around
            sums[e] += w0[image[s0[e]]] + w1[image[s1[e]]] + w2[image[s2[e]]] + w3[image[s3[e]]]


@njit(cache=True, nogil=True)
def scan_grids(grids, first, sources, positions, words, factors, tables, queries, heap):
    """Exact scan of some images for up to LANES queries.

    grids: uint16 [m, N], images ``first`` and following; sources: uint32 [n, E], the neighbours'
    positions, N off the grid; positions: int64 [E]; words, factors: from ``pack_lanes``; tables,
    queries: as there. heap: (distances float32, entries int64, codes int64), each [q, k], updated.
    """
    images, size = grids.shape
    width = tables.shape[1]
    image = np.empty(size + 1, np.uint16)
    image[size] = width - 1
    sums = np.empty(len(positions), np.uint64)
    headroom = _headroom(heap[0], factors)
    for m in range(images):
        for j in range(size):
            image[j] = grids[m, j]
        sums[:] = headroom
        _add_bounds(sums, image, sources, words, width)
        hopeless = _TOP_BITS
        for e in range(len(sums)):
            hopeless &= sums[e]
        if hopeless == _TOP_BITS:
            continue
        for e in range(len(sums)):
            if sums[e] & _TOP_BITS != _TOP_BITS:
                entry = (first + m) * size + positions[e]
                code = np.int64(image[positions[e]])
                _offer(sums[e], image, sources, e, tables, queries, entry, code, heap)
        headroom = _headroom(heap[0], factors)


@njit(cache=True, nogil=True)
def nearest_lists(centroids, vectors, counts, nprobe):
    """The ``nprobe`` lists nearest to each query, nearest first: int64 [Q, nprobe].

    centroids: float32 [n * d, nlist]; vectors: float32 [Q, n * d]; counts: bool [Q, n * d], which
    dimensions contribute. One query at a time and one order of summation, unlike a matrix product,
    whose rounding depends on the batch.
    """
    dimensions, nlist = centroids.shape
    probes = np.empty((len(vectors), nprobe), np.int64)
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
        probes[q] = lists[np.argsort(distances, kind="mergesort")]
    return probes


@njit(cache=True, nogil=True)
def _add_distances(sums, rows, tables, query):
    """Fixed-point distances of a list's rows, one neighbour at a time."""
    for i in range(np.uint64(len(query))):
        table = tables[query[i]]
        if i == 0:
            for row in range(np.uint64(len(rows))):
                sums[row] = table[rows[row, i]]
        else:
            for row in range(np.uint64(len(rows))):
                sums[row] += table[rows[row, i]]


@njit(cache=True, nogil=True)
def _reach(worst):
    """A whole number no smaller than any that rounds to ``worst`` or less."""
    if worst == FAR:
        return np.int64(1) << FIXED_BITS
    return np.int64(np.float64(worst) * (1.0 + 2.0**-23)) + 1


@njit(cache=True, nogil=True)
def scan_lists(lists, ids, offsets, probes, tables, queries, heap):
    """Exact distances within the probed lists.

    lists: uint16 [E, n + 1], neighbours' codes and the patch's own; ids: entry of each row, read
    only for rows that get in; offsets: int64 [nlist + 1]; probes: int64 [Q, nprobe]; tables,
    queries [Q, n], heap [Q, k]: as in ``scan_grids``.
    """
    distances, entries, codes = heap
    count, n = queries.shape
    sums = np.empty((offsets[1:] - offsets[:-1]).max(), np.int64)
    for q in range(count):
        reach = _reach(distances[q, 0])
        for probe in probes[q]:
            start, stop = offsets[probe], offsets[probe + 1]
            _add_distances(sums, lists[start:stop], tables, queries[q])
            for row in range(np.uint64(stop - start)):
                if sums[row] > reach:
                    continue
                rounded, entry = np.float32(sums[row]), np.int64(ids[start + row])
                worst = distances[q, 0]
                if rounded < worst or (rounded == worst and entry < entries[q, 0]):
                    code = np.int64(lists[start + row, n])
                    replace_worst(distances[q], entries[q], codes[q], rounded, entry, code)
                    reach = _reach(distances[q, 0])


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
