"""Show-o: a stock Phi language model that fills in masked codes, with its own prompt and mask.

A sequence is ``[PAD…][t2i][bos] text [eos]``, padded on the left to a fixed length, then
``[soi] N codes [eoi]``. Text looks at the text before it; the image block looks at itself and the
text; nothing looks at a pad. The text therefore never changes while an image is made: it is run
once and its keys and values are kept. Source: Show-o (arXiv 2408.12528) and its public code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, PhiForCausalLM

from arrag.backbones.attention_masks import causal_rows, image_rows
from arrag.backbones.base import Run, Slots
from arrag.backbones.causal import at_least_float32
from arrag.backbones.prompt_checks import check_prompts, warn_of_cuts

MARKERS = (
    "[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>",
    "<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>",
)  # fmt: skip
"""Tokens between the text's and the codes', in the order of their ids."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids of a Show-o checkpoint: text, markers, codes, mask, in this order.

    text: number of text ids (50295 in the published models); codes: V.
    """

    text: int
    codes: int

    def marker(self, token: str) -> int:
        """Id of one of MARKERS."""
        return self.text + MARKERS.index(token)

    @property
    def first_code(self) -> int:
        """Id of code 0."""
        return self.text + len(MARKERS)

    @property
    def mask(self) -> int:
        """Id that stands for a code not known yet; the last one."""
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask + 1


@dataclass
class State:
    """A batch of B prompts in decoding: the text's cache and mask, conditional rows first."""

    cache: DynamicCache
    mask: torch.Tensor  # bool [R, T], R = 2B, or B without guidance
    guidance_scale: float


class ShowoBackbone:
    """A Show-o checkpoint for generation; see :mod:`arrag.backbones.base` for what it states.

    ``text_length``: most tokens of a prompt, markers included. A longer prompt loses its end, as
    in the original; :meth:`overlong` tells which, and a warning says so.
    """

    context = "full"

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
        self.slots: Slots | None = None

    @property
    def parameters(self) -> int:
        """Weights of the language model; the paper's Params."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def sites(self) -> list[nn.Module]:
        """The decoder layers, first to last."""
        return list(self.model.model.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Tokenise B prompts and run the text. Without guidance (0) there is no second row.

        Raises ArragError as :meth:`tokenize` does.
        """
        ids, mask = self.tokenize(prompts)  # [B, T]
        if guidance_scale:
            empty, seen = self.drop(ids)
            ids, mask = torch.cat([ids, empty]), torch.cat([mask, seen])
        cache = DynamicCache()
        self.slots = Slots(len(prompts), Run(0, 0, 0), Run(0, 0, 0))
        self._hidden(self.model.get_input_embeddings()(ids), causal_rows(mask), 0, cache)
        return State(cache, mask, guidance_scale)

    def logits(
        self, state: State, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits of the codes at ``positions``, guidance applied: [B, P, V] in at least float32.

        codes: int64 [B, H, W]; known: bool [B, H, W], the others are masked; positions: int64 [P],
        flat. Guidance is (1 + g) c - g u over the conditional c and unconditional u rows.
        """
        repeats = len(state.mask) // len(codes)
        inputs = self._block(codes, known).repeat(repeats, 1, 1)  # [R, N + 2, D]
        length = state.mask.shape[1]
        seen = image_rows(state.mask, inputs.shape[1])
        self.slots = self._slots(len(codes), 0)
        hidden = self._hidden(inputs, seen, length, state.cache)
        state.cache.crop(-inputs.shape[1])  # keep the text alone
        logits = self._head(hidden[:, 1 + positions])  # [R, P, V]
        if repeats == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        g = state.guidance_scale  # in place: on a processor a copy takes as long as the arithmetic
        return conditional.mul_(1 + g).sub_(unconditional.mul_(g))

    def teacher_forced(
        self,
        prompts: list[str] | tuple[torch.Tensor, torch.Tensor],
        codes: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of every code of B images given the known ones: [B, N, V], no guidance.

        prompts: B texts, or their ids and mask [B, T] as :meth:`tokenize` and :meth:`drop` give
        them. codes, known: [B, H, W] or [B, N], as for :meth:`logits`. Differentiable.
        """
        ids, mask = self.tokenize(prompts) if isinstance(prompts, list) else prompts
        block = self._block(codes, known)  # [B, N + 2, D]
        inputs = torch.cat([self.model.get_input_embeddings()(ids), block], dim=1)
        rows = F.pad(causal_rows(mask), (0, block.shape[1]))
        seen = torch.cat([rows, image_rows(mask, block.shape[1])], dim=2)
        length = ids.shape[1]
        self.slots = self._slots(len(ids), length)
        return self._head(self._hidden(inputs, seen, 0)[:, length + 1 : -1])

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [...] -> what the language model reads for them, [..., D]."""
        return self.model.get_input_embeddings()(codes + self.vocabulary.first_code)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 and mask bool, both [B, T], of prompts with their markers, padded on the left.

        Raises ArragError for an empty prompt, one that holds a marker, or an unknown word.
        """
        check_prompts(self.tokenizer, prompts, MARKERS)
        warn_of_cuts(self.overlong(prompts), self.text_length - 3)
        return self._pad([self._ids(prompt) for prompt in prompts])

    def overlong(self, prompts: Sequence[str]) -> list[str]:
        """The prompts whose end is left out."""
        return [prompt for prompt in prompts if len(self._ids(prompt)) > self.text_length - 3]

    def drop(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The unconditional rows of prompts ``ids`` [B, T], ids and mask: those of no text."""
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
        start, end = (
            tokens.new_full((len(tokens), 1), words.marker(token)) for token in MARKERS[1:3]
        )
        return self.model.get_input_embeddings()(torch.cat([start, tokens, end], dim=1))

    def _slots(self, rows: int, before: int) -> Slots:
        """The image tokens' slots when the block begins at index ``before`` of the forward."""
        tokens = Run(before + 1, 0, self.grid[0] * self.grid[1])
        return Slots(rows, tokens, tokens)

    def _hidden(
        self, inputs: torch.Tensor, seen: torch.Tensor, first: int, cache: Any = None
    ) -> torch.Tensor:
        """Last hidden states [R, t, D] of inputs [R, t, D] at places ``first`` and on.

        seen: bool [R, 1, t, T], what each looks at, the cached included.
        """
        places = torch.arange(first, first + inputs.shape[1], device=inputs.device)[None]
        return self.model.model(
            inputs_embeds=inputs,
            attention_mask=seen,
            position_ids=places,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of codes alone: [..., D] -> [..., V] in at least float32."""
        first, head = self.vocabulary.first_code, self.model.lm_head
        rows = slice(first, first + self.codebook_size)
        return at_least_float32(F.linear(hidden, head.weight[rows], head.bias[rows]))
