"""The VQ tokenizer of Janus and LlamaGen.

The quantiser is the original one (FoundationVision/LlamaGen): encoder output and codebook rows are
L2-normalised before the nearest row is taken. transformers' own ``JanusVQVAE.encode`` leaves the
normalisation out, which gives other codes wherever the codebook's rows differ in norm. LlamaGen's
published weights load into transformers' class under other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import JanusConfig, JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from arrag.tokenizers.base import ImageTokenizer, register_tokenizer
from arrag.utils.checkpoint import check_tensors, digest_tensors, load_weights, read_tensors
from arrag.utils.files import read_json

JANUS_PREFIX = "model.vqmodel."
"""Prefix of the tokenizer's weights in a Janus checkpoint."""
FOLDER = "vq"
"""Folder of the tokenizer in a LlamaGen checkpoint."""

UNUSED = ("quantize.codebook_used",)
"""Published weights that only training needs."""

_PARTS = (
    (r"^encoder\.down\.", "encoder.conv_blocks."),
    (r"^decoder\.up\.", "decoder.conv_blocks."),
    (r"\.block\.(\d+)\.", r".res.\1."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
)


def published_name(name: str) -> str:
    """The name in LlamaGen's published weights of a tensor of ``JanusVQVAE``."""
    for ours, theirs in _PARTS:
        name = re.sub(ours, theirs, name)
    return name


def from_published(
    model: nn.Module, state: Mapping[str, torch.Tensor], where: Path
) -> dict[str, torch.Tensor]:
    """Rename published tensors to the names of ``model``, a ``JanusVQVAE``.

    Raises:
        MismatchError: Keys are missing, extra or mis-shaped; they are named as published.
    """
    used = {name: value for name, value in state.items() if name not in UNUSED}
    wanted = {published_name(name): value for name, value in model.state_dict().items()}
    check_tensors(wanted, used, where)
    return {name: used[published_name(name)] for name in model.state_dict()}


class JanusVqTokenizer(ImageTokenizer):
    """transformers' ``JanusVQVAE`` with the original quantiser; codebook rows have unit length."""

    def __init__(self, vqmodel: JanusVQVAE, image_size: int, digest: str) -> None:
        self.vqmodel = vqmodel.eval().requires_grad_(False)
        side = vqmodel.quantize.quant_state_dims[0]
        codebook = F.normalize(vqmodel.quantize.embedding.weight.detach().float(), dim=1)
        super().__init__(image_size, (side, side), codebook, digest)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latent = self.vqmodel.quant_conv(self.vqmodel.encoder(pixels))  # [B, d, H, W]
        unit = F.normalize(latent, dim=1).permute(0, 2, 3, 1)  # [B, H, W, d]
        # Among unit vectors the nearest in L2 is the one of largest inner product.
        return (unit @ self.codebook.T).argmax(-1)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.vqmodel.decode(codes.flatten(1))


@register_tokenizer("janus")
def load_janus_vq(checkpoint: Path, raw: dict[str, Any], device: str = "cpu") -> JanusVqTokenizer:
    """Load the tokenizer of a Janus checkpoint in transformers' format."""
    config = JanusConfig.from_dict(raw)
    state = read_tensors(checkpoint, JANUS_PREFIX)
    vqmodel = JanusVQVAE(config.vq_config)
    load_weights(vqmodel, {k: v.float() for k, v in state.items()}, checkpoint)
    image_size = config.vision_config.image_size
    tokenizer = JanusVqTokenizer(vqmodel.to(device), image_size, digest_tensors(state))
    side, patch = tokenizer.grid[0], _patch_size(config.vq_config)
    if image_size != side * patch:
        raise ValueError(f"image_size is {image_size}, num_patches {side} of {patch} pixels each")
    return tokenizer


@register_tokenizer("LlamaGen")
def load_llamagen_vq(
    checkpoint: Path, raw: dict[str, Any], device: str = "cpu"
) -> JanusVqTokenizer:
    """Load the tokenizer of a LlamaGen checkpoint, for ``raw["grid"]`` codes a side.

    A config.json in its folder may give other sizes (fields of JanusVQVAEConfig) than the
    published ones.
    """
    folder, side = checkpoint / FOLDER, raw.get("grid", 16)
    sizes = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    config = JanusVQVAEConfig.from_dict({**sizes, "num_patches": side})
    state = read_tensors(folder)
    model = JanusVQVAE(config)
    renamed = from_published(model, state, folder)
    model.load_state_dict({name: value.float() for name, value in renamed.items()})
    used = {name: value for name, value in state.items() if name not in UNUSED}
    return JanusVqTokenizer(model.to(device), side * _patch_size(config), digest_tensors(used))


def _patch_size(config: JanusVQVAEConfig) -> int:
    """Pixels a side of a code: each level of the encoder but the last halves the image."""
    return 2 ** (len(config.channel_multiplier) - 1)
