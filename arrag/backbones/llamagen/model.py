"""LlamaGen, text to image: its own Llama over the features of a T5 encoder.

A prompt is ``text_length`` features, those of no token on the left and hidden; the unconditional
row is a learned feature at every place, of which the same places are hidden as in the prompt's
row (FoundationVision/LlamaGen, autoregressive/models/generate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Cache

from arrag.backbones.causal import CausalBackbone, State, causal_rows
from arrag.backbones.llamagen.captions import CaptionEncoder, load_captions
from arrag.backbones.llamagen.gpt import Gpt, GptConfig, rotations
from arrag.backbones.registry import register_backbone
from arrag.utils.checkpoint import load_assigned, read_tensors
from arrag.utils.errors import ArragError, MismatchError
from arrag.utils.files import read_json

TEXT = "t5"
"""Folder in a checkpoint with the text encoder and its tokenizer."""


@register_backbone("llamagen")
class LlamaGenBackbone(CausalBackbone):
    """LlamaGen. A prompt longer than the text encoder reads is truncated, as in the original."""

    def __init__(self, model: Gpt, captions: CaptionEncoder | None):
        self.model = model.eval().requires_grad_(False)
        self.captions = captions
        config = model.config
        super().__init__((config.grid, config.grid), config.codes, config.width)
        weight = model.output.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._turns = rotations(config).to(weight.device, wide)

    @classmethod
    def load(
        cls, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"
    ) -> LlamaGenBackbone:
        """Load a folder that ``arrag convert llamagen`` made, with google/flan-t5-xl in ``t5``."""
        checkpoint = Path(checkpoint)
        config = read_config(read_json(checkpoint / "config.json"), checkpoint / "config.json")
        model = load_assigned(lambda: Gpt(config), read_tensors(checkpoint), checkpoint, dtype)
        captions = load_captions(checkpoint / TEXT, dtype, config.text_length)
        if captions.width != config.text_width:
            raise MismatchError(
                f"its features have {captions.width} numbers, the checkpoint takes "
                f"{config.text_width}",
                path=checkpoint / TEXT,
                hint="use the encoder that the checkpoint was trained with (flan-t5-xl)",
            )
        captions.model.to(device)
        return cls(model.to(device), captions)

    @property
    def decoder_layers(self) -> list[nn.Module]:
        """The decoder layers, first to last."""
        return list(self.model.layers)

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Encode B prompts into guidance pairs; the language model is not run yet.

        Raises ArragError as :meth:`tokenize` does.
        """
        features, mask = self.tokenize(prompts)
        features = torch.cat([features, self._unconditional(features)])
        inputs = self.model.cls_embedding.cap_proj(features)  # [2B, T, D]
        return self._begin(inputs, mask.repeat(2, 1), guidance_scale)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, T, text width] and mask int64 [B, T] of prompts, padded on the left.

        Raises ArragError for a prompt that is empty, also when cleaned, or holds a marker.
        """
        features, mask = self.captions(prompts)
        weight = self.model.output.weight
        return features.to(weight), mask.to(weight.device)

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts whose end is left out."""
        return self.captions.truncated_prompts(prompts)

    def _unconditional(self, features: torch.Tensor) -> torch.Tensor:
        """The unconditional rows of prompts whose features are [B, T, text width]."""
        return self.model.cls_embedding.uncond_embedding.expand_as(features)

    def teacher_forced(
        self, prompts: list[str] | tuple[torch.Tensor, torch.Tensor], codes: torch.Tensor
    ) -> torch.Tensor:
        """Logits of every code of B images given the codes before it: [B, N, V], no guidance.

        prompts: B texts, or their features and mask as :meth:`tokenize` gives them. codes: int64
        [B, H, W] or [B, N]. Differentiable.
        """
        features, mask = self.tokenize(prompts) if isinstance(prompts, list) else prompts
        return self._forced(self.model.cls_embedding.cap_proj(features), mask, codes)

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [...] -> what the language model reads for them, [..., D]."""
        return self.model.tok_embeddings(codes)

    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        count, length = inputs.shape[1], mask.shape[1]
        turns = self._turns[length - count : length]
        return self.model(inputs, turns, causal_rows(mask.bool(), count), cache)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.output(hidden)


def read_config(raw: dict[str, Any], path: Path) -> GptConfig:
    """The sizes in a ``config.json``; what it does not name is as published.

    Raises ArragError for another model, or a width that its heads do not divide into fours.
    """
    known = {field.name for field in fields(GptConfig)}
    sizes = {name: value for name, value in raw.items() if name in known}
    config = GptConfig(**sizes)
    if raw.get("_class_name") != "LlamaGen" or config.width % (4 * config.heads):
        raise ArragError(
            f"{path}: _class_name is {raw.get('_class_name')!r}, expected 'LlamaGen', and width "
            f"{config.width} must be {config.heads} heads of a multiple of 4; give a folder that "
            "`arrag convert llamagen` made"
        )
    return config
