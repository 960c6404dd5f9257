"""Janus and Janus-Pro on transformers' own class, with its text template and guidance rows.

``generate()`` of transformers is not used: its logits processors run before guidance and never see
the image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, Cache, JanusForConditionalGeneration

from arrag.backbones._cpu_decode import LlamaSteps, supports_steps
from arrag.backbones.causal import CausalBackbone, State, run_decoder
from arrag.backbones.prompt_checks import check_ids, check_lengths, check_prompts
from arrag.backbones.registry import register_backbone
from arrag.utils.checkpoint import load_pretrained, loading

TEMPLATE = "<|User|>: {prompt}\n\n<|Assistant|>:<begin_of_image>"
BOI = "<begin_of_image>"


@register_backbone("janus")
class JanusBackbone(CausalBackbone):
    """Janus-Pro (arXiv 2501.17811) and checkpoints in its format."""

    trainable_head = "model.generation_head"

    def __init__(self, model: JanusForConditionalGeneration, tokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        vq, side = model.config.vq_config, model.config.vq_config.num_patches
        super().__init__((side, side), vq.num_embeddings, model.config.text_config.hidden_size)
        self.boi = tokenizer.convert_tokens_to_ids(BOI)
        pad = model.generation_config.pad_token_id
        self.pad = tokenizer.pad_token_id if pad is None else pad

    @classmethod
    def load(
        cls, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"
    ) -> JanusBackbone:
        """Load a checkpoint folder in transformers' format."""
        checkpoint = Path(checkpoint)
        with loading(checkpoint, "a Janus checkpoint"):
            model = load_pretrained(JanusForConditionalGeneration, checkpoint, dtype)
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        ids, text = model.generation_config, model.config.text_config
        boi = getattr(ids, "boi_token_id", None)
        boi = (getattr(ids, "generation_kwargs", None) or {}).get("boi_token_id", boi)  # if newer
        found = {BOI: tokenizer.get_vocab().get(BOI), "bos_token": tokenizer.bos_token_id}
        if boi is None:  # not every checkpoint says; it must have an embedding at least
            known = found[BOI] is not None and found[BOI] < text.vocab_size
            boi = found[BOI] if known else f"an id below {text.vocab_size}"
        check_ids(checkpoint, {BOI: boi, "bos_token": text.bos_token_id}, found)
        return cls(model.to(device), tokenizer)

    @property
    def num_parameters(self) -> int:
        """Weights of the language model and its image embeddings and head; the paper's Params."""
        parts = self.model.model
        used = (
            parts.language_model, parts.generation_embeddings, parts.generation_aligner,
            parts.generation_head,
        )  # fmt: skip
        return sum(p.numel() for part in used for p in part.parameters())

    @property
    def decoder_layers(self) -> list[nn.Module]:
        return list(self.model.model.language_model.layers)

    def start(
        self, prompts: list[str], guidance_scale: float, prefix: torch.Tensor | None = None
    ) -> State:
        """Tokenise B prompts into guidance pairs; nothing is run yet.

        Args:
            prompts: The texts.
            guidance_scale: g of u + g (c - u).
            prefix: [B, R, D], inputs before each prompt, such as ``embed_codes`` of an image; the
                unconditional rows have as much padding there.
        """
        ids, mask = self.tokenize(prompts)  # [B, T]
        ids = torch.cat([ids, self.unconditional_ids(ids, mask)[0]])  # [2B, T]
        if prefix is not None:
            prefix = torch.cat([prefix, self.null_prefix(prefix)])  # [2B, R, D]
        inputs, mask = self._with_prefix(prefix, ids, mask.repeat(2, 1))
        return self._begin(inputs, mask, guidance_scale)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, both int64 [B, T], of prompts in the template, padded on the left."""
        check_prompts(self.tokenizer, prompts)
        texts = [TEMPLATE.format(prompt=prompt) for prompt in prompts]
        text = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        context = self.model.config.text_config.max_position_embeddings
        check_lengths(prompts, text.attention_mask.sum(1).tolist(), self.image_tokens, context)
        return text.input_ids.to(self.device), text.attention_mask.to(self.device)

    def unconditional_ids(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask [B, T] of the unconditional rows of prompts."""
        return unconditional_row(ids, self.tokenizer.bos_token_id, self.boi, self.pad), mask

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.prepare_embeddings_for_image_generation(codes)

    def null_prefix(self, prefix: torch.Tensor) -> torch.Tensor:
        """The prefix of unconditional rows: padding of the same shape, which is attended to."""
        pad = torch.tensor(self.pad, device=self.device)
        return self.model.get_input_embeddings()(pad).to(prefix).expand_as(prefix)

    def _with_prefix(
        self, prefix: torch.Tensor | None, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, R + T, D] and mask [B, R + T] of prompts with their prefix."""
        text = self._embed_text(ids)  # [B, T, D]
        if prefix is None:
            return text, mask
        # Padding between prefix and prompt has no effect: it is masked and takes no position id.
        before = mask.new_ones(prefix.shape[:2])
        return torch.cat([prefix.to(text.dtype), text], dim=1), torch.cat([before, mask], dim=1)

    def teacher_forced(
        self,
        prompts: list[str] | tuple[torch.Tensor, torch.Tensor],
        codes: torch.Tensor,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As :meth:`CausalBackbone.teacher_forced`.

        ``prefix`` is as for :meth:`start`, with :meth:`null_prefix` in unconditional rows.
        """
        ids, mask = self.tokenize(prompts) if isinstance(prompts, list) else prompts
        return self._forced(*self._with_prefix(prefix, ids, mask), codes)

    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        return run_decoder(self.model.model.language_model, inputs, mask, cache)

    def _steps(self, state: State) -> LlamaSteps | None:
        model, head = self.model.model.language_model, self.model.model.generation_head
        if not supports_steps(model):
            return None
        parts = [head.proj_out, head.activation_fn, head.vision_head]
        return LlamaSteps(model, parts, state.cache, state.mask)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.model.generation_head(hidden)


def unconditional_row(ids: torch.Tensor, bos: int, boi: int, pad: int) -> torch.Tensor:
    """Replace all of ``ids`` but BOS and BOI by padding, which is attended to.

    Source: deepseek-ai/Janus, generation_inference.py.
    """
    return torch.where((ids == bos) | (ids == boi), ids, pad)
