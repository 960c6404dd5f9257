"""The masked objective: codes are hidden as a cosine says, and those hidden are to be said.

As Show-o trains (and MaskGIT, arXiv 2202.04200): an image meets every share of hidden codes, from
one code to all of them, and each hidden code counts alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def noise(batch: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Which codes are known, bool [B, N]: the unknown share is the cosine of a uniform angle."""
    share = torch.cos(math.pi / 2 * torch.rand(batch, 1, generator=generator))
    unknown = (share * count).round().clamp(min=1)
    order = torch.rand(batch, count, generator=generator).argsort(1).argsort(1)
    return order >= unknown


def seeded_noise(key: Sequence[int], batch: int, count: int) -> torch.Tensor:
    """The :func:`noise` that belongs to some numbers: bool [B, N]."""
    seed = int(np.random.default_rng(list(key)).integers(2**63))
    return noise(batch, count, torch.Generator().manual_seed(seed))


def unknown_losses(logits: torch.Tensor, codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of the unknown codes, 0 where known: [B, N].

    logits: [B, N, V]; codes: int64 [B, N]; known: bool [B, N].
    """
    losses = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
    return losses.view(codes.shape).where(~known, 0.0)


class StepNoise:
    """The noise of a training's images, drawn step by step.

    key: what it belongs to; images: in a step; count: codes of an image.
    """

    def __init__(self, key: Sequence[int], images: int, count: int) -> None:
        self._key, self._images, self._count = tuple(key), images, count
        self._step, self._known = -1, torch.empty(0)

    def at(self, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Of images at some places of one step: known, bool [n, N], and their weights, [n].

        places: counted on through the training. With these weights the mean over a step's images
        of the mean loss of each one's unknown codes is the mean over all its unknown codes, however
        the step is cut.
        """
        step = int(places[0]) // self._images
        if self._step != step:
            self._step, self._known = (
                step,
                seeded_noise([*self._key, step], self._images, self._count),
            )
        unknown = (~self._known).sum(1).float()
        rows = places % self._images
        return self._known[rows], (unknown / unknown.mean())[rows]
