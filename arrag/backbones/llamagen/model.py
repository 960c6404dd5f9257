"""LlamaGen, text to image: its own Llama over the features of a T5 encoder.

A prompt is ``text_length`` features, padded on the left and masked; the unconditional row has a
learned feature at every position, masked as in the prompt's row (FoundationVision/LlamaGen,
autoregressive/models/generate.py).
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
from arrag.backbones.llamagen.gpt import Gpt, GptConfig, rotary_table
from arrag.backbones.registry import register_backbone
from arrag.utils.checkpoint import load_assigned, read_tensors
from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import read_json

TEXT = "t5"
"""Folder of the text encoder and its tokenizer in a checkpoint."""


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
        self._rotary = rotary_table(config).to(weight.device, wide)

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
            found = f"its features have {captions.width} numbers, expected {config.text_width}"
            hint = "use the encoder that the checkpoint was trained with (flan-t5-xl)"
            raise MismatchError(found, path=checkpoint / TEXT, hint=hint)
        captions.model.to(device)
        return cls(model.to(device), captions)

    @property
    def decoder_layers(self) -> list[nn.Module]:
        return list(self.model.layers)

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Encode B prompts into guidance pairs; the language model is not run yet."""
        features, mask = self.tokenize(prompts)
        unconditional = self.model.cls_embedding.uncond_embedding.expand_as(features)
        inputs = self._embed_text(torch.cat([features, unconditional]))  # [2B, T, D]
        return self._begin(inputs, mask.repeat(2, 1), guidance_scale)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text features [B, T, text width] and mask int64 [B, T], padded on the left."""
        features, mask = self.captions(prompts)
        weight = self.model.output.weight
        return features.to(weight), mask.to(weight.device)

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        return self.captions.truncated_prompts(prompts)

    def _embed_text(self, text: torch.Tensor) -> torch.Tensor:
        return self.model.cls_embedding.cap_proj(text)

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.tok_embeddings(codes)

    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        count, length = inputs.shape[1], mask.shape[1]
        rotary = self._rotary[length - count : length]
        return self.model(inputs, rotary, causal_rows(mask.bool(), count), cache)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.output(hidden)


def read_config(raw: dict[str, Any], path: Path) -> GptConfig:
    """Read the sizes in a ``config.json``; those it does not name are the published ones.

    Raises:
        FormatError: It is of another model, or its heads do not divide its width into fours.
    """
    config = GptConfig(**{f.name: raw[f.name] for f in fields(GptConfig) if f.name in raw})
    hint = "give a folder that `arrag convert llamagen` made"
    if raw.get("_class_name") != "LlamaGen":
        found = f"is {raw.get('_class_name')!r}, expected 'LlamaGen'"
        raise FormatError(found, path=path, field="_class_name", hint=hint)
    if config.width % (4 * config.heads):
        found = f"is {config.width}, expected {config.heads} heads of a multiple of 4"
        raise FormatError(found, path=path, field="width", hint=hint)
    return config
