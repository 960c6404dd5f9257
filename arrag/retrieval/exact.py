"""Mode exact: scan all grids of the store. Needs the store and ``meta.json`` only.

The choice up to about ten million patches, and the reference for every other mode. A codebook of
+1 and -1 (MAGVIT-v2's, in Show-o) is scanned by popcount, any other by tables of bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from arrag.data.store_format import check_codes
from arrag.data.token_store import TokenStore
from arrag.retrieval._avx512 import WIDE
from arrag.retrieval.base import Fields, PatchIndex
from arrag.retrieval.device import GridScan
from arrag.retrieval.distances import MAX_BOUND, Heap, empty_candidates, empty_heap, rerank_exact
from arrag.retrieval.exact_scan import BLOCK, GROUPS, balanced_clusters, group_bounds, scan_grids
from arrag.retrieval.keys import release
from arrag.retrieval.sign_scan import SignScan, has_signs_only
from arrag.utils.errors import UsageError

CACHE_BYTES = 2**32
"""Of laid-out grids kept in memory; those beyond are laid out again at each search."""
IMAGES = 4096
"""Laid out together."""
ROOM = 2 * BLOCK
"""Candidates noted before they are measured."""
Planes = tuple[np.ndarray, np.ndarray]


class ExactIndex(PatchIndex):
    """Scan every entry of the store for every query."""

    def _load(self) -> None:
        if self.nprobe is not None:
            raise UsageError(
                f"mode exact has no lists to visit, found {self.nprobe}",
                path=self.path,
                field="nprobe",
                hint="leave it out",
            )
        self._signs = None
        if has_signs_only(self.store.codebook):
            self._signs = SignScan(self.store, self.neighborhood, self.scale)
        self._wide = WIDE
        height, width = self.store.grid
        # Under border "zero" a neighbour may be off the grid: the margin holds it. A row's margin
        # is on its right and an image's below it; they serve the next row and image as well.
        margin = self.neighborhood.radius if self.neighborhood.border == "zero" else 0
        steps = np.array(self.neighborhood.offsets) @ (width + margin, 1)  # [n]
        inside = np.pad(self.inside.numpy().reshape(height, width), ((0, margin), (0, margin)))
        bias = np.resize(np.where(inside, 0, 255).astype(np.uint8), inside.size + BLOCK)
        self._layout = (height, width, margin), max(0, -int(steps.min())), steps, bias
        self._planes_of = np.empty((2, len(self.points)), np.uint8)  # group and place of a code
        self._planes_of[:, self._columns[::-1]] = np.divmod(
            np.arange(len(self._columns))[::-1], len(self._columns) // GROUPS
        )
        self._codes = self._columns.astype(np.uint16)
        self._cache: dict[int, Planes] = {}

    def extend(self, store: TokenStore, path: Path, *, progress: bool) -> Fields:
        """Nothing to write: a search reads the store."""
        return {}

    def _column_order(self) -> np.ndarray:
        return balanced_clusters(self.points).reshape(-1)

    def _scan_for(self, device: torch.device) -> Callable[[np.ndarray, int], Heap]:
        return GridScan(self, device).scan

    def _planes(self, number: int) -> Planes:
        """Groups of a shard's codes and their places in them, uint8, laid out for the scan."""
        if number in self._cache:
            return self._cache[number]
        shard = self.store.shards[number]
        (height, width, margin), before, steps, _ = self._layout
        size = (height + margin) * (width + margin)
        after = int(max(0, steps.max())) + BLOCK
        planes = []
        for table in self._planes_of:
            plane = np.full(before + len(shard) * size + after, table[-1])
            images = plane[before : len(plane) - after].reshape(len(shard), height + margin, -1)
            for first in range(0, len(shard), IMAGES):
                some = np.asarray(shard[first : first + IMAGES])
                check_codes(some, len(self.points) - 1, self.store.path)
                images[first : first + IMAGES, :height, :width] = table[some]
            planes.append(plane)
        release(shard)
        if 2 * planes[0].size * (len(self._cache) + 1) <= CACHE_BYTES:
            self._cache[number] = tuple(planes)
        return tuple(planes)

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        if self._signs is not None:
            return self._signs.scan(keys, k)
        rows, slots, keys = self._rows(keys)
        count, n = keys.shape
        heap = empty_heap(count, k)
        groups = np.empty((count, n, GROUPS), np.uint16)
        group_bounds(groups, rows, slots)
        limits = np.full(count, MAX_BOUND, np.int32)
        least = np.full((count, k), MAX_BOUND, np.int32)
        state = limits, least, np.zeros(count, np.int64), groups
        candidates = empty_candidates(ROOM, n)
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
                    candidates,
                    self._error,
                    self._wide,
                )
                rerank_exact(candidates, noted, limits, keys, self.points, self.scale, heap)
                # Once k entries are at distance zero, later ones lose every tie.
                image = start + at[1] // ((height + margin) * (width + margin))
                limits[(heap[0][:, 0] == 0) & (heap[1][:, 0] < image * height * width)] = -1
        return heap
