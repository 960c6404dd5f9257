"""Cache of search results: flat regions make many queries of a decoder equal.

A result depends on its query alone, so it can be used again in any step, image or batch.
"""

from __future__ import annotations

import numpy as np
import torch

from arrag.retrieval.base import PatchIndex

ROOM = 2**15
"""Queries kept; all are dropped when there would be more."""
ABSENT = 0
"""The row of a position that the border rule leaves out."""


class SearchCache:
    """The ``k`` nearest patches of an index for a decoder that asks for one position a step."""

    def __init__(self, index: PatchIndex, k: int) -> None:
        self.index, self.k = index, k
        self._distances = np.empty((ROOM + 1, k), np.float32)  # row 0: ABSENT
        self._codes = np.empty((ROOM + 1, k), np.int64)
        self._distances[ABSENT], self._codes[ABSENT] = np.inf, -1
        self._row_of: dict[bytes, int] = {}

    def augments(self, positions: torch.Tensor) -> bool:
        """Whether anything can be found for any of flat positions [P]."""
        return bool(self.index.inside[positions.cpu()].any())

    def search(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances float32 and codes int64, both [B, P, k], as ``PatchIndex.search`` finds them.

        Args:
            codes: integer [B, H, W].
            known: bool [B, H, W], which codes are generated.
            positions: integer [P], flat in raster order.
        """
        single = len(positions) == 1 and len(codes) <= ROOM
        if not single or tuple(codes.shape[1:]) != self.index.store.grid:
            found = self.index.search(codes, known, positions, self.k)
            return found.distances, found.codes
        rows = [ABSENT] * len(codes)
        if self.augments(positions):
            rows = self._rows(self.index.neighborhood.gather(codes, known, positions)[:, 0])
        parts = (torch.from_numpy(part[rows]) for part in (self._distances, self._codes))
        distances, found = (part[:, None].to(codes.device) for part in parts)
        return distances, found

    def _rows(self, neighbors: torch.Tensor) -> list[int]:
        """The rows of the results of queries [B, n], searched if need be."""
        keys = [key.tobytes() for key in neighbors.cpu().numpy()]
        if len(self._row_of) + len(keys) > ROOM:
            self._row_of.clear()
        new = {key: i for i, key in enumerate(keys) if key not in self._row_of}
        if new:
            found = self.index.search_keys(neighbors[list(new.values())], self.k)
            rows = range(len(self._row_of) + 1, len(self._row_of) + 1 + len(new))
            self._distances[rows[0] : rows[-1] + 1] = found.distances.numpy()
            self._codes[rows[0] : rows[-1] + 1] = found.codes.numpy()
            self._row_of.update(zip(new, rows, strict=True))
        return [self._row_of[key] for key in keys]
