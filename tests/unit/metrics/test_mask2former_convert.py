"""The Mask2Former converter: names, shapes, channel orders, and mmdetection's own output."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused
from transformers import Mask2FormerForUniversalSegmentation

from arrag.cli.main import main
from arrag.metrics.base import load_detector
from arrag.metrics.detectors import mask2former_convert as mask2former
from arrag.metrics.detectors.mask2former_convert import (
    convert_mask2former,
    make_config,
    merged_channels,
    renamed,
    window_index,
)
from arrag.utils.errors import FormatError
from arrag.utils.files import read_json

RECORDED = Path(__file__).parents[2] / "data/mask2former_mmdet.json"
SMALL = {
    "width": 24,
    "depths": (1, 1, 2, 1),
    "heads": (1, 2, 4, 8),
    "hidden": 64,
    "queries": 20,
    "encoder": (2, 48),
    "decoder": (3, 72),
}
SWIN_S = {
    "width": 96,
    "depths": (2, 2, 18, 2),
    "heads": (3, 6, 12, 24),
    "hidden": 256,
    "queries": 100,
    "encoder": (6, 1024),
    "decoder": (9, 2048),
}


def layout(width, depths, heads, hidden, queries, encoder, decoder):
    """{name in mmdetection 3.x: shape} of a Mask2Former with a Swin backbone, 80 classes."""
    shapes = {}

    def layer(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def feed_forward(name, d, inner):
        layer(f"{name}.layers.0.0", inner, d)
        layer(f"{name}.layers.1", d, inner)

    layer("backbone.patch_embed.projection", width, 3, 4, 4)
    layer("backbone.patch_embed.norm", width)
    for s, (depth, n) in enumerate(zip(depths, heads, strict=True)):
        d = width * 2**s
        for b in range(depth):
            block = f"backbone.stages.{s}.blocks.{b}"
            shapes[f"{block}.attn.w_msa.relative_position_bias_table"] = (169, n)
            shapes[f"{block}.attn.w_msa.relative_position_index"] = (49, 49)
            layer(f"{block}.attn.w_msa.qkv", 3 * d, d)
            layer(f"{block}.attn.w_msa.proj", d, d)
            layer(f"{block}.norm1", d)
            layer(f"{block}.norm2", d)
            feed_forward(f"{block}.ffn", d, 4 * d)
        if s < 3:
            layer(f"backbone.stages.{s}.downsample.norm", 4 * d)
            layer(f"backbone.stages.{s}.downsample.reduction", 2 * d, 4 * d, bias=False)
        layer(f"backbone.norm{s}", d)
    pixel = "panoptic_head.pixel_decoder"
    for i in range(3):
        layer(f"{pixel}.input_convs.{i}.conv", hidden, width * 2 ** (3 - i), 1, 1)
        layer(f"{pixel}.input_convs.{i}.gn", hidden)
    layers, inner = encoder
    for i in range(layers):
        name = f"{pixel}.encoder.layers.{i}"
        layer(f"{name}.self_attn.sampling_offsets", 8 * 3 * 4 * 2, hidden)
        layer(f"{name}.self_attn.attention_weights", 8 * 3 * 4, hidden)
        layer(f"{name}.self_attn.value_proj", hidden, hidden)
        layer(f"{name}.self_attn.output_proj", hidden, hidden)
        feed_forward(f"{name}.ffn", hidden, inner)
        layer(f"{name}.norms.0", hidden)
        layer(f"{name}.norms.1", hidden)
    layer(f"{pixel}.level_encoding", 3, hidden, bias=False)
    layer(f"{pixel}.lateral_convs.0.conv", hidden, width, 1, 1, bias=False)
    layer(f"{pixel}.lateral_convs.0.gn", hidden)
    layer(f"{pixel}.output_convs.0.conv", hidden, hidden, 3, 3, bias=False)
    layer(f"{pixel}.output_convs.0.gn", hidden)
    layer(f"{pixel}.mask_feature", hidden, hidden, 1, 1)
    layers, inner = decoder
    for i in range(layers):
        name = f"panoptic_head.transformer_decoder.layers.{i}"
        for attention in ("cross_attn", "self_attn"):
            shapes[f"{name}.{attention}.attn.in_proj_weight"] = (3 * hidden, hidden)
            shapes[f"{name}.{attention}.attn.in_proj_bias"] = (3 * hidden,)
            layer(f"{name}.{attention}.attn.out_proj", hidden, hidden)
        feed_forward(f"{name}.ffn", hidden, inner)
        for norm in range(3):
            layer(f"{name}.norms.{norm}", hidden)
    layer("panoptic_head.transformer_decoder.post_norm", hidden)
    for name in ("query_embed", "query_feat"):
        layer(f"panoptic_head.{name}", queries, hidden, bias=False)
    layer("panoptic_head.level_embed", 3, hidden, bias=False)
    layer("panoptic_head.cls_embed", 81, hidden)
    for i in (0, 2, 4):
        layer(f"panoptic_head.mask_embed.{i}", hidden, hidden)
    return shapes


def weights(shapes):
    """Weights that depend on the name alone (NumPy's frozen generator), of sensible size."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("relative_position_index"):
            state[name] = window_index(torch.zeros(shape, dtype=torch.long))
            continue
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1 and not name.endswith("bias_table"):
            values /= np.sqrt(np.prod(shape[1:]))
        elif len(shape) == 1:
            values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def old_name(name):
    """The name of a weight in a checkpoint of mmdetection 2.x, GenEval's among them."""
    if "encoder.layers" in name or "transformer_decoder.layers" in name:
        name = name.replace(".ffn.", ".ffns.0.")
    if "pixel_decoder" in name:
        return name.replace(".self_attn.", ".attentions.0.")
    return name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small checkpoint, under the names of mmdetection 2.x, and its converted folder."""
    folder = tmp_path_factory.mktemp("mask2former")
    state = {old_name(name): tensor for name, tensor in weights(layout(**SMALL)).items()}
    meta = {"CLASSES": ["person"], "epoch": 50}
    torch.save({"meta": meta, "state_dict": state}, folder / "m2f.pth")
    return folder / "m2f.pth", convert_mask2former(folder / "m2f.pth", folder / "out")


def picture():
    """Pixels for the comparison, [1, 3, 96, 128]."""
    values = np.random.RandomState(7).standard_normal((1, 3, 96, 128))
    return torch.from_numpy(values.astype(np.float32))


def test_the_output_is_that_of_mmdetection(small):
    """Recorded with mmdet 3.3.0 on the same weights: Mask2FormerHead's last predictions."""
    recorded = json.loads(RECORDED.read_text())
    model = Mask2FormerForUniversalSegmentation.from_pretrained(small[1]["out"]).eval()
    with torch.no_grad():
        output = model(pixel_values=picture())
    classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
    assert list(masks.shape) == recorded["mask_shape"]
    assert classes[:, ::9].numpy() == pytest.approx(np.array(recorded["classes"]), abs=2e-4)
    assert masks[:, ::8, ::8].numpy() == pytest.approx(np.array(recorded["masks"]), abs=2e-3)


def test_the_official_size_has_every_weight_in_its_place():
    """Swin-S on the meta device: shapes alone, nothing is left over and nothing is missing."""
    shapes = layout(**SWIN_S)
    assert len(shapes) == 649
    state = {
        name: weights({name: shape})[name]
        if name.endswith("position_index")
        else torch.empty(shape, device="meta")
        for name, shape in shapes.items()
    }
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(make_config(state))
    target = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in renamed("x.pth", state)}
    rest = set(target) - set(found)
    assert all(name.startswith(mask2former.NOT_IN_SOURCE) for name in rest) and len(rest) == 3
    assert {name: target[name] for name in found} == found
    assert model.config.id2label[62] == "tv" and model.config.num_labels == 80


