"""MAGVIT-v2, Show-o's tokenizer: a convolutional autoencoder whose codes are signs of 13 numbers.

There is no learned codebook (lookup-free quantisation): the vector of code c is its bits, 1 as +1
and 0 as -1, most significant bit first. Structure, names and sizes are those of the published
weights (showlab/magvitv2), so that they load by key; widths and depths can be set, for small
versions. Source: Show-o (arXiv 2408.12528) and its public code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from arrag.tokenizers.base import ImageTokenizer, register_tokenizer
from arrag.utils.checkpoint import digest_tensors, load_weights, read_tensors
from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import read_json

FOLDER = "magvitv2"
"""Folder of the tokenizer in a Show-o checkpoint."""


@dataclass(frozen=True)
class MagvitConfig:
    """Sizes; the defaults are the published ones.

    Each level of the encoder but the last halves the image. Level i has
    ``channels * multipliers[i]`` channels and ``blocks[i]`` residual blocks. The decoder's levels
    are numbered from the full size down, too.
    """

    channels: int = 128
    bits: int = 13
    encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)

    @property
    def patch(self) -> int:
        """Pixels a side of a code."""
        return 2 ** (len(self.encoder_multipliers) - 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Block(nn.Module):
    """Residual block: two normalised convolutions, and a 1 x 1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), _conv(inputs, outputs)
        self.norm2, self.conv2 = _norm(outputs), _conv(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = _conv(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Self-attention over the positions of a grid, one head as wide as the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (_conv(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # [B, C, H * W]
        # Written out: torch 2.13's fused kernel crashes in bfloat16 training on a CPU.
        weights = torch.softmax(q.mT @ k * q.shape[1] ** -0.5, dim=-1)  # [B, H * W, H * W]
        return x + self.proj_out((v @ weights.mT).reshape(x.shape))


class Resample(nn.Module):
    """Halve (strided convolution, padded below and right) or double (repeat, then convolve)."""

    def __init__(self, channels: int, down: bool):
        super().__init__()
        self.down = down
        self.conv = (
            nn.Conv2d(channels, channels, 3, stride=2) if down else _conv(channels, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.down:
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _level(inputs: int, outputs: int, blocks: int) -> nn.Module:
    """A level's residual blocks, in a module that can also have a ``downsample``/``upsample``."""
    part = nn.Module()
    widths = [inputs] + [outputs] * blocks
    part.block = nn.ModuleList(Block(a, b) for a, b in zip(widths, widths[1:], strict=False))
    return part


class Middle(nn.Module):
    """Block, attention, block at the smallest size."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.attn_1 = Block(channels, channels), Attention(channels)
        self.block_2 = Block(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels [B, 3, S, S] in [-1, 1] -> latent [B, bits, H, W], whose signs are the code."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        widths = [config.channels * m for m in config.encoder_multipliers]
        self.conv_in = _conv(3, config.channels)
        self.down = nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
            self.down.append(_level(widths[i - 1] if i else config.channels, width, blocks))
            if i < len(widths) - 1:
                self.down[i].downsample = Resample(width, down=True)
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], config.bits)
        self.quant_conv = _conv(config.bits, config.bits, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for part in self.down:
            for block in part.block:
                x = block(x)
            if hasattr(part, "downsample"):
                x = part.downsample(x)
        x = self.mid(x)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Signs [B, bits, H, W] -> pixels [B, 3, S, S]."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        widths = [config.channels * m for m in config.decoder_multipliers]
        self.post_quant_conv = _conv(config.bits, config.bits, 1)
        self.conv_in = _conv(config.bits, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(widths, config.decoder_blocks, strict=True)):
            self.up.append(_level(widths[min(i + 1, len(widths) - 1)], width, blocks))
            if i:
                self.up[i].upsample = Resample(width, down=False)
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(x)))
        for part in reversed(self.up):
            for block in part.block:
                x = block(x)
            if hasattr(part, "upsample"):
                x = part.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Signs(nn.Module):
    """The quantiser: codes and their vectors. Buffers only, named as in the published weights."""

    def __init__(self, bits: int):
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)  # [bits], most significant first
        self.register_buffer("embedding", codebook(bits))
        self.register_buffer("power_vals", powers)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent [B, bits, H, W] -> codes int64 [B, H, W]; a latent of exactly 0 is bit 0."""
        return ((latent > 0).long() * self.power_vals.view(1, -1, 1, 1)).sum(1)


def codebook(bits: int) -> torch.Tensor:
    """The vector of every code: float32 [2 ** bits, bits] of +1 and -1."""
    shifts = torch.arange(bits - 1, -1, -1)
    return ((torch.arange(2**bits)[:, None] >> shifts) & 1).float() * 2 - 1


class Magvit(nn.Module):
    """Encoder, quantiser, decoder."""

    def __init__(self, config: MagvitConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Signs(config.bits)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """float [B, 3, S, S] in [-1, 1] -> int64 codes [B, H, W]."""
        return self.quantize(self.encoder(pixels))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [B, H, W] -> float [B, 3, S, S], about [-1, 1]."""
        return self.decoder(self.quantize.embedding[codes].permute(0, 3, 1, 2))


class Magvit2Tokenizer(ImageTokenizer):
    """A MAGVIT-v2 tokenizer; codebook entries are +1 and -1."""

    def __init__(self, model: Magvit, image_size: int, digest: str) -> None:
        self.model = model.eval().requires_grad_(False)
        side = image_size // model.config.patch
        super().__init__(image_size, (side, side), model.quantize.embedding, digest)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.encode(pixels)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes)


def read_config(raw: dict[str, Any], path: Path) -> MagvitConfig:
    """Read the sizes in a ``config.json``; the published one names none and means the defaults.

    Raises:
        FormatError: The sizes contradict each other.
    """
    known = {field.name for field in fields(MagvitConfig)}
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
    config = MagvitConfig(**sizes)
    depths = {len(getattr(config, name)) for name in known if "_" in name}
    if len(depths) != 1 or config.channels % 32:
        raise FormatError(
            f"found {sizes}; multipliers and blocks of encoder and decoder need one length, and "
            "channels must be a multiple of 32",
            path=path,
            hint="restore the file",
        )
    return config


@register_tokenizer("MAGVITv2")
def load_magvit2(
    checkpoint: Path, raw: dict[str, Any], device: str = "cpu", tokens: int | None = None
) -> Magvit2Tokenizer:
    """Load the tokenizer in a folder of config.json (its JSON is ``raw``) and weights.

    Args:
        checkpoint: The folder.
        raw: JSON of its config.json.
        device: Where to load it.
        tokens: Codes of an image, a square number; None takes images of 256 pixels.
    """
    config = read_config(raw, checkpoint / "config.json")
    state = read_tensors(checkpoint)
    model = Magvit(config)
    load_weights(model, {k: v if "power" in k else v.float() for k, v in state.items()}, checkpoint)
    if not torch.equal(model.quantize.embedding, codebook(config.bits)):
        raise MismatchError(
            "is not the signs of a code's bits, most significant first",
            path=checkpoint,
            field="quantize.embedding",
            hint="these are the weights of another tokenizer",
        )
    size = 256 if tokens is None else config.patch * round(tokens**0.5)
    return Magvit2Tokenizer(model.to(device), size, digest_tensors(state))


@register_tokenizer("Showo")
def load_showo_magvit2(
    checkpoint: Path, raw: dict[str, Any], device: str = "cpu"
) -> Magvit2Tokenizer:
    """Load the tokenizer of a Show-o checkpoint."""
    folder = checkpoint / FOLDER
    return load_magvit2(folder, read_json(folder / "config.json"), device, raw["num_vq_tokens"])
