"""What a backbone is: prompts become a state, a state and the image tokens so far become logits.

A backbone knows nothing of retrieval, and retrieval nothing of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn


class TokenSpan(NamedTuple):
    """Consecutive image tokens of the running forward.

    Attributes:
        index: Index of the first one in the sequence of the forward.
        position: Position of the first one in raster order.
        count: Number of tokens.
        row_length: Image tokens a row, if the sequence has one more token after each row that is
            no image token; 0 if it has none.
    """

    index: int
    position: int
    count: int
    row_length: int = 0

    @property
    def indices(self) -> slice | list[int]:
        """Indices of the tokens in the sequence of the forward."""
        if not self.row_length:
            return slice(self.index, self.index + self.count)
        row_ends = self.position // self.row_length  # before the first token
        positions = range(self.position, self.position + self.count)
        return [self.index + i + p // self.row_length - row_ends for i, p in enumerate(positions)]


class ImageTokenSpans(NamedTuple):
    """Where the running forward has image tokens.

    Attributes:
        rows: The first ``rows`` rows of the batch are the images; the others are the unconditional
            rows of guidance, which augmentation leaves alone.
        inputs: Tokens that are inputs, at the indices that read them.
        targets: Tokens that are predicted, at the indices that predict them. A causal model
            predicts a token where its predecessor is the input, a masked one where the token
            itself is.
    """

    rows: int
    inputs: TokenSpan
    targets: TokenSpan


class Backbone(ABC):
    """A generator of image tokens, in evaluation mode and without gradients.

    ``logits`` depends on ``decoding``:

    - ``"raster"``: ``logits(state, previous) -> [B, V]``, the next token's; ``previous`` is int64
      [B], the tokens chosen last, or None at the first position.
    - ``"masked"``: ``logits(state, codes, known, positions) -> [B, P, V]``, those of the tokens at
      the flat ``positions`` [P]; codes int64 and known bool are [B, H, W].

    Guidance is applied, and the dtype is float32 or float64.

    Attributes:
        decoding: The decoding loop of :mod:`arrag.methods.decoding` that it works with.
        trainable_head: Name of the part of ``model`` that predicts image tokens, if adapters can
            be trained for the backbone.
        grid: (H, W), image tokens of an image.
        codebook_size: V.
        hidden_size: D, the width of the decoder layers.
        spans: Where the running forward has image tokens, set before it starts; for feature-level
            augmentation.
    """

    decoding: ClassVar[Literal["raster", "masked"]]
    trainable_head: ClassVar[str | None] = None

    model: nn.Module
    grid: tuple[int, int]
    codebook_size: int
    hidden_size: int
    spans: ImageTokenSpans | None = None
    logits: Any

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu") -> Backbone:
        """Load a checkpoint folder.

        Raises:
            ArragError: The checkpoint is missing, damaged or of another model.
        """

    @abstractmethod
    def start(self, prompts: list[str], guidance_scale: float) -> Any:
        """Encode B prompts into the state that ``logits`` takes."""

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the model reads only the beginning.

        Raises:
            ArragError: A prompt is refused: see :mod:`arrag.backbones.prompt_checks`.
        """
        return []

    @property
    def context(self) -> Literal["causal", "full"]:
        """Which neighbours of a token can be decoded before it: the index needs the same."""
        return "causal" if self.decoding == "raster" else "full"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Weights of the model, text encoder and image tokenizer excluded: the paper's Params."""
        return sum(p.numel() for p in self.model.parameters())

    # For feature-level augmentation and training; a backbone without them is used as it is or
    # with DAiD.

    @property
    def decoder_layers(self) -> list[Any]:
        """The decoder layers, first to last.

        Each has a ``self_attn`` that is called with ``hidden_states=``, the layer's normed input.
        """
        raise NotImplementedError

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Input embeddings [..., D] of image tokens, int64 [...]."""
        raise NotImplementedError


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """The same in float32; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()
