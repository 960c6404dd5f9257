"""What all causal backbones share: guidance pairs, a cache, one code after the other.

A sequence is a prompt, padded on the left, and the codes in raster order. The first code is
predicted where the prompt ends, every other one where the sequence before it ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache

from arrag.backbones._cpu_decode import LlamaSteps
from arrag.backbones.base import Run, Slots
from arrag.backbones.kv_cache import reserved_cache


@dataclass
class State:
    """A batch of B prompts in decoding: their guidance pairs' cache, mask and next inputs."""

    cache: Cache
    mask: torch.Tensor  # [2B, T]: 1 where there is a token; conditional rows first
    inputs: torch.Tensor | None  # [2B, t, D] embeddings not yet run
    guidance_scale: float
    position: int = 0  # of the next code, in raster order
    steps: LlamaSteps | None = None  # of the tokens after the prompt, if there is a faster way


class CausalBackbone(ABC):
    """See :mod:`arrag.backbones.base` for what it states.

    A subclass says how prompts become inputs (``start``), how inputs become hidden states and
    these logits, and what follows a code in the sequence if it is not the next one.
    """

    context = "causal"
    row = 0  # see Run

    def __init__(self, grid: tuple[int, int], codebook_size: int, hidden_size: int) -> None:
        self.grid, self.codebook_size, self.hidden_size = grid, codebook_size, hidden_size
        self.slots: Slots | None = None

    @property
    @abstractmethod
    def sites(self) -> list[nn.Module]:
        """The decoder layers, first to last."""

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in the sequence."""
        return self.grid[0] * self.grid[1] + (self.grid[0] if self.row else 0)

    @abstractmethod
    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [...] -> what the language model reads for them, [..., D]."""

    @abstractmethod
    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """Last hidden states [B, t, D] of inputs [B, t, D]; mask [B, T] includes the cached."""

    @abstractmethod
    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of codes alone: [..., D] -> [..., V]."""

    def overlong(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which only the beginning is read: none."""
        return []

    def _between(self, batch: int) -> torch.Tensor:
        """What stands between two rows of codes, [B, 1, D]; asked for only if ``row`` is set."""
        raise NotImplementedError

    def _begin(self, inputs: torch.Tensor, mask: torch.Tensor, guidance_scale: float) -> State:
        """The state of guidance pairs whose prompts are inputs [2B, T, D], mask [2B, T]."""
        room = inputs.shape[1] + self.image_tokens
        return State(reserved_cache(len(self.sites), room), mask, inputs, guidance_scale)

    def _steps(self, state: State) -> LlamaSteps | None:
        """A faster way from what follows the prompt to logits: none."""
        return None

    def _run(self, state: State) -> torch.Tensor:
        """Logits [2B, V] at the last of the state's inputs."""
        if state.steps is not None:
            return state.steps(state.inputs)
        if state.position:
            more = state.mask.new_ones(state.inputs.shape[:2])
            state.mask = torch.cat([state.mask, more], dim=1)
        hidden = self._hidden(state.inputs, state.mask, state.cache)
        if not state.position:
            state.steps = self._steps(state)
        return self._head(hidden[:, -1])

    def logits(self, state: State, previous: torch.Tensor | None) -> torch.Tensor:
        """Logits of the next code, guidance applied: [B, V] in at least float32.

        ``previous``: the codes [B] chosen last, or None at the first position. Guidance is
        u + g (c - u) over the conditional c and unconditional u rows.
        """
        if previous is not None:
            state.inputs = self.embed_codes(previous)[:, None].repeat(2, 1, 1)  # [2B, 1, D]
            if self.row and state.position % self.row == 0:
                ends = self._between(len(state.inputs))
                state.inputs = torch.cat([state.inputs, ends], dim=1)
        rows, length = state.inputs.shape[:2]
        here = state.position
        held = Run(0, 0, 0) if previous is None else Run(0, here - 1, 1)
        self.slots = Slots(rows // 2, held, Run(length - 1, here, 1))
        logits = at_least_float32(self._run(state))  # [2B, V]
        state.inputs, state.position = None, here + 1
        conditional, unconditional = logits.chunk(2)
        return unconditional + state.guidance_scale * (conditional - unconditional)

    def _forced(
        self, prompts: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor
    ) -> torch.Tensor:
        """Logits of every code given those before it: [B, N, V], no guidance; differentiable.

        prompts: [B, T, D], mask: [B, T], codes: int64 [B, H, W] or [B, N].
        """
        codes = codes.flatten(1)  # [B, N]
        batch, count = codes.shape
        length = prompts.shape[1]
        image = self.embed_codes(codes[:, :-1]).to(prompts.dtype)  # [B, N - 1, D]
        held = Run(length, 0, count - 1, self.row)
        predicted = Run(length - 1, 0, count, self.row)
        if self.row:
            *whole, last = image.split(self.row, dim=1)
            whole = [torch.cat([row, self._between(batch)], dim=1) for row in whole]
            image = torch.cat([*whole, last], dim=1)
        mask = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
        self.slots = Slots(batch, held, predicted)
        hidden = self._hidden(torch.cat([prompts, image], dim=1), mask)[:, predicted.places]
        return at_least_float32(self._head(hidden))


def run_decoder(
    model: nn.Module, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None
) -> torch.Tensor:
    """Last hidden states [B, t, D] of a decoder of transformers' for inputs [B, t, D].

    mask: [B, T], the cached included; padding takes no position.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
    return model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """The same in float32, float64 as it is."""
    return logits if logits.dtype == torch.float64 else logits.float()
