"""GenEval's own detector for transformers: mmdetection's Mask2Former checkpoint, converted.

Source: mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth of mmdetection
2.x. Its keys (``panoptic_head.…attentions.0…``) and those of mmdetection 3.x (``…cross_attn…``) are
both read. Sizes are taken from the weights, so other Swin variants convert too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arrag.utils.checkpoint import loading
from arrag.utils.errors import FormatError
from arrag.utils.files import write_json
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path

HINT = "give GenEval's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco checkpoint"
LEVELS, POINTS = 3, 4  # of the deformable attention, in mmdetection and in transformers
# Of the target: buffers of the loss and a layer that the backbone never runs.
NOT_IN_SOURCE = ("criterion.empty_weight", "model.pixel_level_module.encoder.swin.layernorm.")
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO = tuple(_COCO.split(","))  # COCO's 80 classes in its order

_SWIN = "model.pixel_level_module.encoder.swin."
_PIXEL = "model.pixel_level_module.decoder."
_QUERY = "model.transformer_module."
_BLOCK, _HEAD = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.", r"panoptic_head\."
_ENCODER = _HEAD + r"pixel_decoder\.encoder\.layers\.(\d+)\."
_DECODER = _HEAD + r"transformer_decoder\.layers\.(\d+)\."
_TO_BLOCK = _SWIN + r"encoder.layers.\1.blocks.\2."
_TO_ENCODER, _TO_DECODER = _PIXEL + r"encoder.layers.\1.", _QUERY + r"decoder.layers.\1."
# mmdetection's module (a pattern over the whole name but its last part) -> transformers'.
RENAMED = {
    r"backbone\.patch_embed\.projection": _SWIN + r"embeddings.patch_embeddings.projection",
    r"backbone\.patch_embed\.norm": _SWIN + r"embeddings.norm",
    _BLOCK + r"norm1": _TO_BLOCK + "layernorm_before",
    _BLOCK + r"norm2": _TO_BLOCK + "layernorm_after",
    _BLOCK + r"attn\.w_msa\.proj": _TO_BLOCK + "attention.o_proj",
    _BLOCK + r"ffn\.layers\.0\.0": _TO_BLOCK + "mlp.fc1",
    _BLOCK + r"ffn\.layers\.1": _TO_BLOCK + "mlp.fc2",
    _HEAD + r"pixel_decoder\.input_convs\.(\d)\.conv": _PIXEL + r"input_projections.\1.0",
    _HEAD + r"pixel_decoder\.input_convs\.(\d)\.gn": _PIXEL + r"input_projections.\1.1",
    _ENCODER + r"self_attn\.(\w+)": _TO_ENCODER + r"self_attn.\2",
    _ENCODER + r"ffn\.layers\.0\.0": _TO_ENCODER + "fc1",
    _ENCODER + r"ffn\.layers\.1": _TO_ENCODER + "fc2",
    _ENCODER + r"norms\.0": _TO_ENCODER + "self_attn_layer_norm",
    _ENCODER + r"norms\.1": _TO_ENCODER + "final_layer_norm",
    _HEAD + r"pixel_decoder\.lateral_convs\.0\.conv": _PIXEL + "adapter_1.0",
    _HEAD + r"pixel_decoder\.lateral_convs\.0\.gn": _PIXEL + "adapter_1.1",
    _HEAD + r"pixel_decoder\.output_convs\.0\.conv": _PIXEL + "layer_1.0",
    _HEAD + r"pixel_decoder\.output_convs\.0\.gn": _PIXEL + "layer_1.1",
    _HEAD + r"pixel_decoder\.mask_feature": _PIXEL + "mask_projection",
    _DECODER + r"cross_attn\.attn\.out_proj": _TO_DECODER + "cross_attn.out_proj",
    _DECODER + r"self_attn\.attn\.out_proj": _TO_DECODER + "self_attn.out_proj",
    _DECODER + r"ffn\.layers\.0\.0": _TO_DECODER + "fc1",
    _DECODER + r"ffn\.layers\.1": _TO_DECODER + "fc2",
    _DECODER + r"norms\.0": _TO_DECODER + "cross_attn_layer_norm",
    _DECODER + r"norms\.1": _TO_DECODER + "self_attn_layer_norm",
    _DECODER + r"norms\.2": _TO_DECODER + "final_layer_norm",
    _HEAD + r"transformer_decoder\.post_norm": _QUERY + "decoder.layernorm",
    _HEAD + r"query_embed": _QUERY + "queries_embedder",
    _HEAD + r"query_feat": _QUERY + "queries_features",
    _HEAD + r"level_embed": _QUERY + "level_embed",
    _HEAD + r"cls_embed": "class_predictor",
}
OLD_NAMES = (  # mmdetection 2.x -> 3.x
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (r"(\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
)


def convert_mask2former(checkpoint: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the folder ``out`` for transformers from an mmdetection checkpoint.

    Returns:
        The folder, the number of converted weights and of classes, the source and its SHA-256.

    Raises:
        FormatError: The file is no such checkpoint: unreadable, with keys left over or missing, or
            with shapes that do not fit together.
    """
    from transformers import Mask2FormerForUniversalSegmentation

    state = read_checkpoint(checkpoint)
    try:
        config = make_config(state)
    except (LookupError, ValueError, ArithmeticError) as error:
        message = f"not a Mask2Former with a Swin backbone of mmdetection: {error}"
        raise FormatError(message, path=checkpoint, hint=HINT) from None
    model = Mask2FormerForUniversalSegmentation(config)
    converted = dict(renamed(checkpoint, state))
    target = model.state_dict()
    missing = [k for k in target if k not in converted and not k.startswith(NOT_IN_SOURCE)]
    wrong = [k for k, v in converted.items() if k not in target or v.shape != target[k].shape]
    for what, names in (("are missing", missing), ("do not fit", wrong)):
        if names:
            message = f"{len(names)} weights {what}"
            raise FormatError(message, path=checkpoint, field=names[0], hint=HINT)
    model.load_state_dict(target | converted)
    with atomic_path(out) as temporary:
        model.save_pretrained(temporary)
        about = {"source": Path(checkpoint).name, "sha256": sha256_file(checkpoint)}
        write_json(temporary / "conversion.json", about)
    return {"out": Path(out), "weights": len(converted), "classes": config.num_labels, **about}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a .pth file, names as in mmdetection 3.x. Nothing in the file is executed."""
    with loading(path, "weights alone", "fetch the checkpoint again"):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = loaded.get("state_dict", loaded)
        if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("holds no state_dict of weights")
        for old, new in OLD_NAMES:
            state = {re.sub(old, new, name): tensor for name, tensor in state.items()}
    return state


def make_config(state: dict[str, Tensor]) -> Any:
    """A transformers configuration from the shapes of the weights. KeyError for absent ones."""
    from transformers import Mask2FormerConfig, SwinConfig

    def count(pattern: str) -> int:
        return len({m[1] for name in state if (m := re.match(pattern, name))})

    stages = count(r"backbone\.stages\.(\d+)\.")
    block = "backbone.stages.{}.blocks.0.{}"
    tables = [
        state[block.format(s, "attn.w_msa.relative_position_bias_table")] for s in range(stages)
    ]
    embedding = state["backbone.patch_embed.projection.weight"]
    width = embedding.shape[0]
    backbone = SwinConfig(
        embed_dim=width,
        patch_size=embedding.shape[-1],
        depths=[count(rf"backbone\.stages\.{s}\.blocks\.(\d+)\.") for s in range(stages)],
        num_heads=[table.shape[1] for table in tables],
        window_size=(round(tables[0].shape[0] ** 0.5) + 1) // 2,
        mlp_ratio=state[block.format(0, "ffn.layers.0.0.weight")].shape[0] / width,
        out_features=[f"stage{s + 1}" for s in range(stages)],
    )
    pixel, decoder = "panoptic_head.pixel_decoder.", "panoptic_head.transformer_decoder."
    weights = state[pixel + "encoder.layers.0.self_attn.attention_weights.weight"]
    classes, hidden = state["panoptic_head.cls_embed.weight"].shape
    names = COCO if classes - 1 == len(COCO) else [f"class {i}" for i in range(classes - 1)]
    return Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=weights.shape[1],
        hidden_dim=hidden,
        mask_feature_size=state[pixel + "mask_feature.weight"].shape[0],
        num_attention_heads=weights.shape[0] // (LEVELS * POINTS),
        encoder_feedforward_dim=state[pixel + "encoder.layers.0.ffn.layers.0.0.weight"].shape[0],
        dim_feedforward=state[decoder + "layers.0.ffn.layers.0.0.weight"].shape[0],
        encoder_layers=count(r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\."),
        # transformers counts the prediction before the first layer too
        decoder_layers=1 + count(r"panoptic_head\.transformer_decoder\.layers\.(\d+)\."),
        num_queries=state["panoptic_head.query_feat.weight"].shape[0],
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )


def renamed(path: str | Path, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every weight under transformers' name and in its order of channels.

    Raises:
        FormatError: A name is not mmdetection's; nothing is left out silently.
    """
    unknown = []
    for name, tensor in state.items():
        pairs = list(_special(path, name, tensor))
        if not pairs:
            module, _, kind = name.rpartition(".")
            match = next(((p, new) for p, new in RENAMED.items() if re.fullmatch(p, module)), None)
            if match:
                pairs = [(f"{re.sub(*match, module)}.{kind}", tensor)]
        if not pairs and not name.endswith("relative_position_index"):
            unknown.append(name)
        yield from pairs
    if unknown:
        message = f"{len(unknown)} weights have names that no Mask2Former of mmdetection has"
        raise FormatError(message, path=path, field=unknown[0], hint=HINT)


