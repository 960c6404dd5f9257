"""A sample's drawing once more: its codes, and the order in which they were settled."""

from __future__ import annotations

from dataclasses import replace

import torch
from tqdm import tqdm

from arrag.methods.augmentation import Augmentation
from arrag.methods.generator import TokenGenerator
from arrag.report.page.patches import Drawing
from arrag.utils.batching import in_batches


class Watched(Augmentation):
    """An augmentation, and which codes were known at each step that it took part in."""

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
        """The step that settled each code, counted from the first one watched: int64 [B, H, W].

        -1: it was known before.
        """
        return (~torch.stack(self.known)).sum(0) - 1


def draw_again(
    sampler: TokenGenerator, jobs: list[tuple[str, int]], seed: int, batch_size: int | None
) -> list[Drawing]:
    """Draw (prompt, sample) again; the same randomness gives the same codes."""

    def draw(batch: list[tuple[str, int]]) -> list[Drawing]:
        watched = Watched(sampler.augmentation)
        watching = replace(sampler, augmentation=watched)
        codes = watching.generate_codes(*zip(*batch, strict=True), seed).cpu().numpy()
        orders = watched.order().cpu().numpy()
        return [Drawing(c, o) for c, o in zip(codes, orders, strict=True)]

    drawn = in_batches(draw, jobs, batch_size)
    return [one for _, some in tqdm(drawn, desc="drawn again", unit="batch") for one in some]
