"""The Mask2Former adapter against a plain-loop reading of the protocol."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from arrag.metrics.base import load_detector
from arrag.metrics.detectors import mask2former as detection
from arrag.metrics.detectors.mask2former import preprocess
from arrag.utils.errors import FormatError, MismatchError, MissingError

NAMES = ["person", "mouse", "sofa", "cup"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=40,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():  # untrained logits are nearly flat: spread them so that order matters
        model.class_predictor.weight.mul_(40)
    path = tmp_path_factory.mktemp("m2f") / "tiny"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def detector(checkpoint):
    return load_detector(checkpoint)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in [(24, 40, 3), (32, 32, 3)]]


def plain_detections(model, image):
    """The protocol once more, one query, one class and one pixel row at a time."""
    height, width = image.shape[:2]
    scale = min(1333 / max(height, width), 800 / min(height, width))
    rh, rw = int(height * scale + 0.5), int(width * scale + 0.5)
    ph, pw = math.ceil(rh / 32) * 32, math.ceil(rw / 32) * 32
    canvas = torch.full((3, ph, pw), 128.0)
    for c in range(3):
        plane = torch.from_numpy(image[:, :, c].copy()).float()[None, None]
        plane = F.interpolate(plane, size=(rh, rw), mode="bilinear", align_corners=False)
        canvas[c, :rh, :rw] = plane[0, 0].round()
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    for c in range(3):
        canvas[c] = (canvas[c] - mean[c]) / std[c]
    with torch.no_grad():
        out = model(pixel_values=canvas[None])
    pairs = []
    for q in range(out.class_queries_logits.shape[1]):
        exps = [math.exp(v) for v in out.class_queries_logits[0, q].double().tolist()]
        for c in range(len(exps) - 1):
            pairs.append((exps[c] / sum(exps), q, c))
    pairs.sort(key=lambda t: -t[0])
    expected = []
    for probability, q, c in pairs[:100]:
        logits = out.masks_queries_logits[0, q][None, None]
        logits = F.interpolate(logits, size=(ph, pw), mode="bilinear", align_corners=False)
        logits = logits[:, :, :rh, :rw]
        logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        logits = logits[0, 0].double().tolist()
        on = [(x, y, v) for y, row in enumerate(logits) for x, v in enumerate(row) if v > 0]
        if not on:
            continue
        quality = sum(1 / (1 + math.exp(-v)) for _, _, v in on) / len(on)
        box = (
            min(x for x, _, _ in on),
            min(y for _, y, _ in on),
            max(x for x, _, _ in on) + 1,
            max(y for _, y, _ in on) + 1,
        )
        expected.append((c, probability * quality, box, {(x, y) for x, y, _ in on}))
    return expected


def test_mask2former_follows_the_protocol(detector, images):
    image = images[0]  # 24 x 40 -> 800 x 1333, padded to 800 x 1344
    assert detector.classes == ["person", "computer mouse", "couch", "cup"]  # GenEval's names
    expected = plain_detections(detector.model, image)
    found = detector.detect([image])[0]
    assert len(expected) > 20 and len({c for c, *_ in expected}) > 1
    assert len(found) == len(expected)
    order = sorted(found, key=lambda d: -d.score)
    for ours, (c, score, box, pixels) in zip(
        order, sorted(expected, key=lambda e: -e[1]), strict=True
    ):
        assert ours.label == detector.classes[c]
        assert ours.score == pytest.approx(score, abs=1e-5)
        assert ours.box == box
        ys, xs = np.nonzero(ours.mask)
        assert set(zip(xs.tolist(), ys.tolist(), strict=True)) == pixels
        assert ours.mask.shape == image.shape[:2] and ours.mask.dtype == bool


def test_at_most_100_and_batch_independent(detector, images):
    together = detector.detect([images[0], images[1], images[0]])
    alone = [detector.detect([image])[0] for image in images]
    for got, want in zip(together, [alone[0], alone[1], alone[0]], strict=True):
        assert 0 < len(got) <= 100  # 40 queries x 4 classes = 160 candidates
        assert [d.label for d in got] == [d.label for d in want]
        assert [d.box for d in got] == [d.box for d in want]
        np.testing.assert_allclose([d.score for d in got], [d.score for d in want], atol=1e-5)


def test_top_100_runs_over_query_and_class():
    logits = torch.full((60, 3), -9.0)
    logits[:, 0], logits[:, 1] = 1.0, 0.5  # both classes of every query beat the background
    masks = torch.ones(60, 5, 6)
    found = detection.instances(logits, masks, ["a", "b"])
    labels = [d.label for d in found]
    assert (labels.count("a"), labels.count("b")) == (60, 40)
    probabilities = logits.softmax(-1)
    inside = torch.tensor(1.0).sigmoid()
    assert found[0].score == pytest.approx(float(probabilities[0, 0] * inside), abs=1e-5)


def test_an_empty_mask_is_left_out():
    masks = torch.stack([torch.full((4, 4), -1.0), torch.full((4, 4), 2.0)])
    found = detection.instances(torch.tensor([[9.0, 0.0], [5.0, 0.0]]), masks, ["a"])
    assert [d.box for d in found] == [(0, 0, 4, 4)]


def test_preprocess_resizes_pads_and_normalises():
    batch = torch.full((1, 30, 90, 3), 200, dtype=torch.uint8)
    pixels, resized = preprocess(batch)
    assert resized == (444, 1333)  # the long side binds: 1333 / 90
    assert pixels.shape == (1, 3, 448, 1344)
    assert pixels[0, 0, 0, 0].item() == pytest.approx((200 - 123.675) / 58.395, abs=1e-5)
    assert pixels[0, 2, 447, 0].item() == pytest.approx((128 - 103.53) / 57.375, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "tensors", "kind"),
    [
        (None, {}, MissingError),
        ({"model_type": "yolo"}, {}, FormatError),
        ({}, None, FormatError),  # no weights
        ({}, {"class_predictor.weight": None}, MismatchError),  # one is missing
        ({"num_queries": 7}, {}, MismatchError),  # one has another shape
    ],
)
def test_a_bad_checkpoint_is_refused(checkpoint, tmp_path, config, tensors, kind):
    if config is not None:
        given = json.loads((checkpoint / "config.json").read_text()) | config
        (tmp_path / "config.json").write_text(json.dumps(given))
    if tensors is not None:
        held = load_file(checkpoint / "model.safetensors")
        kept = {name: value for name, value in held.items() if name not in tensors}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with refused(kind) as caught:
        load_detector(tmp_path)
    assert tmp_path in (caught.value.path, caught.value.path.parent) and caught.value.hint