def _special(path: str | Path, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Weights that are split, reordered, or of a name without a module pattern."""
    if m := re.fullmatch(r"backbone\.norm(\d)\.(\w+)", name):
        stage = int(m[1]) + 1
        yield f"model.pixel_level_module.encoder.hidden_states_norms.stage{stage}.{m[2]}", tensor
    elif m := re.fullmatch(r"backbone\.stages\.(\d+)\.downsample\.(\w+)\.(\w+)", name):
        new = f"{_SWIN}encoder.layers.{m[1]}.downsample.{m[2]}.{m[3]}"
        yield new, merged_channels(tensor)
    elif m := re.fullmatch(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.(.+)", name):
        attention = f"{_SWIN}encoder.layers.{m[1]}.blocks.{m[2]}.attention."
        if m[3].startswith("qkv."):
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{attention}{part}_proj.{m[3].removeprefix('qkv.')}", values
        elif m[3] == "relative_position_bias_table":
            yield f"{attention}relative_position_bias.{m[3]}", tensor
        elif m[3] == "relative_position_index" and not torch.equal(tensor, window_index(tensor)):
            message = "is not Swin's; the bias table has another order"
            raise FormatError(message, path=path, field=name, hint=HINT)
    elif name == "panoptic_head.pixel_decoder.level_encoding.weight":
        yield _PIXEL + "level_embed", tensor
    elif m := re.fullmatch(r"panoptic_head\.mask_embed\.([024])\.(\w+)", name):
        layer = int(m[1]) // 2
        yield f"{_QUERY}decoder.mask_predictor.mask_embedder.{layer}.0.{m[2]}", tensor
    elif m := re.fullmatch(
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.(\w+)\.attn\.in_proj_(\w+)", name
    ):
        attention = f"{_QUERY}decoder.layers.{m[1]}.{m[2]}."
        if m[2] == "cross_attn":
            yield f"{attention}in_proj_{m[3]}", tensor
        else:
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{attention}{part}_proj.{m[3]}", values


def merged_channels(tensor: Tensor) -> Tensor:
    """Reorder the 4 C channels of a Swin patch merging, the last dimension of ``tensor``.

    mmdetection unfolds 2 x 2 patches: channel first, then (top left, top right, bottom left, bottom
    right). Swin, and transformers, concatenate patches (top left, bottom left, top right, bottom
    right), each with all its channels.
    """
    channels = tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]  # [..., C, 4]
    return channels.transpose(-1, -2).flatten(-2)


def window_index(like: Tensor) -> Tensor:
    """Row of the bias table for every pair of a square window's places: int64 [w*w, w*w]."""
    side = round(len(like) ** 0.5)
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    down = row[:, None] - row[None, :] + side - 1
    right = column[:, None] - column[None, :] + side - 1
    return (down * (2 * side - 1) + right).to(like.dtype)
