"""The tokenizer of LlamaGen in its published layout; Janus took it over, and transformers has it.

Only names differ: each list of blocks, of the encoder and of the decoder, goes by another name.
What is missing, too much or of another shape is named as in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from arrag.tokenizers.base import Vq16Codec
from arrag.utils.checkpoint import check_tensors, digest_tensors, read_tensors
from arrag.utils.files import read_json

FOLDER = "vq"
"""Where a LlamaGen checkpoint keeps its tokenizer."""

UNUSED = ("quantize.codebook_used",)
"""Keys of the published weights that only training needs."""

_PARTS = (
    (r"^encoder\.down\.", "encoder.conv_blocks."),
    (r"^decoder\.up\.", "decoder.conv_blocks."),
    (r"\.block\.(\d+)\.", r".res.\1."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
)


def published_name(name: str) -> str:
    """The published key of a tensor of transformers' ``JanusVQVAE``."""
    for ours, theirs in _PARTS:
        name = re.sub(ours, theirs, name)
    return name


def from_published(
    model: nn.Module, state: Mapping[str, torch.Tensor], where: Path
) -> dict[str, torch.Tensor]:
    """Published tensors under the names of ``model``, a ``JanusVQVAE``.

    Raises ArragError for missing, extra and mis-shaped keys, naming them as published.
    """
    used = {name: value for name, value in state.items() if name not in UNUSED}
    wanted = {published_name(name): value for name, value in model.state_dict().items()}
    check_tensors(wanted, used, where)
    return {name: used[published_name(name)] for name in model.state_dict()}


def load_vq16(folder: Path, side: int, device: str = "cpu") -> Vq16Codec:
    """Load the tokenizer in ``folder`` for images of ``side`` x ``side`` codes.

    A config.json there may give other sizes (fields of JanusVQVAEConfig) than the published.
    Raises ArragError for missing or damaged files and keys or shapes that differ.
    """
    sizes = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    config = JanusVQVAEConfig.from_dict({**sizes, "num_patches": side})
    state = read_tensors(folder)
    model = JanusVQVAE(config)
    renamed = from_published(model, state, folder)
    model.load_state_dict({name: value.float() for name, value in renamed.items()})
    patch = 2 ** (len(config.channel_multiplier) - 1)
    used = {name: value for name, value in state.items() if name not in UNUSED}
    return Vq16Codec(model.to(device), side * patch, digest_tensors(used))
