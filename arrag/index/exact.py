"""Exact search: a scan of the memory-mapped grids. Needs the store and ``meta.json`` only.

The default up to about ten million patches, and the oracle for every other mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arrag.index.base import Heap, PatchIndex, empty_heap
from arrag.index.kernels import LANES, pack_lanes, scan_grids
from arrag.neighborhood import MISSING
from arrag.store import TokenStore

BLOCK_BYTES = 256 * 1024
"""Grids scanned for all queries before the next are read: fits the second-level cache."""


class ExactIndex(PatchIndex):
    """Scan every entry of the store for every query."""

    def __init__(self, store: TokenStore, meta: dict[str, Any]) -> None:
        super().__init__(store, meta)
        size = store.grid[0] * store.grid[1]
        self._positions = np.flatnonzero(self._inside.numpy())  # int64 [E]
        around = self.neighborhood.sources(*store.grid)[self._positions]  # [E, n]
        self._sources = np.where(around == MISSING, size, around).T.astype(np.uint32, order="C")
        self._grids = [np.asarray(shard).reshape(len(shard), size) for shard in store.shards]
        self._block = max(1, BLOCK_BYTES // (2 * size))

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        tables, rows = self._tables(keys)
        heap = empty_heap(len(keys), k)
        groups = []
        for start in range(0, len(keys), LANES):
            lanes = slice(start, start + LANES)
            queries = np.ascontiguousarray(rows[lanes])
            groups.append((*pack_lanes(tables, queries), queries, tuple(x[lanes] for x in heap)))
        for grids, start in zip(self._grids, self.store.starts, strict=False):
            for m in range(0, len(grids), self._block):
                block, first = grids[m : m + self._block], int(start) + m
                for words, factors, queries, nearest in groups:
                    if nearest[0].max() == 0:
                        continue  # k entries at distance zero: later ones lose every tie
                    scan_grids(
                        block,
                        first,
                        self._sources,
                        self._positions,
                        words,
                        factors,
                        tables,
                        queries,
                        nearest,
                    )
        return heap