def test_new_names_convert_to_the_same_weights(small, tmp_path):
    torch.save(weights(layout(**SMALL)), tmp_path / "new.pth")
    command = ["convert", "mask2former", str(tmp_path / "new.pth")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    about = read_json(tmp_path / "out/conversion.json")
    assert about["source"] == "new.pth" and len(about["sha256"]) == 64
    detector = load_detector(tmp_path / "out")
    assert detector.classes[64] == "computer mouse" and len(detector.classes) == 80
    first, second = (Path(p) / "model.safetensors" for p in (small[1]["out"], tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()


def test_patch_merging_written_out():
    """Unfold's order of a 2 x 2 patch against Swin's, one channel at a time."""
    channels = 3
    patch = torch.arange(channels * 4.0).reshape(1, channels, 2, 2)
    unfolded = torch.nn.functional.unfold(patch, 2).flatten()  # mmdetection
    swin = torch.cat([patch[0, :, r, c] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))])
    assert torch.equal(merged_channels(unfolded), swin)
    weight = torch.randn(5, 4 * channels)
    assert torch.allclose(weight @ unfolded, merged_channels(weight) @ swin)


INDEX = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
QUERIES = "panoptic_head.query_embed.weight"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s | {"roi_head.fc.weight": torch.zeros(2)}, "roi_head.fc.weight"),
        (
            lambda s: {k: v for k, v in s.items() if k != QUERIES},
            "model.transformer_module.queries_embedder.weight",
        ),
        (
            lambda s: s | {"backbone.norm0.weight": torch.zeros(5)},
            "model.pixel_level_module.encoder.hidden_states_norms.stage1.weight",
        ),
        (lambda s: s | {INDEX: s[INDEX].flip(0)}, INDEX),
        (lambda s: {"a": torch.zeros(1)}, None),
        (lambda s: {"state_dict": {"a": 1}}, None),
        (lambda s: {"a": Path}, None),  # a pickle of more than weights: would run code
    ],
)
def test_what_is_no_such_checkpoint_is_refused(small, tmp_path, change, field):
    bad = tmp_path / "bad.pth"
    torch.save(change(torch.load(small[0], weights_only=True)["state_dict"]), bad)
    with refused(FormatError, path=bad, field=field):
        convert_mask2former(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def mmdet_config(tmp_path_factory):
    """mmdetection's own configuration, made small."""
    mmdet = pytest.importorskip("mmdet", reason="needs mmdetection (extra `detect`)")
    from mmengine.config import Config

    folder = Path(mmdet.__file__).parent / ".mim/configs/mask2former"
    config = Config.fromfile(folder / "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py")
    config.model.backbone.update(
        init_cfg=None, embed_dims=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]
    )
    head = config.model.panoptic_head
    head.update(in_channels=[24, 48, 96, 192], feat_channels=64, out_channels=64, num_queries=20)
    for part, layers, inner in (
        (head.pixel_decoder.encoder, 2, 48),
        (head.transformer_decoder, 3, 72),
    ):
        part.num_layers = layers
        for key in part.layer_cfg:
            part.layer_cfg[key].embed_dims = 64
        part.layer_cfg.ffn_cfg.feedforward_channels = inner
    head.pixel_decoder.positional_encoding.num_feats = head.positional_encoding.num_feats = 32
    path = tmp_path_factory.mktemp("mmdet") / "small.py"
    config.dump(path)
    return path


