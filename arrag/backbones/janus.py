"""Janus and Janus-Pro on transformers' own class, with its text template and guidance rows.

A backbone turns a prompt into a state, and a state and the codes so far into logits. It knows
nothing of retrieval. ``generate()`` of transformers is not used: its logits processors see the
rows before guidance and never the image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, Cache, JanusForConditionalGeneration

from arrag.backbones import Run, Slots
from arrag.backbones.cache import reserved_cache
from arrag.backbones.words import check_words
from arrag.errors import ArragError

TEMPLATE = "<|User|>: {prompt}\n\n<|Assistant|>:<begin_of_image>"


@dataclass
class State:
    """A batch of B prompts in decoding: their guidance pairs' cache, mask and next inputs."""

    cache: Cache
    mask: torch.Tensor  # [2B, T]: 1 where there is a token; conditional rows first
    inputs: torch.Tensor | None  # [2B, t, D] embeddings not yet run
    guidance_scale: float
    position: int = 0  # of the next code, in raster order


class JanusBackbone:
    """A Janus checkpoint for generation; see :mod:`arrag.backbones` for what it states."""

    context = "causal"

    def __init__(self, model: JanusForConditionalGeneration, tokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        side = model.config.vq_config.num_patches
        self.grid = (side, side)
        self.codebook_size = model.config.vq_config.num_embeddings
        self.boi = tokenizer.convert_tokens_to_ids("<begin_of_image>")
        self.pad = model.generation_config.pad_token_id
        if self.pad is None:
            self.pad = tokenizer.pad_token_id
        self.hidden_size: int = model.config.text_config.hidden_size
        self.slots: Slots | None = None

    @property
    def parameters(self) -> int:
        """Weights of the language model and its image embeddings and head; the paper's Params."""
        parts = self.model.model
        used = (
            parts.language_model, parts.generation_embeddings, parts.generation_aligner,
            parts.generation_head,
        )  # fmt: skip
        return sum(p.numel() for part in used for p in part.parameters())

    @property
    def sites(self) -> list[nn.Module]:
        """The decoder layers, first to last."""
        return list(self.model.model.language_model.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def start(
        self, prompts: list[str], guidance_scale: float, prefix: torch.Tensor | None = None
    ) -> State:
        """Tokenise B prompts into guidance pairs; nothing is run yet.

        Prompts of different lengths are padded on the left and the padding is masked. prefix:
        [B, R, D], what each prompt is preceded by, as ``embed_codes`` gives it; in the
        unconditional rows as many pads take its place. Raises ArragError for a word the tokenizer
        lacks.
        """
        ids, mask = self.tokenize(prompts)  # [B, T]
        ids = torch.cat([ids, self.drop(ids)])  # [2B, T]
        if prefix is not None:
            prefix = torch.cat([prefix, self.blank(prefix)])  # [2B, R, D]
        inputs, mask = self._with_prefix(prefix, ids, mask.repeat(2, 1))
        room = inputs.shape[1] + self.grid[0] * self.grid[1]
        return State(reserved_cache(len(self.sites), room), mask, inputs, guidance_scale)

    def tokenize(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, both int64 [B, T], of prompts in the template, padded on the left.

        Raises ArragError for a word the tokenizer lacks.
        """
        check_words(self.tokenizer, prompts)
        texts = [TEMPLATE.format(prompt=prompt) for prompt in prompts]
        text = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        return text["input_ids"].to(self.device), text["attention_mask"].to(self.device)

    def drop(self, ids: torch.Tensor) -> torch.Tensor:
        """The unconditional rows of prompts ``ids`` [B, T]."""
        return unconditional(ids, self.tokenizer.bos_token_id, self.boi, self.pad)

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [...] -> what the language model reads for them, [..., D]."""
        return self.model.prepare_embeddings_for_image_generation(codes)

    def blank(self, prefix: torch.Tensor) -> torch.Tensor:
        """A prefix of the same shape that says nothing: pads, attended to as those of ``drop``."""
        pad = torch.tensor(self.pad, device=self.device)
        return self.model.get_input_embeddings()(pad).to(prefix).expand_as(prefix)

    def _with_prefix(
        self, prefix: torch.Tensor | None, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, R + T, D] and mask [B, R + T] of prompts with what precedes them."""
        text = self.model.get_input_embeddings()(ids)  # [B, T, D]
        if prefix is None:
            return text, mask
        # Padding between prefix and prompt is masked and takes no position: as if it were not.
        before = mask.new_ones(prefix.shape[:2])
        return torch.cat([prefix.to(text.dtype), text], dim=1), torch.cat([before, mask], dim=1)

    def teacher_forced(
        self,
        prompts: list[str] | tuple[torch.Tensor, torch.Tensor],
        codes: torch.Tensor,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of every code of B images given the codes before it: [B, N, V], no guidance.

        prompts: B texts, or their ids and mask [B, T] as :meth:`tokenize` gives them (rows may
        be unconditional ones). codes: int64 [B, H, W] or [B, N]. prefix: as for :meth:`start`,
        :meth:`blank` where the row is unconditional. Differentiable.
        """
        ids, mask = self.tokenize(prompts) if isinstance(prompts, list) else prompts
        codes = codes.flatten(1)  # [B, N]
        batch, count = codes.shape
        text, mask = self._with_prefix(prefix, ids, mask)
        inputs = torch.cat([text, self.embed_codes(codes[:, :-1]).to(text.dtype)], dim=1)
        mask = torch.cat([mask, mask.new_ones(batch, count - 1)], dim=1)
        length = text.shape[1]
        self.slots = Slots(batch, Run(length, 0, count - 1), Run(length - 1, 0, count))
        hidden = self._hidden(inputs, mask)[:, length - 1 :]  # [B, N, D]
        return _at_least_float32(self.model.model.generation_head(hidden))

    def logits(self, state: State, previous: torch.Tensor | None) -> torch.Tensor:
        """Logits of the next code, guidance applied: [B, V] in at least float32.

        ``previous``: the codes [B] chosen last, or None at the first position. Guidance is
        u + g (c - u) over the conditional c and unconditional u rows.
        """
        if previous is not None:
            pair = previous.repeat(2)[:, None]  # [2B, 1]
            state.inputs = self.embed_codes(pair)
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(pair), 1)], dim=1)
        rows, length = state.inputs.shape[:2]
        here = state.position
        held = Run(0, 0, 0) if previous is None else Run(0, here - 1, 1)
        self.slots = Slots(rows // 2, held, Run(length - 1, here, 1))
        hidden = self._hidden(state.inputs, state.mask, state.cache)[:, -1]  # [2B, D]
        state.inputs, state.position = None, here + 1
        logits = _at_least_float32(self.model.model.generation_head(hidden))  # [2B, V]
        conditional, unconditional = logits.chunk(2)
        return unconditional + state.guidance_scale * (conditional - unconditional)

    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """Last hidden states [B, t, D] of inputs [B, t, D]; mask [B, T] includes the cached."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        return self.model.model.language_model(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def unconditional(ids: torch.Tensor, bos: int, boi: int, pad: int) -> torch.Tensor:
    """The row without the prompt, of the same shape as ``ids``: all but BOS and BOI becomes pad.

    Those pads are attended to (deepseek-ai/Janus, generation_inference.py).
    """
    return torch.where((ids == bos) | (ids == boi), ids, pad)


def load_janus(checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"):
    """Load a checkpoint directory as :class:`JanusBackbone`; ArragError if it cannot be read."""
    checkpoint = Path(checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise ArragError(
            f"{checkpoint}: no config.json there; the micro checkpoint comes with the repository, "
            "others must be downloaded first"
        )
    try:
        model = JanusForConditionalGeneration.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # transformers, safetensors and json raise a dozen types here
        raise ArragError(
            f"{checkpoint}: cannot be read as a Janus checkpoint ({error}); restore its files "
            "(config.json, model.safetensors, tokenizer.json) and run again"
        ) from error
    return JanusBackbone(model.to(device), tokenizer)
