"""Exact search: a scan of the memory-mapped grids. Needs the store and ``meta.json`` only.

The default up to about ten million patches, and the oracle for every other mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arrag.index.base import Heap, PatchIndex, empty_heap
from arrag.index.kernels import FAR, GROUP, NO_ENTRY, scan_grids
from arrag.store import TokenStore

BLOCK_BYTES = 256 * 1024
"""Grids scanned for all queries before the next are read: fits the second-level cache."""


class ExactIndex(PatchIndex):
    """Scan every entry of the store for every query."""

    def __init__(self, store: TokenStore, meta: dict[str, Any]) -> None:
        super().__init__(store, meta)
        height, width = store.grid
        # Under border "zero" a neighbour may be off the grid: the margin stands for it.
        margin = self.neighborhood.reach if self.neighborhood.border == "zero" else 0
        inside = np.pad(self._inside.numpy().reshape(height, width), margin).reshape(-1)
        first, last = np.flatnonzero(inside)[[0, -1]]
        run = np.pad(inside[first : last + 1], (0, -(last + 1 - first) % 8))
        steps = np.array(self.neighborhood.offsets) @ (width + 2 * margin, 1)  # [n]
        self._layout = (
            (height, width, margin),
            int(first),
            steps,
            np.where(run, 0, NO_ENTRY).astype(np.uint8),
        )
        self._grids = [np.asarray(shard).reshape(len(shard), -1) for shard in store.shards]
        self._block = max(1, BLOCK_BYTES // (2 * height * width))

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        rows, slots, keys = self._rows(keys)
        heap = empty_heap(len(keys), k)
        tables = np.zeros((len(keys), 2, keys.shape[1] // GROUP, rows.shape[1]), np.uint8)
        state = tables, np.full(len(keys), FAR)
        for grids, start in zip(self._grids, self.store.starts, strict=False):
            scan_grids(
                grids,
                int(start),
                self._block,
                self._layout,
                rows,
                slots,
                keys,
                self._points,
                self._scale,
                state,
                heap,
            )
        return heap
