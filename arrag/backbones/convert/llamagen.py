"""Convert LlamaGen's published files (``peizesun/llamagen_t2i``) to a checkpoint folder.

The weights keep their names. Sizes are read from their shapes, except for the grid, which follows
from the image size.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from arrag.backbones.llamagen.gpt import Gpt, GptConfig
from arrag.tokenizers.janus_vq import FOLDER, UNUSED, from_published
from arrag.utils.checkpoint import check_weights, loading
from arrag.utils.errors import FormatError, UsageError
from arrag.utils.files import write_json
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path

HEAD = 64
"""Width of a head in every published LlamaGen of this architecture up to XXXL."""
WRAPPERS = ("model", "module", "state_dict")
"""Where the public code looks for the weights in a file, in this order."""


def convert_llamagen(
    weights: Path, out: Path, *, tokenizer: str | Path, image_size: int
) -> dict[str, Any]:
    """Write the folder ``out``; the text encoder is not converted, its folder goes to ``out/t5``.

    Args:
        weights: The ``.pt`` file of the language model.
        out: The folder to write.
        tokenizer: The ``.pt`` file of the image tokenizer.
        image_size: Pixels a side, 256 for stage 1 and 512 for stage 2.
    """
    tokenizer = Path(tokenizer)
    if image_size % 16:
        found = f"is {image_size}, expected a multiple of 16"
        raise UsageError(found, field="image size", hint="give 256 or 512")
    state, vq = read_published(weights), read_published(tokenizer)
    config = read_sizes(state, image_size // 16, weights)
    with torch.device("meta"):
        check_weights(Gpt(config), state, weights)
        sizes = _vq_sizes(vq, tokenizer)
        from_published(JanusVQVAE(JanusVQVAEConfig(**sizes)), vq, tokenizer)
    vq = {name: value.contiguous() for name, value in vq.items() if name not in UNUSED}
    with atomic_path(out) as temporary:
        (temporary / FOLDER).mkdir(parents=True)
        write_json(temporary / "config.json", {"_class_name": "LlamaGen", **asdict(config)})
        save_file({k: v.contiguous() for k, v in state.items()}, temporary / "model.safetensors")
        write_json(temporary / FOLDER / "config.json", sizes)
        save_file(vq, temporary / FOLDER / "model.safetensors")
        about = {file.name: sha256_file(file) for file in (weights, tokenizer)}
        write_json(temporary / "conversion.json", about)
    return {"out": out, "weights": len(state), "tokenizer_weights": len(vq)}


def read_published(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights in a published file without running any code in it."""
    arguments = torch.serialization.safe_globals([argparse.Namespace])  # of the training
    with loading(path, "weights alone"), arguments:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    found = next((loaded[k] for k in WRAPPERS if isinstance(loaded, dict) and k in loaded), None)
    pairs = found.items() if isinstance(found, dict) else ()
    if not pairs or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in pairs):
        message = f"has no weights under {', '.join(map(repr, WRAPPERS))}"
        raise FormatError(message, path=path, hint="give a file of peizesun/llamagen_t2i")
    return found


def read_sizes(state: dict[str, torch.Tensor], grid: int, path: Path) -> GptConfig:
    """Read the sizes of a language model from its weights.

    Raises:
        FormatError: It is no text-conditional LlamaGen.
    """
    with loading(path, "a text-conditional LlamaGen", "give t2i_XL_stage1_256.pt or a larger one"):
        codes, width = state["tok_embeddings.weight"].shape
        length, text_width = state["cls_embedding.uncond_embedding"].shape
        intermediate = len(state["layers.0.feed_forward.w1.weight"])
    layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    heads = max(width // HEAD, 1)
    return GptConfig(grid, width, layers, heads, intermediate, codes, length, text_width)


def _vq_sizes(state: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Read fields of JanusVQVAEConfig from the shapes of an image tokenizer's weights."""
    with loading(path, "LlamaGen's image tokenizer", "give vq_ds16_t2i.pt"):
        codes, dimensions = state["quantize.embedding.weight"].shape
        latent = state["quant_conv.weight"].shape[1]
        base = len(state["encoder.conv_in.weight"])
        levels = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("encoder.conv_blocks"))
        widths = [len(state[f"encoder.conv_blocks.{i}.res.0.conv2.weight"]) for i in range(levels)]
    blocks = {n.split(".")[4] for n in state if n.startswith("encoder.conv_blocks.0.res.")}
    return {
        "num_embeddings": codes,
        "embed_dim": dimensions,
        "latent_channels": latent,
        "base_channels": base,
        "channel_multiplier": [width // base for width in widths],
        "num_res_blocks": len(blocks),
    }
