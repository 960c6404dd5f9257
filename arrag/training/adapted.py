"""A generator made ready for fine-tuning: LoRA, its generation head, and an adapter beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from arrag.adapter import LORA_A, LORA_B
from arrag.augment.faid import FAiD

TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of the query and value projections (paper: 128, 256, 0.05)."""

    r: int = 128
    alpha: float = 256
    dropout: float = 0.05


class Adapted(nn.Module):
    """A backbone of which only LoRA, the head and the adapter are trained, as asked.

    Called with a batch it gives each image's loss, so that one process or many can train it.
    """

    def __init__(self, backbone, *, lora: Lora | None, head: bool, faid: FAiD | None) -> None:
        super().__init__()
        self.backbone = backbone  # no module: its weights are those of ``model``
        self.model, self.faid, self.lora = backbone.model.float(), faid, lora
        self.model.requires_grad_(False)
        if lora is not None:
            config = LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=list(TARGETS),
                bias="none",
            )
            inject_adapter_in_model(config, self.model.model.language_model)
        self.head = self.model.model.generation_head if head else None
        if head:
            self.head.requires_grad_(True)
        if faid is not None:
            faid.attach(backbone)

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        codes: torch.Tensor,
        retrieved: torch.Tensor | None = None,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean cross-entropy of each image's codes, in nats: [B].

        ids, mask: [B, T]; codes: int64 [B, N]; retrieved: int64 [B, N, K], -1 where absent, for
        the adapter; prefix: [B, R, D], see ``teacher_forced``.
        """
        if self.faid is not None:
            self.faid.hand(retrieved)
        logits = self.backbone.teacher_forced((ids, mask), codes, prefix)  # [B, N, V]
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").mean(1)

    def delta(self) -> dict[str, torch.Tensor]:
        """What was trained of the backbone, as :mod:`arrag.adapter` names it."""
        changes = {}
        for name, module in self.model.named_modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                weight = f"{name}.weight"
                changes[weight + LORA_A] = module.lora_A["default"].weight
                changes[weight + LORA_B] = (
                    module.lora_B["default"].weight * module.scaling["default"]
                )
        if self.head is not None:
            changes |= {
                f"model.generation_head.{name}": value
                for name, value in self.head.named_parameters()
            }
        return changes
