"""Show-o: a stock Phi language model that fills in masked codes, with its own prompt and mask.

A sequence is ``[PAD…][t2i][bos] text [eos]``, padded on the left to a fixed length, then
``[soi] N codes [eoi]``. Text attends to the text before it; the image block to itself and the text;
nothing to padding. The text therefore does not depend on the image: it is run once and its keys
and values are cached. Source: Show-o (arXiv 2408.12528) and its public code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer, DynamicCache, PhiForCausalLM

from arrag.backbones.base import Backbone, ImageTokenSpans, TokenSpan, at_least_float32
from arrag.backbones.causal import causal_rows
from arrag.backbones.prompt_checks import check_prompts, warn_truncated
from arrag.backbones.registry import register_backbone
from arrag.backbones.showo_checkpoint import (
    LLM,
    MARKERS,
    Vocabulary,
    add_markers,
    language_model_config,
    read_vocabulary,
)
from arrag.utils.checkpoint import check_weights, loading, read_tensors
from arrag.utils.files import read_json


@dataclass
class State:
    """The state of a batch of B prompts: the text's cache and mask, conditional rows first."""

    cache: DynamicCache
    mask: torch.Tensor  # bool [R, T], R = 2B, or B without guidance
    guidance_scale: float


@register_backbone("showo")
class ShowoBackbone(Backbone):
    """Show-o. A prompt of more than ``text_length`` tokens is truncated, as in the original.

    Args:
        model: The language model.
        tokenizer: Its text tokenizer with the markers added.
        vocabulary: Ids of markers and image tokens.
        tokens: Image tokens of an image.
        text_length: Most tokens of a prompt, markers included.
    """

    decoding = "masked"
    trainable_head = "lm_head"

    def __init__(
        self,
        model: PhiForCausalLM,
        tokenizer,
        vocabulary: Vocabulary,
        tokens: int,
        text_length: int = 129,
    ):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.vocabulary, self.text_length = tokenizer, vocabulary, text_length
        side = round(tokens**0.5)
        self.grid = (side, side)
        self.codebook_size = vocabulary.codes
        self.hidden_size: int = model.config.hidden_size

    @classmethod
    def load(
        cls, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"
    ) -> ShowoBackbone:
        """Load a checkpoint folder with the files of the published repositories.

        It holds ``config.json`` and weights of Show-o, and in ``llm`` the ``config.json`` and the
        tokenizer files of its language model (phi-1.5).
        """
        checkpoint = Path(checkpoint)
        raw = read_json(checkpoint / "config.json")
        vocabulary = read_vocabulary(raw, checkpoint / "config.json")
        config = language_model_config(checkpoint / LLM / "config.json", vocabulary)
        state = read_tensors(checkpoint)
        if raw.get("w_clip_vit"):  # the part that understands images is not used in generation
            state = {k: v for k, v in state.items() if not k.startswith("mm_projector.")}
        with torch.device("meta"):
            empty = nn.ModuleDict({"showo": PhiForCausalLM(config)})
        check_weights(empty, state, checkpoint)
        model = PhiForCausalLM.from_pretrained(
            None,
            config=config,
            state_dict={name.removeprefix("showo."): value for name, value in state.items()},
            dtype=getattr(torch, dtype),
        )
        with loading(checkpoint / LLM, "a text tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(checkpoint / LLM, local_files_only=True)
        add_markers(tokenizer, vocabulary, checkpoint / LLM)
        length = raw.get("max_text_length", 128) + 1  # the original's count leaves [t2i] out
        return cls(model.to(device), tokenizer, vocabulary, raw["num_vq_tokens"], length)

    @property
    def decoder_layers(self) -> list[nn.Module]:
        return list(self.model.model.layers)

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Tokenise B prompts and run the text. Without guidance (0) there are B rows, else 2B."""
        ids, mask = self.tokenize(prompts)  # [B, T]
        if guidance_scale:
            empty, seen = self.unconditional_ids(ids, mask)
            ids, mask = torch.cat([ids, empty]), torch.cat([mask, seen])
        cache = DynamicCache()
        self.spans = ImageTokenSpans(len(prompts), TokenSpan(0, 0, 0), TokenSpan(0, 0, 0))
        self._hidden(self.model.get_input_embeddings()(ids), causal_rows(mask), 0, cache)
        return State(cache, mask, guidance_scale)

    def logits(
        self, state: State, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, P, V]: (1 + g) c - g u of conditional and unconditional rows."""
        repeats = len(state.mask) // len(codes)
        inputs = self._block(codes, known).repeat(repeats, 1, 1)  # [R, N + 2, D]
        length = state.mask.shape[1]
        seen = image_rows(state.mask, inputs.shape[1])
        self.spans = self._image_spans(len(codes), 0)
        hidden = self._hidden(inputs, seen, length, state.cache)
        state.cache.crop(-inputs.shape[1])  # keep the text alone
        logits = self._head(hidden[:, 1 + positions])  # [R, P, V]
        if repeats == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        g = state.guidance_scale  # in place: on a CPU a copy takes as long as the arithmetic
        return conditional.mul_(1 + g).sub_(unconditional.mul_(g))

    def teacher_forced(
        self,
        prompts: list[str] | tuple[torch.Tensor, torch.Tensor],
        codes: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [B, N, V] of every image token given the known ones; no guidance, differentiable.

        Args:
            prompts: B texts, or what :meth:`tokenize` returns for them.
            codes: int64 [B, H, W] or [B, N].
            known: bool, like ``codes``; the others are masked.
        """
        ids, mask = self.tokenize(prompts) if isinstance(prompts, list) else prompts
        block = self._block(codes, known)  # [B, N + 2, D]
        inputs = torch.cat([self.model.get_input_embeddings()(ids), block], dim=1)
        rows = F.pad(causal_rows(mask), (0, block.shape[1]))
        seen = torch.cat([rows, image_rows(mask, block.shape[1])], dim=2)
        length = ids.shape[1]
        self.spans = self._image_spans(len(ids), length)
        return self._head(self._hidden(inputs, seen, 0)[:, length + 1 : -1])

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(codes + self.vocabulary.first_code)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 and mask bool, both [B, T], of prompts in the template, padded on the left."""
        check_prompts(self.tokenizer, prompts, MARKERS)
        warn_truncated(self.truncated_prompts(prompts), self.text_length - 3)
        return self._pad([self._ids(prompt) for prompt in prompts])

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of more than ``text_length`` tokens."""
        return [prompt for prompt in prompts if len(self._ids(prompt)) > self.text_length - 3]

    def unconditional_ids(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask [B, T] of the unconditional rows of prompts: those of an empty text."""
        return self._pad([[]] * len(ids))

    def _ids(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, add_special_tokens=False).input_ids

    def _pad(self, texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        pad, task = self.vocabulary.marker("[PAD]"), self.vocabulary.marker("<|t2i|>")
        rows = [[task, bos, *text[: self.text_length - 3], eos] for text in texts]
        rows = [[pad] * (self.text_length - len(row)) + row for row in rows]
        ids = torch.tensor(rows, device=self.device)
        return ids, ids != pad

    def _block(self, codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The image's inputs: codes and known, [B, ...] -> [B, N + 2, D]."""
        words = self.vocabulary
        tokens = torch.where(known, codes + words.first_code, words.mask).flatten(1)  # [B, N]
        tokens = F.pad(tokens, (1, 0), value=words.marker("<|soi|>"))
        tokens = F.pad(tokens, (0, 1), value=words.marker("<|eoi|>"))
        return self.model.get_input_embeddings()(tokens)

    def _image_spans(self, rows: int, before: int) -> ImageTokenSpans:
        """The image tokens' spans when the block begins at index ``before`` of the forward."""
        tokens = TokenSpan(before + 1, 0, self.grid[0] * self.grid[1])
        return ImageTokenSpans(rows, tokens, tokens)

    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, first: int, cache: Any = None
    ) -> torch.Tensor:
        """Last hidden states [R, t, D] of inputs [R, t, D] at positions ``first`` and on.

        The mask is bool [R, 1, t, T], the cached tokens included.
        """
        positions = torch.arange(first, first + inputs.shape[1], device=inputs.device)[None]
        return self.model.model(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of image tokens alone: [..., D] -> [..., V] in at least float32."""
        first, head = self.vocabulary.first_code, self.model.lm_head
        rows = slice(first, first + self.codebook_size)
        return at_least_float32(F.linear(hidden, head.weight[rows], head.bias[rows]))


def image_rows(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Attention mask of an image block of ``count`` tokens: bool [B, 1, count, T + count].

    Each attends to the block and to the text before it, whose mask is bool [B, T].
    """
    keys = F.pad(mask, (0, count), value=True)
    return keys[:, None, None].expand(-1, 1, count, -1)
