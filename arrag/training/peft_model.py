"""A backbone prepared for fine-tuning: LoRA, its generation head and a FAiD adapter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from arrag.config.training import LoraSettings
from arrag.methods.adapter_folder import LORA_A, LORA_B
from arrag.methods.faid.adapter import FAiD
from arrag.training.masked import masked_losses

TARGETS = ("q_proj", "v_proj")


class PeftBackbone(nn.Module):
    """A backbone of which only LoRA, the head and the adapter are trained.

    ``forward`` returns losses, as distributed training needs.

    Args:
        backbone: The backbone; its model is converted to float32.
        lora: LoRA (arXiv 2106.09685) of the query and value projections; None trains none.
        head: Name of the part of the backbone's ``model`` to train; None trains none.
        faid: The adapter, which is attached to the backbone.
    """

    def __init__(
        self, backbone, *, lora: LoraSettings | None, head: str | None, faid: FAiD | None
    ) -> None:
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
            for layer in backbone.decoder_layers:
                inject_adapter_in_model(config, layer)
        self._head = head
        if head is not None:
            self.model.get_submodule(head).requires_grad_(True)
        if faid is not None:
            faid.attach(backbone)

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        codes: torch.Tensor,
        retrieved: torch.Tensor | None = None,
        prefix: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean cross-entropy in nats of each image's (masked) tokens: [B].

        Args:
            ids, mask: Of the prompts, [B, T].
            codes: int64 [B, N].
            retrieved: int64 [B, N, K], -1 where absent; for FAiD.
            prefix: [B, R, D], see ``JanusBackbone.teacher_forced``.
            known: bool [B, N], False where masked; for masked backbones.
        """
        if self.faid is not None:
            grids = None if known is None else known.unflatten(1, self.backbone.grid)
            self.faid.set_retrieved(retrieved, known=grids)
        if known is None:
            logits = self.backbone.teacher_forced((ids, mask), codes, prefix)  # [B, N, V]
            return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").mean(1)
        logits = self.backbone.teacher_forced((ids, mask), codes, known)
        return masked_losses(logits, codes, known).sum(1) / (~known).sum(1)

    def delta(self) -> dict[str, torch.Tensor]:
        """The trained weights of the backbone, named as in :mod:`arrag.methods.adapter_folder`."""
        changes = {}
        for name, module in self.model.named_modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                weight = f"{name}.weight"
                changes[weight + LORA_A] = module.lora_A["default"].weight
                scale = module.scaling["default"]
                changes[weight + LORA_B] = module.lora_B["default"].weight * scale
        if self._head is not None:
            head = self.model.get_submodule(self._head)
            changes |= {f"{self._head}.{name}": value for name, value in head.named_parameters()}
        return changes
