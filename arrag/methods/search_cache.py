"""What a decoder's searches found, kept: flat regions make many queries equal.

A result depends on its query alone, so that it may be used again in any step, image or batch.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from arrag.retrieval.base import PatchIndex

ROOM = 2**15
"""Queries kept; all are forgotten when there are more."""
ABSENT = 0
"""The row of a position that the border rule leaves out."""


class SearchCache:
    """The ``k`` nearest patches of an index for a decoder that asks for one position a step."""

    def __init__(self, index: PatchIndex, k: int) -> None:
        self.index, self.k = index, k
        self._distances = np.full((1, k), np.inf, np.float32)  # of the queries kept, from row 1
        self._codes = np.full((1, k), -1, np.int64)
        self._row: dict[bytes, int] = {}

    @cached_property
    def _inside(self) -> torch.Tensor:
        """Which positions the border rule takes: bool [N]."""
        return self.index.neighborhood.valid_positions(*self.index.store.grid).flatten()

    def augments(self, positions: torch.Tensor) -> bool:
        """Whether anything can be found for any of flat positions [P]."""
        return bool(self._inside[positions.cpu()].any())

    def search(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances float32 and codes int64, both [B, P, k], as of ``PatchIndex.search``."""
        if len(positions) != 1 or tuple(codes.shape[1:]) != self.index.store.grid:
            found = self.index.search(codes, known, positions, self.k)
            return found.distances, found.codes
        if self.augments(positions):
            around = self.index.neighborhood.gather(codes, known, positions)[:, 0]  # [B, n]
            rows = self._rows(around)
        else:
            rows = [ABSENT] * len(codes)
        parts = (torch.from_numpy(part[rows]) for part in (self._distances, self._codes))
        distances, found = (part[:, None].to(codes.device) for part in parts)
        return distances, found

    def _rows(self, around: torch.Tensor) -> list[int]:
        """Where the results of queries [B, n] are kept."""
        names = [key.tobytes() for key in around.cpu().numpy()]
        if len(self._row) + len(names) > ROOM:
            self._row.clear()
        new = {name: i for i, name in enumerate(names) if name not in self._row}
        if new:
            found = self.index.search_keys(around[list(new.values())], self.k)
            start = len(self._row) + 1
            self._distances = _put(self._distances, start, found.distances.numpy())
            self._codes = _put(self._codes, start, found.codes.numpy())
            self._row.update(zip(new, range(start, start + len(new)), strict=True))
        return [self._row[name] for name in names]


def _put(kept: np.ndarray, start: int, new: np.ndarray) -> np.ndarray:
    """Rows [n, k] put at ``start``; with twice the room where they would not fit."""
    stop = start + len(new)
    if stop > len(kept):
        more = np.empty((max(len(kept), stop - len(kept)), kept.shape[1]), kept.dtype)
        kept = np.concatenate([kept, more])
    kept[start:stop] = new
    return kept
