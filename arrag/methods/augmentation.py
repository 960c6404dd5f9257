"""Retrieval in a decoding step: before the forward (features), or after it (probabilities).

An augmentation sees codes, what is known and positions; it names no backbone.
"""

from __future__ import annotations

import torch


class Augment:
    """What the decoding loops call around a forward; this one does nothing.

    codes: int64 [B, H, W]; known: bool [B, H, W], which codes are generated; positions: int64 [P],
    flat, the positions that the step predicts.
    """

    def before(self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor) -> None:
        """Called before the forward that predicts ``positions``; none: it takes no part in it."""

    def after(
        self,
        probs: torch.Tensor,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Probabilities [B, P, V] (after guidance and temperature) to sample from: [B, P, V]."""
        return probs
