"""Search on a GPU: gather the codes, add up tables of exact distances, keep the k nearest.

The same whole numbers and the same order of ties as the compiled loops give, so the results are
equal bit for bit. Only queries and the k entries found cross between host and device. Grids stay on
the device when they fit half of its free memory; otherwise each search sends them in chunks.
Inverted lists that do not fit are searched on the host. The tests run this on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from arrag.retrieval.distances import Heap, empty_heap
from arrag.retrieval.neighborhood import MISSING

CHUNK = {"cpu": 2**20, "cuda": 2**27}
"""Codes gathered together."""
Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Distances float32 (fixed point), entries and codes int64, all [R], of one query."""


class _TableScan:
    """Search with a table of the distances from each code of a query to all codes.

    Args:
        index: The ``PatchIndex`` whose ``_scan`` is replaced.
        device: Where to search.
    """

    def __init__(self, index: Any, device: torch.device) -> None:
        self.index, self.device = index, device
        self.chunk = CHUNK.get(device.type, CHUNK["cuda"])
        self._vectors = torch.from_numpy(index.points).double().T.to(device)  # [d, V + 1]

    def scan(self, keys: np.ndarray, k: int) -> Heap:
        """As ``PatchIndex._scan``."""
        tables, rows = self._tables(keys)
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)
        best: list[Found] = [(nothing.float(), nothing, nothing)] * len(keys)
        for q, around, entries, codes in self._chunks(keys):
            distances = torch.zeros(len(around), dtype=torch.int64, device=self.device)
            for i, row in enumerate(rows[q]):
                distances += tables[row][around[:, i]]
            new = distances.float(), entries, codes.long()
            best[q] = nearest(*map(torch.cat, zip(best[q], new, strict=True)), k)
        heap = empty_heap(len(keys), k)
        for q, found in enumerate(best):
            for part, values in zip(heap, found, strict=True):
                part[q, : len(values)] = values.cpu().numpy()
        return heap

    def _chunks(self, keys: np.ndarray) -> Iterator[tuple[int, torch.Tensor, ...]]:
        """Entries to measure: (query, codes of the neighbours [R, n], entries [R], own codes)."""
        raise NotImplementedError

    def _tables(self, keys: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Distances of the codes in use to all codes, int64 [U, V + 1], and their rows [Q, n].

        The order of the sums and the rounding are those of the compiled loops.
        """
        unused = self._vectors.shape[1]  # a neighbour that does not count
        missing = unused if self.index.neighborhood.masked_distance else unused - 1
        codes, rows = np.unique(np.where(keys == MISSING, missing, keys), return_inverse=True)
        used = torch.from_numpy(codes).to(self.device)
        centers = self._vectors[:, used.clamp(max=unused - 1)]  # [d, U]
        total = torch.zeros(len(used), unused, dtype=torch.float64, device=self.device)
        for line, center in zip(self._vectors, centers, strict=True):
            step = line - center[:, None]
            total += step * step
        tables = torch.round(total * self.index.scale).long()
        tables[used == unused] = 0
        return tables, rows.reshape(keys.shape)


class GridScan(_TableScan):
    """Every entry of the store. resident: keep the grids on the device; default: if they fit."""

    def __init__(self, index: Any, device: torch.device, resident: bool | None = None) -> None:
        super().__init__(index, device)
        store, inside = index.store, index.inside
        self._size = store.grid[0] * store.grid[1]
        self._positions = inside.nonzero()[:, 0].to(device)  # int64 [E]
        around = index.neighborhood.neighbor_index(*store.grid)[inside.numpy()]  # [E, n]
        around = np.where(around == MISSING, self._size, around)  # the last column
        self._around = torch.from_numpy(around).to(device)
        self._images = max(1, self.chunk // around.size)
        if resident is None:
            resident = fits(2 * len(store) * (self._size + 1), device)
        self._grids = list(self._sent()) if resident else None

    def _chunks(self, keys: np.ndarray) -> Iterator[tuple[int, torch.Tensor, ...]]:
        for first, grids in self._sent() if self._grids is None else self._grids:
            around = _unsigned(grids[:, self._around]).flatten(0, 1)
            images = first + torch.arange(len(grids), device=self.device)
            entries = (images[:, None] * self._size + self._positions).flatten()
            codes = _unsigned(grids[:, self._positions]).flatten()
            for q in range(len(keys)):
                yield q, around, entries, codes

    def _sent(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first image, grids [m, N + 1] on the device): uint16 as int16, V in the last column."""
        store = self.index.store
        for shard, start in zip(store.shards, store.starts, strict=False):
            for m in range(0, len(shard), self._images):
                grids = np.asarray(shard[m : m + self._images]).reshape(-1, self._size)
                grids = np.pad(grids, ((0, 0), (0, 1)), constant_values=len(store.codebook))
                yield int(start) + m, torch.from_numpy(grids.view(np.int16)).to(self.device)


class ListScan(_TableScan):
    """The probed lists of an ``IvfIndex``, held on the device."""

    def __init__(self, index: Any, device: torch.device) -> None:
        super().__init__(index, device)
        self._lists = torch.from_numpy(np.array(index.lists.codes).view(np.int16)).to(device)
        self._ids = torch.from_numpy(np.array(index.lists.ids, np.int64)).to(device)

    def _chunks(self, keys: np.ndarray) -> Iterator[tuple[int, torch.Tensor, ...]]:
        offsets, step = self.index.lists.offsets, max(1, self.chunk // self._lists.shape[1])
        for q, probes in enumerate(self.index.nearest_lists(keys)):
            rows = np.concatenate([np.arange(offsets[p], offsets[p + 1]) for p in probes])
            for some in torch.from_numpy(rows).split(step):
                some = some.to(self.device)
                held = _unsigned(self._lists[some])
                yield q, held[:, :-1], self._ids[some], held[:, -1]


def nearest(distances: torch.Tensor, entries: torch.Tensor, codes: torch.Tensor, k: int) -> Found:
    """The k least by (distance, entry), in that order; all of them if they are fewer."""
    found = distances, entries, codes
    if len(distances) > k:
        worst = distances.topk(k, largest=False).values[-1]
        near = distances <= worst  # may be more than k
        found = tuple(part[near] for part in found)
    for by in (1, 0):  # stable: entries first, then distances
        order = found[by].argsort(stable=True)
        found = tuple(part[order] for part in found)
    return tuple(part[:k] for part in found)


def fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes take no more than half of what is free on the device."""
    return device.type == "cuda" and 2 * size <= torch.cuda.mem_get_info(device)[0]


def _unsigned(codes: torch.Tensor) -> torch.Tensor:
    """uint16 that was taken for int16 -> int32."""
    return codes.int() & 0xFFFF
