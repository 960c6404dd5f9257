"""Convert an official Janus checkpoint (``deepseek-ai/Janus-Pro-1B``) to transformers' format.

The networks are the same; names differ, the vision tower's query, key and value are one matrix,
and the configuration is nested differently. Weights that neither generation nor understanding uses
(the tower's pooling head, the tokenizer's usage count) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import processors
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from arrag.backbones.janus import BOI
from arrag.tokenizers.janus_vq import UNUSED as UNUSED_VQ
from arrag.tokenizers.janus_vq import published_name
from arrag.utils.checkpoint import check_tensors, read_tensors
from arrag.utils.errors import FormatError, MissingError
from arrag.utils.files import read_json
from arrag.utils.outputs import atomic_path

VQ = "model.vqmodel."
TOWER = "vision_model.vision_tower"
UNUSED = (f"{TOWER}.attn_pool.", *(f"gen_vision_model.{n}" for n in UNUSED_VQ))
POSITIONS = f"{TOWER}.pos_embed"
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
IMAGE = "<image_placeholder>"

_PARTS = (
    (r"^model\.vision_model\.embeddings\.position_embedding\.weight$", POSITIONS),
    (r"^model\.vision_model\.embeddings\.patch_embedding\.", f"{TOWER}.patch_embed.proj."),
    (r"^model\.vision_model\.encoder\.layers\.", "vision_model.vision_tower.blocks."),
    (r"^model\.vision_model\.post_layernorm\.", "vision_model.vision_tower.norm."),
    (r"\.self_attn\.projection_layer\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"^model\.aligner\.", "aligner."),
    (r"^model\.generation_aligner\.", "gen_aligner."),
    (r"^model\.generation_embeddings\.", "gen_embed."),
    (r"^model\.generation_head\.proj_out\.", "gen_head.output_mlp_projector."),
    (r"^model\.generation_head\.", "gen_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
_TOWER = re.compile(r"^(vision_model\..*)\.self_attn\.([qkv])_proj\.(\w+)$")
_ALIGNER = re.compile(r"^((?:gen_)?aligner)\.(?:fc1|hidden_layers\.(\d+))\.(\w+)$")


def official_name(name: str) -> tuple[str, int | None]:
    """The official name of a tensor of transformers' Janus, and which third (q, k, v) of it it is.

    The second value is None for a whole tensor.
    """
    if name.startswith(VQ):
        return "gen_vision_model." + published_name(name.removeprefix(VQ)), None
    for ours, theirs in _PARTS:
        name = re.sub(ours, theirs, name)
    if found := _TOWER.match(name):
        return f"{found[1]}.attn.qkv.{found[3]}", "qkv".index(found[2])
    if found := _ALIGNER.match(name):  # between two linear layers is one without weights
        place = 0 if found[2] is None else 2 * (int(found[2]) + 1)
        return f"{found[1]}.layers.{place}.{found[3]}", None
    return name, None


def from_official(
    model: JanusForConditionalGeneration, state: Mapping[str, torch.Tensor], where: Path
) -> dict[str, torch.Tensor]:
    """Rename official tensors to the names of ``model`` (which may be on the meta device).

    Raises:
        MismatchError: Keys are missing, extra or mis-shaped; they are named as in the file.
    """
    target = model.state_dict()
    wanted: dict[str, torch.Tensor] = {}
    for name, value in target.items():
        theirs, part = official_name(name)
        if part is not None:
            value = value.repeat(3, *[1] * (value.ndim - 1))
        wanted[theirs] = value[None] if theirs == POSITIONS else value
    used = {name: value for name, value in state.items() if not name.startswith(UNUSED)}
    check_tensors(wanted, used, where)
    converted = {}
    for name in target:
        theirs, part = official_name(name)
        value = used[theirs] if part is None else used[theirs].chunk(3)[part]
        converted[name] = (value[0] if theirs == POSITIONS else value).contiguous()
    return converted


def janus_config(raw: dict[str, Any], path: Path) -> JanusConfig:
    """Translate an official ``config.json`` to transformers' configuration.

    Sizes that the official one gives by a name only (``siglip_large_patch16_384``, ``VQ-16``) are
    those of Janus-Pro; its other parameters have transformers' names.

    Raises:
        FormatError: The configuration is of another model.
    """
    try:
        params = {
            part: raw[f"{part}_config"]["params"]
            for part in ("vision", "aligner", "gen_vision", "gen_aligner", "gen_head")
        }
        vision = JanusVisionConfig(
            **_known(JanusVisionConfig, params["vision"]),
            projection_dim=params["aligner"]["n_embed"],
            depth=params["aligner"]["depth"],
        )
        vq = JanusVQVAEConfig(
            **_known(JanusVQVAEConfig, params["gen_vision"]),
            embed_dim=params["gen_vision"]["n_embed"],
            num_embeddings=params["gen_vision"]["image_token_size"],
            projection_dim=params["gen_aligner"]["n_embed"],
            num_hidden_layers=params["gen_aligner"]["depth"],
            image_token_embed_dim=params["gen_head"]["image_token_embed"],
        )
        text = LlamaConfig(**{k: v for k, v in raw["language_config"].items() if k != "model_type"})
    except (KeyError, TypeError) as error:
        found = f"is not the configuration of an official Janus ({error} is missing or invalid)"
        hint = "give the folder of deepseek-ai/Janus-Pro-1B or -7B"
        raise FormatError(found, path=path, hint=hint) from None
    return JanusConfig(text_config=text, vision_config=vision, vq_config=vq)


def _known(config: type, params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if hasattr(config, name)}


def convert_janus(source: Path, out: Path) -> dict[str, Any]:
    """Write ``out`` in transformers' format; ``source`` is a folder or a weights file in it."""
    folder = source if source.is_dir() else source.parent
    config = janus_config(read_json(folder / "config.json"), folder / "config.json")
    tokenizer = read_tokenizer(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (BOS, EOS, PAD, BOI, IMAGE)}
    for part in (config, config.text_config):
        part.bos_token_id, part.eos_token_id, part.pad_token_id = ids[BOS], ids[EOS], ids[PAD]
    config.image_token_id = ids[IMAGE]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
    state = from_official(model, read_tensors(source), source)
    drawing = GenerationConfig(
        pad_token_id=ids[PAD], bos_token_id=ids[BOS], eos_token_id=ids[EOS],
        guidance_scale=5.0, do_sample=True, top_k=0,
    )  # fmt: skip
    drawing.generation_kwargs = {"boi_token_id": ids[BOI]}
    config.architectures = ["JanusForConditionalGeneration"]
    with atomic_path(out) as temporary:
        temporary.mkdir()
        config.save_pretrained(temporary)
        drawing.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_file(state, temporary / "model.safetensors", {"format": "pt"})
    return {"out": out, "weights": len(state)}


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the ``tokenizer.json`` of an official folder; the tokenizer adds BOS.

    Raises:
        MissingError: The file is absent.
        FormatError: It lacks one of Janus's tokens.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MissingError("no such file", path=path, hint="download the tokenizer too")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="left"
    )
    known = tokenizer.get_vocab()
    size = len(read_json(path)["model"]["vocab"]) + len(read_json(path)["added_tokens"])
    missing = [name for name in (BOS, EOS, PAD, BOI, IMAGE) if known.get(name, size) >= size]
    if missing:
        lacks = f"has no {', '.join(missing)}"
        raise FormatError(lacks, path=path, hint="give the tokenizer of Janus-Pro")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, known[BOS])]
    )
    return tokenizer
