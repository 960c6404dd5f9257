"""The masked objective: a random share of tokens is masked, and those masked are predicted.

As in Show-o's training and MaskGIT (arXiv 2202.04200): the share is a cosine of a uniform angle,
from one token to all, and each masked token has the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def random_known(batch: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw known tokens, bool [B, N]; the masked share is the cosine of a uniform angle."""
    share = torch.cos(math.pi / 2 * torch.rand(batch, 1, generator=generator))
    unknown = (share * count).round().clamp(min=1)
    order = torch.rand(batch, count, generator=generator).argsort(1).argsort(1)
    return order >= unknown


def seeded_known(key: Sequence[int], batch: int, count: int) -> torch.Tensor:
    """The :func:`random_known` of a key of numbers: bool [B, N]."""
    seed = int(np.random.default_rng(list(key)).integers(2**63))
    return random_known(batch, count, torch.Generator().manual_seed(seed))


def masked_losses(logits: torch.Tensor, codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of the masked tokens of logits [B, N, V], 0 where known: [B, N]."""
    losses = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
    return losses.view(codes.shape).where(~known, 0.0)


class StepMasks:
    """Random masks of a training, drawn by ``key``: ``images`` of ``count`` tokens each step."""

    def __init__(self, key: Sequence[int], images: int, count: int) -> None:
        self._key, self._images, self._count = tuple(key), images, count
        self._step, self._known = -1, torch.empty(0)

    def at(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens are known, bool [n, N], and weights [n] of images of one step.

        ``indices`` [n] are counted through the training. With these weights, the mean over a step's
        images of each one's mean loss is the mean over all masked tokens of the step, however the
        step is split into micro-batches.
        """
        step = int(indices[0]) // self._images
        if self._step != step:
            self._step = step
            self._known = seeded_known([*self._key, step], self._images, self._count)
        unknown = (~self._known).sum(1).float()
        rows = indices % self._images
        return self._known[rows], (unknown / unknown.mean())[rows]
