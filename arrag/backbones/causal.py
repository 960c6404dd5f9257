"""What all causal backbones share: guidance pairs, a KV cache, one token after the other.

A sequence is a prompt, padded on the left, and the image tokens in raster order. Each image token
is predicted at the position before it, the first one at the end of the prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from arrag.backbones._cpu_decode import LlamaSteps
from arrag.backbones.base import Backbone, ImageTokenSpans, TokenSpan, at_least_float32


@dataclass
class State:
    """The state of a batch of B prompts: cache, mask and next inputs of their guidance pairs."""

    cache: Cache
    mask: torch.Tensor  # [2B, T]: 1 at tokens, 0 at padding; conditional rows first
    inputs: torch.Tensor | None  # [2B, t, D] embeddings not yet run
    guidance_scale: float
    position: int = 0  # of the next image token, in raster order
    steps: LlamaSteps | None = None  # compiled forward of the tokens after the prompt


class CausalBackbone(Backbone):
    """A decoder over a prompt and the image tokens in raster order, with guidance pairs.

    A subclass implements ``load``, ``tokenize``, ``start`` (prompts to inputs, then ``_begin``),
    ``embed_codes``, ``decoder_layers``, ``_hidden`` (inputs to hidden states) and ``_head`` (these
    to logits).

    Attributes:
        row_length: Image tokens a row, if the sequence has a token after each row that is no image
            token (``_row_end``); 0 if it has none.
    """

    decoding: ClassVar = "raster"
    row_length = 0

    def __init__(self, grid: tuple[int, int], codebook_size: int, hidden_size: int) -> None:
        self.grid, self.codebook_size, self.hidden_size = grid, codebook_size, hidden_size

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in the sequence."""
        return self.grid[0] * self.grid[1] + (self.grid[0] if self.row_length else 0)

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts to ids (or text features) and mask [B, T], padded on the left.

        Raises:
            UsageError: A prompt is refused.
        """

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """None: prompts that do not fit are refused as by ``tokenize``."""
        for prompt in prompts:
            self.tokenize([prompt])
        return []

    def _embed_text(self, text: torch.Tensor) -> torch.Tensor:
        """Inputs [B, T, D] of what ``tokenize`` returns."""
        return self.model.get_input_embeddings()(text)

    @abstractmethod
    def _hidden(
        self, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """Last hidden states [B, t, D] of inputs [B, t, D]; mask [B, T] includes the cached."""

    @abstractmethod
    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of image tokens alone: [..., D] -> [..., V]."""

    def _row_end(self, batch: int) -> torch.Tensor:
        """Inputs [B, 1, D] after a row of image tokens; called only if ``row_length`` is set."""
        raise NotImplementedError

    def _begin(self, inputs: torch.Tensor, mask: torch.Tensor, guidance_scale: float) -> State:
        """The state of guidance pairs whose prompts are inputs [2B, T, D], mask [2B, T]."""
        capacity = inputs.shape[1] + self.image_tokens
        cache = preallocated_cache(len(self.decoder_layers), capacity)
        return State(cache, mask, inputs, guidance_scale)

    def _steps(self, state: State) -> LlamaSteps | None:
        """The compiled forward of the tokens after the prompt, if there is one."""
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
        """Logits [B, V] of the next token: u + g (c - u) of conditional and unconditional rows."""
        if previous is not None:
            state.inputs = self.embed_codes(previous)[:, None].repeat(2, 1, 1)  # [2B, 1, D]
            if self.row_length and state.position % self.row_length == 0:
                ends = self._row_end(len(state.inputs))
                state.inputs = torch.cat([state.inputs, ends], dim=1)
        rows, length = state.inputs.shape[:2]
        here = state.position
        inputs = TokenSpan(0, 0, 0) if previous is None else TokenSpan(0, here - 1, 1)
        self.spans = ImageTokenSpans(rows // 2, inputs, TokenSpan(length - 1, here, 1))
        logits = at_least_float32(self._run(state))  # [2B, V]
        state.inputs, state.position = None, here + 1
        conditional, unconditional = logits.chunk(2)
        return unconditional + state.guidance_scale * (conditional - unconditional)

    def teacher_forced(
        self, prompts: list[str] | tuple[torch.Tensor, torch.Tensor], codes: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, N, V] of every image token given those before it; no guidance, differentiable.

        Args:
            prompts: B texts, or what ``tokenize`` returns for them.
            codes: int64 [B, H, W] or [B, N].
        """
        text, mask = self.tokenize(prompts) if isinstance(prompts, list) else prompts
        return self._forced(self._embed_text(text), mask, codes)

    def _forced(
        self, prompts: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor
    ) -> torch.Tensor:
        """The same for prompts as inputs [B, T, D] with their mask [B, T]."""
        codes = codes.flatten(1)  # [B, N]
        batch, count = codes.shape
        length = prompts.shape[1]
        image = self.embed_codes(codes[:, :-1]).to(prompts.dtype)  # [B, N - 1, D]
        inputs = TokenSpan(length, 0, count - 1, self.row_length)
        targets = TokenSpan(length - 1, 0, count, self.row_length)
        if self.row_length:
            *whole, last = image.split(self.row_length, dim=1)
            whole = [torch.cat([row, self._row_end(batch)], dim=1) for row in whole]
            image = torch.cat([*whole, last], dim=1)
        mask = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
        self.spans = ImageTokenSpans(batch, inputs, targets)
        hidden = self._hidden(torch.cat([prompts, image], dim=1), mask)[:, targets.indices]
        return at_least_float32(self._head(hidden))


def run_decoder(
    model: nn.Module, inputs: torch.Tensor, mask: torch.Tensor, cache: Cache | None
) -> torch.Tensor:
    """Last hidden states [B, t, D] of a decoder of transformers for inputs [B, t, D].

    The mask [B, T] includes the cached tokens; padding does not advance the position ids.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
    return model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state


def causal_rows(mask: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """Causal attention mask of the last ``count`` of T tokens (None: all): bool [B, 1, count, T].

    Args:
        mask: bool [B, T], False at padding. A padding token attends to itself, so that no row of
            the softmax is empty; no other token attends to it.
    """
    length = mask.shape[1]
    count = length if count is None else count
    own = torch.arange(length, device=mask.device)
    rows = own[length - count :, None]  # [count, 1]
    return (((own <= rows) & mask[:, None]) | (own == rows))[:, None]


class PreallocatedLayer(DynamicLayer):
    """Keys and values [B, heads, t, head size] of one layer, with memory for ``capacity`` tokens.

    transformers' dynamic cache copies all keys and values of a layer for every new token; on a CPU
    that took three quarters of the decoding time.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states [B, heads, n, head size]; returns all so far."""
        start = self.get_seq_length()
        if start == 0:
            self.dtype, self.device = key_states.dtype, key_states.device
            batch, heads, _, size = key_states.shape
            self.buffer = key_states.new_empty(2, batch, heads, self.capacity, size)
            self.is_initialized = True
        stop = start + key_states.shape[-2]
        if stop > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, not {stop}")
        self.buffer[0, :, :, start:stop] = key_states
        self.buffer[1, :, :, start:stop] = value_states
        self.keys, self.values = self.buffer[:, :, :, :stop]
        return self.keys, self.values


def preallocated_cache(layers: int, capacity: int) -> Cache:
    """An empty cache for ``layers`` decoder layers and ``capacity`` tokens."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(layers)])
