"""aMUSEd: diffusers' masked transformer over a CLIP text encoder.

Only the networks of diffusers' pipeline are used; with linear annealing, arrag's decoding loop has
the schedule of its scheduler. Guidance is u + g (c - u), where u is of the empty prompt.
Source: aMUSEd (arXiv 2401.01808) and diffusers' AmusedPipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UVit2DModel
from torch import nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from arrag.backbones.base import Backbone, ImageTokenSpans, TokenSpan, at_least_float32
from arrag.backbones.prompt_checks import check_ids, check_prompts, warn_truncated
from arrag.backbones.registry import register_backbone
from arrag.utils.checkpoint import load_assigned, load_pretrained, loading, read_tensors
from arrag.utils.errors import MismatchError, UsageError
from arrag.utils.files import read_json

AESTHETIC_SCORE = 6
"""Aesthetic score out of 10 that images are conditioned on; the pipeline's default."""


@dataclass
class State:
    """The state of a batch of B prompts: their encoded text, conditional rows first."""

    pooled: torch.Tensor  # [R, projection], R = 2B, or B without guidance
    hidden: torch.Tensor  # [R, T, text width]
    guidance_scale: float


@register_backbone("amused")
class AmusedBackbone(Backbone):
    """aMUSEd. A prompt longer than the text encoder reads is truncated, as in the original.

    Args:
        model: The transformer.
        text_encoder: None if prompts are never encoded.
        tokenizer: The text encoder's.
        mask_id: Id of the mask token.
        patch: Pixels a side of an image token.
    """

    decoding = "masked"

    def __init__(
        self,
        model: UVit2DModel,
        text_encoder: CLIPTextModelWithProjection | None,
        tokenizer,
        mask_id: int,
        patch: int = 16,
    ):
        self.model = model.eval().requires_grad_(False)
        self.text_encoder = text_encoder and text_encoder.eval().requires_grad_(False)
        self.tokenizer, self.mask_id, self.patch = tokenizer, mask_id, patch
        config = model.config
        self.grid = (config.sample_size, config.sample_size)
        self.codebook_size: int = config.codebook_size
        self.hidden_size: int = config.hidden_size

    @classmethod
    def load(
        cls, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"
    ) -> AmusedBackbone:
        """Load a checkpoint folder in diffusers' format (amused/amused-256)."""
        checkpoint = Path(checkpoint)
        folder = checkpoint / "transformer"
        config = read_json(folder / "config.json")
        tensors = read_tensors(folder)
        model = load_assigned(lambda: UVit2DModel.from_config(config), tensors, folder, dtype)
        with loading(checkpoint, "an aMUSEd checkpoint with text_encoder and tokenizer"):
            text = checkpoint / "text_encoder"
            encoder = load_pretrained(CLIPTextModelWithProjection, text, dtype)
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint / "tokenizer", local_files_only=True
            )
        scheduler = checkpoint / "scheduler"
        mask_id = read_json(scheduler / "scheduler_config.json").get("mask_token_id")
        codes, ids = model.config.codebook_size, model.config.vocab_size
        if mask_id is None or not codes <= mask_id < ids:
            found = f"is {mask_id}, expected an id of the transformer from {codes} to {ids - 1}"
            hint = "download the checkpoint again"
            raise MismatchError(found, path=scheduler, field="mask_token_id", hint=hint)
        expected = {"size": encoder.config.vocab_size, "eos_token": encoder.config.eos_token_id}
        found = {"size": len(tokenizer), "eos_token": tokenizer.eos_token_id}
        check_ids(checkpoint / "tokenizer", expected, found)
        levels = len(read_json(checkpoint / "vqvae" / "config.json")["block_out_channels"])
        return cls(model.to(device), encoder.to(device), tokenizer, mask_id, 2 ** (levels - 1))

    @property
    def decoder_layers(self) -> list[HookableLayer]:
        """The transformer's layers, first to last.

        Raises:
            UsageError: The layers have one hidden state for four codes, as in amused-512.
        """
        if self.model.config.downsample:
            found = "the layers of this aMUSEd checkpoint have one hidden state for four codes"
            raise UsageError(found, hint="use amused-256 for feature-level augmentation")
        return [HookableLayer(layer) for layer in self.model.transformer_layers]

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Encode the text of B prompts. Without guidance (1) there are B rows, else 2B."""
        rows = [self._encode(ids) for ids in self.tokenize(prompts)]
        if guidance_scale != 1:
            rows += [self._encode(self._ids(""))] * len(prompts)
        pooled, hidden = (torch.cat(part) for part in zip(*rows, strict=True))
        return State(pooled, hidden, guidance_scale)

    def logits(
        self, state: State, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        logits = self._forward(state, codes, known)[..., positions].mT  # [R, P, V]
        if len(logits) == len(codes):
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + state.guidance_scale * (conditional - unconditional)

    def teacher_forced(
        self, prompts: list[str], codes: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, N, V] of every image token given the known ones; no guidance, differentiable.

        Args:
            prompts: B texts.
            codes: int64 [B, H, W] or [B, N].
            known: bool, like ``codes``; the others are masked.
        """
        shape = (len(codes), *self.grid)
        return self._forward(self.start(prompts, 1.0), codes.view(shape), known.view(shape)).mT

    def tokenize(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Ids int64 [1, T] of each prompt, padded on the right."""
        check_prompts(self.tokenizer, prompts)
        warn_truncated(self.truncated_prompts(prompts), self._length)
        return [self._ids(prompt) for prompt in prompts]

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        lengths = [len(self.tokenizer(prompt, verbose=False).input_ids) for prompt in prompts]
        return [p for p, length in zip(prompts, lengths, strict=True) if length > self._length]

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., D] of image tokens, int64 [...], in the space of the layers' inputs.

        The convolutions between embedding and layers are left out, since they mix neighbours.
        """
        model = self.model
        embedded = model.embed(codes.reshape(-1, 1, 1))[..., 0, 0]  # [n, channels]
        states = model.project_to_hidden(model.project_to_hidden_norm(embedded))
        return states.view(*codes.shape, -1)

    @property
    def _length(self) -> int:
        limit = self.text_encoder.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, limit)

    def _ids(self, prompt: str) -> torch.Tensor:
        return self.tokenizer(
            prompt, max_length=self._length, padding="max_length", padding_side="right",
            truncation=True, return_tensors="pt",
        ).input_ids.to(self.device)  # fmt: skip

    @torch.no_grad()
    def _encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled [1, projection] and hidden [1, T, width] text; rounding depends on the batch."""
        text = self.text_encoder(ids, output_hidden_states=True)
        return text.text_embeds, text.hidden_states[-2]

    def _forward(self, state: State, codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Logits of all codes in all rows: [R, V, N] in at least float32."""
        rows, (height, width) = len(state.pooled), self.grid
        tokens = torch.where(known, codes, self.mask_id).repeat(rows // len(codes), 1, 1)
        about = [width * self.patch, height * self.patch, 0, 0, AESTHETIC_SCORE]
        about = torch.tensor(about, device=self.device, dtype=state.hidden.dtype)
        everything = TokenSpan(0, 0, height * width)
        self.spans = ImageTokenSpans(len(codes), everything, everything)
        logits = self.model(
            tokens,
            encoder_hidden_states=state.hidden,
            pooled_text_emb=state.pooled,
            micro_conds=about.expand(rows, -1),
        )  # [R, V, H, W]
        return at_least_float32(logits.flatten(2))


class HookableLayer:
    """A layer whose self-attention returns a tensor, for hooks that expect a tuple."""

    def __init__(self, layer: nn.Module):
        self.layer, self.self_attn = layer, _Attention(layer.attn1)
        self.register_forward_hook = layer.register_forward_hook


class _Attention:
    def __init__(self, attention: nn.Module):
        self.attention = attention

    def register_forward_hook(self, hook, with_kwargs: bool):
        def bare(module, args, kwargs, output):
            changed = hook(module, args, kwargs, (output,))
            return None if changed is None else changed[0]

        return self.attention.register_forward_hook(bare, with_kwargs=with_kwargs)
