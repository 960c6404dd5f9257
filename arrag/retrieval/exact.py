"""Exact search: a scan of all grids. Needs the store and ``meta.json`` only.

The default up to about ten million patches, and the oracle for every other mode. Codes are held in
memory as two bytes of another meaning (see ``order``), made of the store's at the first search.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arrag.data.store_format import check_codes
from arrag.data.token_store import TokenStore
from arrag.retrieval._avx512 import WIDE
from arrag.retrieval.base import Heap, PatchIndex, empty_heap
from arrag.retrieval.code_clusters import GROUPS, balanced_clusters
from arrag.retrieval.distances import LARGEST, empty_found, rerank_exact
from arrag.retrieval.exact_scan import BLOCK, group_bounds, scan_grids
from arrag.retrieval.keys import release

HELD_BYTES = 2**32
"""Of grids held in memory; those of a larger store are made anew at each search."""
IMAGES = 4096
"""Laid out together."""
ROOM = 2 * BLOCK
"""Entries noted before they are measured."""
Planes = tuple[np.ndarray, np.ndarray]


class ExactIndex(PatchIndex):
    """Scan every entry of the store for every query."""

    def __init__(self, store: TokenStore, meta: dict[str, Any]) -> None:
        super().__init__(store, meta)
        self._wide = WIDE
        height, width = store.grid
        # Under border "zero" a neighbour may be off the grid: the margin stands for it. A row's
        # is on its right and an image's below it, which serve the next one as well.
        margin = self.neighborhood.radius if self.neighborhood.border == "zero" else 0
        steps = np.array(self.neighborhood.offsets) @ (width + margin, 1)  # [n]
        inside = np.pad(self._inside.numpy().reshape(height, width), ((0, margin), (0, margin)))
        bias = np.resize(np.where(inside, 0, 255).astype(np.uint8), inside.size + BLOCK)
        self._layout = (height, width, margin), max(0, -int(steps.min())), steps, bias
        self._bytes = np.empty((2, len(self._points)), np.uint8)  # of a code
        self._bytes[:, self._columns[::-1]] = np.divmod(
            np.arange(len(self._columns))[::-1], len(self._columns) // GROUPS
        )
        self._codes = self._columns.astype(np.uint16)
        self._held: dict[int, Planes] = {}

    def _ordered(self) -> np.ndarray:
        return balanced_clusters(self._points).reshape(-1)

    def _planes(self, number: int) -> Planes:
        """Groups of a shard's codes and their places in them, uint8, laid out for the scan."""
        if number in self._held:
            return self._held[number]
        shard = self.store.shards[number]
        (height, width, margin), before, steps, _ = self._layout
        size = (height + margin) * (width + margin)
        after = int(max(0, steps.max())) + BLOCK
        planes = []
        for table in self._bytes:
            plane = np.full(before + len(shard) * size + after, table[-1])
            images = plane[before : len(plane) - after].reshape(len(shard), height + margin, -1)
            for first in range(0, len(shard), IMAGES):
                some = np.asarray(shard[first : first + IMAGES])
                check_codes(some, len(self._points) - 1, f"store {self.store.path}")
                images[first : first + IMAGES, :height, :width] = table[some]
            planes.append(plane)
        release(shard)
        if 2 * planes[0].size * (len(self._held) + 1) <= HELD_BYTES:
            self._held[number] = tuple(planes)
        return tuple(planes)

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        rows, slots, keys = self._rows(keys)
        count, n = keys.shape
        heap = empty_heap(count, k)
        groups = np.empty((count, n, GROUPS), np.uint16)
        group_bounds(groups, rows, slots)
        limits = np.full(count, LARGEST, np.int32)
        state = limits, np.full((count, k), LARGEST, np.int32), np.zeros(count, np.int64), groups
        found = empty_found(ROOM, n)
        height, width, margin = self._layout[0]
        for number, start in enumerate(self.store.starts[: len(self.store.shards)]):
            planes, at = self._planes(number), np.zeros(2, np.int64)
            while at[0] < count:
                noted = scan_grids(
                    planes,
                    int(start),
                    at,
                    self._layout,
                    rows,
                    slots,
                    self._codes,
                    state,
                    found,
                    self._error,
                    self._wide,
                )
                rerank_exact(found, noted, limits, keys, self._points, self._scale, heap)
                # Once k entries are at distance zero, later ones lose every tie.
                image = start + at[1] // ((height + margin) * (width + margin))
                limits[(heap[0][:, 0] == 0) & (heap[1][:, 0] < image * height * width)] = -1
        return heap
