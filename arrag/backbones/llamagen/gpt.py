"""LlamaGen's language model: a Llama whose rotary positions are two-dimensional.

Structure, names and sizes are those of the published weights (FoundationVision/LlamaGen), so that
they load by key. A sequence is ``text_length`` conditioning positions and the codes of a square
grid. A code's queries and keys are rotated by its row and its column; those of the conditioning
positions are multiplied by zero, as in the public code, so that only their values differ.
Source: LlamaGen (arXiv 2406.06525) and its public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache


@dataclass(frozen=True)
class GptConfig:
    """Sizes; the defaults are those of text-conditional LlamaGen-XL at 256 pixels."""

    grid: int = 16  # codes a side
    width: int = 1280
    layers: int = 36
    heads: int = 20
    intermediate: int | None = None  # None: 8/3 of width, rounded up to a multiple of 256
    codes: int = 16384
    text_length: int = 120  # conditioning positions
    text_width: int = 2048  # of the text encoder's features

    @property
    def feed_forward(self) -> int:
        return self.intermediate or -(-int(8 * self.width / 3) // 256) * 256


_linear = partial(nn.Linear, bias=False)


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in at least float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return (wide * scale).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """Gated linear unit with SiLU."""

    def __init__(self, config: GptConfig):
        super().__init__()
        self.w1 = _linear(config.width, config.feed_forward)
        self.w3 = _linear(config.width, config.feed_forward)
        self.w2 = _linear(config.feed_forward, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Attention(nn.Module):
    """Self-attention with a cache."""

    def __init__(self, config: GptConfig, index: int):
        super().__init__()
        self.index, self.heads = index, config.heads
        self.wqkv = _linear(config.width, 3 * config.width)
        self.wo = _linear(config.width, config.width)

    def forward(
        self, hidden_states: Tensor, rotary: Tensor, mask: Tensor, cache: Cache | None
    ) -> tuple[Tensor]:
        """hidden_states [B, t, D], rotary [t, d / 2, 2], mask bool [B, 1, t, T] -> ([B, t, D],)."""
        batch, length, width = hidden_states.shape
        parts = self.wqkv(hidden_states).view(batch, length, 3, self.heads, -1)
        q, k, v = parts.transpose(1, 3).unbind(2)  # [B, heads, t, d]
        q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        if cache is not None:
            k, v = cache.update(k, v, self.index)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (self.wo(out.transpose(1, 2).reshape(batch, length, width)),)


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, config: GptConfig, index: int):
        super().__init__()
        self.attention = Attention(config, index)
        self.feed_forward = FeedForward(config)
        self.attention_norm, self.ffn_norm = RmsNorm(config.width), RmsNorm(config.width)

    @property
    def self_attn(self) -> Attention:
        """The attention, by the name of :attr:`Backbone.decoder_layers`."""
        return self.attention

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.attention(hidden_states=normed, rotary=rotary, mask=mask, cache=cache)[0]
        return x + self.feed_forward(self.ffn_norm(x))


class Projection(nn.Module):
    """Text features to conditioning embeddings."""

    def __init__(self, config: GptConfig):
        super().__init__()
        self.fc1 = _linear(config.text_width, config.width)
        self.fc2 = _linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Conditioning(nn.Module):
    """The projection, and the learned unconditional features [text_length, text_width]."""

    def __init__(self, config: GptConfig):
        super().__init__()
        self.cap_proj = Projection(config)
        empty = torch.randn(config.text_length, config.text_width) / config.text_width**0.5
        self.uncond_embedding = nn.Parameter(empty)


class Gpt(nn.Module):
    """The language model; names as in the published weights."""

    def __init__(self, config: GptConfig):
        super().__init__()
        self.config = config
        self.cls_embedding = Conditioning(config)
        self.tok_embeddings = nn.Embedding(config.codes, config.width)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = RmsNorm(config.width)
        self.output = _linear(config.width, config.codes)

    def forward(
        self, inputs: Tensor, rotary: Tensor, mask: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Last hidden states [B, t, D]; arguments as of :class:`Attention`."""
        for layer in self.layers:
            inputs = layer(inputs, rotary, mask, cache)
        return self.norm(inputs)


def rotary_table(config: GptConfig) -> Tensor:
    """Cosine and sine for each pair of a head's numbers: float32 [text_length + N, d / 2, 2].

    The first half of the pairs is rotated by the row, the second by the column; pair k of n of a
    half by 10000 ** (-k / n) of it. Zero at conditioning positions.
    """
    pairs = config.width // config.heads // 4
    frequencies = 10000.0 ** (-torch.arange(pairs) / pairs)
    angles = torch.outer(torch.arange(config.grid).float(), frequencies)  # [side, d / 4]
    rows = angles[:, None].expand(-1, config.grid, -1)
    columns = angles[None].expand(config.grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # [N, d / 2]
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return F.pad(table, (0, 0, 0, 0, config.text_length, 0))


def apply_rotary(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate neighbouring pairs of numbers: x [B, heads, t, d], rotary [t, d / 2, 2] -> like x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1)  # [B, heads, t, d / 2]
    cos, sin = rotary.unbind(-1)
    rotated = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
