"""Emu3 on transformers' own class: an autoregressive model whose rows of codes end with a token.

A prompt names the grid, ``{bos}{text}{boi}{H}*{W}{image}``, and every row of codes is followed by
one token that ends it. That token is fed, never sampled: it and the last code of its row are the
two inputs of one step, so that the decoding loop sees codes alone. The unconditional row is a
negative prompt.
Source: Emu3 (arXiv 2409.18869), its public code and transformers' Emu3Processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer, Cache, Emu3ForConditionalGeneration

from arrag.backbones.causal import CausalBackbone, State, run_decoder
from arrag.backbones.prompt_checks import check_ids, check_lengths, check_prompts
from arrag.backbones.registry import register_backbone
from arrag.tokenizers.vq import emu3_grid_side
from arrag.utils.checkpoint import load_pretrained, loading

POSITIVE = " masterpiece, film grained, best quality."
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
"""What the original appends to a prompt, and the prompt of its unconditional row."""

BOS, BOI, IMAGE = "<|extra_203|>", "<|image start|>", "<|image token|>"
ROW_END, CODE = "<|extra_200|>", "<|visual token {:06d}|>"


@register_backbone("emu3")
class Emu3Backbone(CausalBackbone):
    """Emu3-Gen."""

    def __init__(self, model: Emu3ForConditionalGeneration, tokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = model.config
        vq, side = config.vq_config, emu3_grid_side(config.to_dict())
        super().__init__((side, side), vq.codebook_size, config.text_config.hidden_size)
        self.row_length = side
        words = config.vocabulary_map
        self.row_end_id: int = words[ROW_END]
        ids = [words[CODE.format(code)] for code in range(self.codebook_size)]
        self._ids = torch.tensor(ids, device=model.device)  # of the codes, [V]

    @classmethod
    def load(
        cls, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"
    ) -> Emu3Backbone:
        """Load a checkpoint folder in transformers' format."""
        checkpoint = Path(checkpoint)
        with loading(checkpoint, "an Emu3 checkpoint"):
            model = load_pretrained(Emu3ForConditionalGeneration, checkpoint, dtype)
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        names = [BOS, BOI, IMAGE, ROW_END]
        names += [CODE.format(code) for code in (0, model.config.vq_config.codebook_size - 1)]
        expected = {name: (model.config.vocabulary_map or {}).get(name, "an id") for name in names}
        found = tokenizer.get_vocab()
        check_ids(checkpoint, expected, {name: found.get(name) for name in names})
        return cls(model.to(device), tokenizer)

    @property
    def num_parameters(self) -> int:
        """Weights of the language model; the paper's Params."""
        parts = (self.model.model.text_model, self.model.lm_head)
        return sum(p.numel() for part in parts for p in part.parameters())

    @property
    def decoder_layers(self) -> list[nn.Module]:
        return list(self.model.model.text_model.layers)

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Tokenise B prompts into guidance pairs; nothing is run yet."""
        ids, mask = self._tokenize(prompts, [NEGATIVE] * len(prompts))  # [2B, T]
        return self._begin(self._embed_text(ids), mask, guidance_scale)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, both int64 [B, T], of prompts in the template, padded on the left."""
        return self._tokenize(prompts, [])

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(self._ids[codes])

    def _tokenize(
        self, prompts: Sequence[str], negative: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of prompts, and of negative prompts below them."""
        check_prompts(self.tokenizer, prompts)
        texts = [*(prompt + POSITIVE for prompt in prompts), *negative]
        height, width = self.grid
        texts = [f"{BOS}{text}{BOI}{height}*{width}{IMAGE}" for text in texts]
        rows = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        lengths = rows.attention_mask[: len(prompts)].sum(1).tolist()
        context = self.model.config.text_config.max_position_embeddings
        check_lengths(prompts, lengths, self.image_tokens, context)
        return rows.input_ids.to(self.device), rows.attention_mask.to(self.device)

    def _row_end(self, batch: int) -> torch.Tensor:
        ends = torch.full((batch, 1), self.row_end_id, device=self.device)
        return self.model.get_input_embeddings()(ends)

    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        return run_decoder(self.model.model.text_model, inputs, mask, cache)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.model.lm_head.weight[self._ids])