def mmdet_output(config_path, state):
    """Class logits [Q, 81] and mask logits [Q, h, w] of mmdetection for ``picture``."""
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    model = MODELS.build(Config.fromfile(config_path).model).eval()
    model.load_state_dict(state)
    size = (96, 128)
    names = ("batch_input_shape", "img_shape", "ori_shape", "pad_shape")
    sample = DetDataSample(metainfo=dict.fromkeys(names, size))
    with torch.no_grad():
        classes, masks = model.panoptic_head(model.extract_feat(picture()), [sample])
    return classes[-1][0], masks[-1][0]


def test_mmdetection_still_says_what_is_recorded(mmdet_config):
    classes, masks = mmdet_output(mmdet_config, weights(layout(**SMALL)))
    recorded = json.loads(RECORDED.read_text())
    assert classes[:, ::9].numpy() == pytest.approx(np.array(recorded["classes"]), abs=1e-4)
    assert masks[:, ::8, ::8].numpy() == pytest.approx(np.array(recorded["masks"]), abs=1e-3)


def test_mmdetection_and_the_converted_model_find_the_same(mmdet_config, tmp_path):
    """Both sides divide by 32 after the resize, so that the versions' padding does not matter."""
    state = weights(layout(**SMALL))
    state["panoptic_head.cls_embed.weight"] *= 20  # untrained logits are nearly flat
    torch.save(state, tmp_path / "m2f.pth")
    convert_mask2former(tmp_path / "m2f.pth", tmp_path / "out")
    image = np.random.RandomState(3).randint(0, 256, (800, 1024, 3)).astype(np.uint8)
    theirs = load_detector(f"mmdet:{mmdet_config}:{tmp_path / 'm2f.pth'}").detect([image])[0]
    ours = load_detector(tmp_path / "out").detect([image])[0]
    assert len(theirs) == len(ours) > 50

    def same(a, b):
        near = a.score == pytest.approx(b.score, abs=2e-3)
        return a.label == b.label and near and (a.mask != b.mask).mean() < 2e-3

    # The last of a hundred pairs score nearly alike: who is among them is rounding.
    alike = sum(any(same(a, b) for b in ours) for a in theirs)
    assert alike >= len(theirs) - 2, f"{alike} of {len(theirs)}"
