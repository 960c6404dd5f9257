"""Generate samples again, recording the order in which their codes were generated."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from arrag.methods.augmentation import Augmentation
from arrag.methods.generator import TokenGenerator
from arrag.utils.batching import batched_by_memory


class SampleCodes(NamedTuple):
    """A sample's codes, and the order of their generation.

    Args:
        codes: int64 [H, W].
        order: int64 [H, W], the step of each code, below 0 before the steps that retrieve; None
            for raster order.
    """

    codes: np.ndarray
    order: np.ndarray | None = None


class RecordingAugmentation(Augmentation):
    """Wraps an augmentation and records which codes were known at each of its steps."""

    def __init__(self, augment: Augmentation) -> None:
        self.augment = augment
        self.known: list[torch.Tensor] = []  # bool [B, H, W] each

    def on_step_start(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """As the augmentation itself."""
        self.augment.on_step_start(codes, known, positions)

    def on_probs(
        self,
        probs: torch.Tensor,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """As the augmentation itself."""
        self.known.append(known.clone())
        return self.augment.on_probs(probs, codes, known, positions)

    def order(self) -> torch.Tensor:
        """The step of each code, counted from the first recorded one: int64 [B, H, W].

        -1: the code was known before.
        """
        return (~torch.stack(self.known)).sum(0) - 1


def replay_samples(
    generator: TokenGenerator, jobs: list[tuple[str, int]], seed: int, batch_size: int | None
) -> list[SampleCodes]:
    """Generate (prompt, sample) again; the same random numbers give the same codes."""

    def draw(batch: list[tuple[str, int]]) -> list[SampleCodes]:
        recording = RecordingAugmentation(generator.augmentation)
        recorded = replace(generator, augmentation=recording)
        codes = recorded.generate_codes(*zip(*batch, strict=True), seed).cpu().numpy()
        orders = recording.order().cpu().numpy()
        return [SampleCodes(c, o) for c, o in zip(codes, orders, strict=True)]

    drawn = batched_by_memory(draw, jobs, batch_size)
    return [one for _, some in tqdm(drawn, desc="replay", unit="batch") for one in some]
