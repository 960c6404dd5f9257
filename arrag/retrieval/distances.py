"""Squared L2 distances between keys: fast lower bounds, exact re-ranking, and the k-best heaps.

A distance is a sum over the n neighbours of a patch. A scan adds up lower bounds, small integers
looked up in tables, and notes the candidates that may be among the k nearest. ``rerank_exact``
then computes their distances. Bounds decide which entries are measured, never what is returned.

Distances are fixed-point integers (``FIXED_BITS``), so a sum is the same in any order: equal keys
tie, and a result does not depend on the batch, on blocks or on the order of the lists. The sum is
then rounded to float32, and results are ordered by (float32 distance, entry).

Numba caches compiled functions by their own file only: after a change here, also change
``exact_scan.py`` and ``ivf.py``, which call these functions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FIXED_BITS = 60
"""Sums of fixed-point distances stay below 2 to this power."""
MAX_BOUND = 65535
"""No sum of the lower bounds of an entry is larger."""
_BLOCK = 1024  # codes whose bounds are computed together: their vectors fit the first-level cache

Heap = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The k best so far: distances float32 (fixed point), entries and codes int64, each [Q, k]. Each
row is a max-heap by (distance, entry)."""
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Entries to measure: queries int32, sums of bounds int32, entries int64, all [C], and codes
uint16 [C, n + 1], those of the neighbours and the entry's own."""


def empty_heap(queries: int, k: int) -> Heap:
    """A heap of absent slots: distance +inf, entry and code -1."""
    shape = (queries, k)
    return np.full(shape, np.inf, np.float32), np.full(shape, -1), np.full(shape, -1)


def empty_candidates(room: int, n: int) -> Candidates:
    """Room for some candidates with n neighbours each."""
    kinds = np.int32, np.int32, np.int64
    return (*(np.empty(room, kind) for kind in kinds), np.empty((room, n + 1), np.uint16))


def rounding_margin(dimension: int) -> float:
    """More than the relative error of a float32 distance in ``dimension`` dimensions."""
    return (dimension + 64) * 2.0**-22


@njit(cache=True, nogil=True)
def bound_rows(vectors, points, codes, unit, rows):
    """Fill ``rows`` with lower bounds of the squared L2 from some codes to all codes.

    Args:
        vectors: float32 [d, W], all codes in the order of the row.
        points: float32 [V + 1, d], by code; the last one is zero (a missing neighbour).
        codes: int64 [U]; V + 1 is a neighbour that does not count, and gives zeros.
        unit: Bounds per unit of distance, such that n of them add up to MAX_BOUND at most.
        rows: uint16 [U, W], filled. A distance is less than its bound + 1, up to rounding.
    """
    dimension, width = vectors.shape
    total = np.empty(_BLOCK, np.float32)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        for u in range(len(codes)):
            row = rows[u, start:stop]
            if codes[u] >= len(points):
                row[:] = np.uint16(0)
                continue
            line, center = vectors[0, start:stop], points[codes[u], 0]
            for held in range(len(row)):
                step = line[held] - center
                total[held] = step * step
            for axis in range(1, dimension):
                line, center = vectors[axis, start:stop], points[codes[u], axis]
                for held in range(len(row)):
                    step = line[held] - center
                    total[held] += step * step
            for held in range(len(row)):
                row[held] = np.uint16(np.int32(total[held] * unit))


@njit(cache=True, nogil=True)
def _distance(points, scale, query_code, held):
    """Fixed-point squared L2 between two codes: one order of summation, rounded once."""
    if query_code >= len(points):
        return np.int64(0)
    total = 0.0
    for axis in range(points.shape[1]):
        step = np.float64(points[held, axis]) - np.float64(points[query_code, axis])
        total += step * step
    return np.int64(np.rint(total * scale))


@njit(cache=True, nogil=True)
def rerank_exact(candidates, count, limits, keys, points, scale, heap):
    """Measure the first ``count`` candidates whose bound is within their query's limit.

    Args:
        candidates: See ``Candidates``.
        count: How many of them are filled.
        limits: int32 [Q], largest sum of bounds that can still be among the k nearest.
        keys: int64 [Q, n], codes of the queries' neighbours.
        points: float32 [V + 1, d].
        scale: Fixed-point units per unit of distance.
        heap: See ``Heap``; updated.
    """
    queries, bounds, entries, codes = candidates
    n = keys.shape[1]
    for c in range(count):
        q = queries[c]
        if bounds[c] > limits[q]:
            continue
        total = np.int64(0)
        for i in range(n):
            total += _distance(points, scale, keys[q, i], np.int64(codes[c, i]))
        rounded, entry = np.float32(total), entries[c]
        worst = heap[0][q, 0]
        if rounded < worst or (rounded == worst and entry < heap[1][q, 0]):
            own = np.int64(codes[c, n])
            replace_worst(heap[0][q], heap[1][q], heap[2][q], rounded, entry, own)


@njit(cache=True, nogil=True)
def replace_largest(values, value):
    """Replace the root of a max-heap of numbers."""
    hole, size = np.uint64(0), np.uint64(len(values))
    while True:
        child = np.uint64(2) * hole + np.uint64(1)
        if child >= size:
            break
        if child + np.uint64(1) < size and values[child + np.uint64(1)] > values[child]:
            child += np.uint64(1)
        if values[child] <= value:
            break
        values[hole] = values[child]
        hole = child
    values[hole] = value


@njit(cache=True, nogil=True)
def replace_worst(distances, entries, codes, distance, entry, code):
    """Replace the root of a max-heap ordered by (distance, entry)."""
    size, hole = len(distances), 0
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
        distances[hole], entries[hole], codes[hole] = (
            distances[child],
            entries[child],
            codes[child],
        )
        hole = child
    distances[hole], entries[hole], codes[hole] = distance, entry, code


def sort_heap(heap: Heap) -> Heap:
    """The rows of a heap sorted by (distance, entry), ascending."""
    order = np.lexsort((heap[1], heap[0]))
    return tuple(np.take_along_axis(part, order, axis=1) for part in heap)
