"""The k least, kept in heaps whose root is the worst of them.

Compiled functions of other files call these. Numba's cache does not notice a change in a file that
is called: after a change here, change ``scan_grids``, ``scan_lists`` and ``rerank_exact`` too.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def replace_largest(values, value):
    """Put a value in place of the root of a max-heap."""
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
