"""The two places of a decoding step where retrieval can take part: before and after the forward.

An augmentation sees codes, which of them are known, and positions. It names no backbone.
"""

from __future__ import annotations

import torch


class Augmentation:
    """Hooks that the decoding loops call around a forward. This base class changes nothing.

    All hooks take ``codes``, int64 [B, H, W]; ``known``, bool [B, H, W], which codes are generated;
    and ``positions``, int64 [P], the flat positions that the step predicts.
    """

    def on_step_start(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Called before a forward. No positions: the augmentation takes no part in this step."""

    def on_probs(
        self,
        probs: torch.Tensor,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Change the probabilities to sample from.

        Args:
            probs: [B, P, V], after guidance and temperature.
            codes: The codes so far.
            known: Which of them are generated.
            positions: The predicted positions.

        Returns:
            The new probabilities, [B, P, V].
        """
        return probs
