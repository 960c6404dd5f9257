"""Distances: bounds of all codes for a scan, and the distances themselves of what it found.

A squared L2 distance is a sum over neighbours. Scans (``grids``, ``lists``) add up small lower
bounds, looked up in rows of 16-bit numbers, and note the entries that may be among the nearest;
``rerank_exact`` measures those. Distances are whole numbers (int64 fixed point, ``FIXED_BITS``),
hence a sum is exact in any order: permuted keys tie, and a row's result cannot depend on the batch,
on blocks or on the order in which lists are scanned. A sum is then rounded to float32, and results
are ordered by (float32, entry): what is returned is sorted by what can be seen of it. Bounds decide
which entries are measured, never what is returned.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from arrag.retrieval.topk import replace_worst

FIXED_BITS = 60
"""Sums of fixed-point distances stay below 2 to this power."""
FAR = np.float32(np.inf)
"""Distance of an empty slot."""
LARGEST = 65535
"""No sum of the bounds of an entry is larger."""
_COLUMNS = 1024  # codes whose distances are computed together: their vectors fit the first cache


def slack(dimension: int) -> float:
    """More than the relative errors of rounded distances and of sums rounded to float32."""
    return (dimension + 64) * 2.0**-22


@njit(cache=True, nogil=True)
def bound_rows(vectors, points, codes, unit, rows):
    """Lower bounds of the squared L2 from some codes to all: fills rows uint16 [U, W].

    vectors: float32 [d, W], all codes in some order; points: float32 [V + 1, d], by code, the last
    one zero (a missing neighbour). codes: int64 [U]; V + 1 stands for a neighbour that does not
    count and gives zeros. unit: bounds per unit of
    distance, such that n of them add up to LARGEST at most; smaller by what rounding could add. A
    distance is less than its bound + 1, save the same rounding.
    """
    dimension, width = vectors.shape
    total = np.empty(_COLUMNS, np.float32)
    for start in range(0, width, _COLUMNS):
        stop = min(start + _COLUMNS, width)
        for u in range(len(codes)):
            row = rows[u, start:stop]
            if codes[u] >= len(points):
                row[:] = np.uint16(0)
                continue
            line, centre = vectors[0, start:stop], points[codes[u], 0]
            for held in range(len(row)):
                step = line[held] - centre
                total[held] = step * step
            for axis in range(1, dimension):
                line, centre = vectors[axis, start:stop], points[codes[u], axis]
                for held in range(len(row)):
                    step = line[held] - centre
                    total[held] += step * step
            for held in range(len(row)):
                row[held] = np.uint16(np.int32(total[held] * unit))


@njit(cache=True, nogil=True)
def _distance(points, scale, asked, held):
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


Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Entries to be measured: queries int32, sums of bounds int32, entries int64, all [C], and codes
uint16 [C, n + 1], the neighbours' and the entry's own."""


def empty_found(room: int, n: int) -> Found:
    """Room for some entries."""
    kinds = np.int32, np.int32, np.int64
    return (*(np.empty(room, kind) for kind in kinds), np.empty((room, n + 1), np.uint16))


@njit(cache=True, nogil=True)
def rerank_exact(found, count, limits, keys, points, scale, heap):
    """Measure the first ``count`` entries found that are still within their query's limit.

    found: see ``Found``. limits: int32 [Q]. keys: int64 [Q, n], codes. points: float32
    [V + 1, d]. heap: distances float32, entries int64, codes int64, each [Q, k], updated: the
    nearest are kept.
    """
    queries, bounds, entries, codes = found
    n = keys.shape[1]
    for f in range(count):
        q = queries[f]
        if bounds[f] > limits[q]:
            continue
        total = np.int64(0)
        for i in range(n):
            total += _distance(points, scale, keys[q, i], np.int64(codes[f, i]))
        rounded, entry = np.float32(total), entries[f]
        worst = heap[0][q, 0]
        if rounded < worst or (rounded == worst and entry < heap[1][q, 0]):
            own = np.int64(codes[f, n])
            replace_worst(heap[0][q], heap[1][q], heap[2][q], rounded, entry, own)
