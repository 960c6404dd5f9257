"""The colour classifier on a tiny random open_clip model."""

import json

import numpy as np
import open_clip
import pytest
import torch
from refusals import refused
from safetensors.torch import save_file

from arrag.data.clip import quick_gelu
from arrag.data.prompts import COLORS
from arrag.metrics.color import ColorClassifier, object_crop
from arrag.utils.errors import ArragError

VISION = {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIG = {
    "model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "tiny-colors"
    path.mkdir()
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**CONFIG["model_cfg"])
    with torch.no_grad():  # untrained inputs all look alike: spread them
        model.token_embedding.weight.mul_(60)
        model.visual.conv1.weight.mul_(20)
        model.visual.class_embedding.zero_()
    save_file(model.state_dict(), path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def classifier(model_dir):
    return ColorClassifier(model_dir)


def objects(count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        image = np.full((40, 48, 3), rng.integers(0, 256, 3), np.uint8)
        mask = rng.random((40, 48)) < 0.8
        x0, y0 = rng.integers(0, 20, 2)
        yield image, mask, (float(x0), float(y0), float(x0 + 18), float(y0 + 15))


def test_object_crop_is_grey_outside_the_mask():
    image = np.full((6, 8, 3), 10, np.uint8)
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:5] = True
    crop = np.array(object_crop(image, mask, (2.4, 1.0, 5.6, 5.0)))
    assert crop.shape == (4, 4, 3)  # x 2.4..5.6 rounds to 2..6
    expected = np.full((4, 4, 3), 0x99, np.uint8)
    expected[1:3, 1:3] = 10
    np.testing.assert_array_equal(crop, expected)
    assert object_crop(image, mask, (3.0, 3.0, 3.0, 3.0)).size == (1, 1)


def test_classify_is_the_templates_argmax_of_open_clip(classifier, model_dir):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model_dir}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_dir}")
    model.eval()
    answers = []
    for image, mask, box in objects(24):
        best = None
        with torch.no_grad():
            picture = model.encode_image(transform(object_crop(image, mask, box))[None])[0]
            for name in COLORS:
                texts = (f"{name} bench", f"{name}-colored bench", f"{name} object")
                each = [model.encode_text(tokenizer([f"a photo of a {t}"]))[0] for t in texts]
                mean = sum(vector / vector.norm() for vector in each) / 3
                score = float(picture / picture.norm() @ (mean / mean.norm()))
                best = max(best or (score, name), (score, name))
        answers.append(best[1])
        assert classifier.classify(image, mask, box, "bench") == best[1]
    assert len(set(answers)) > 1  # a constant answer would prove nothing


def test_openai_weights_get_quick_gelu():
    names = (("ViT-L-14", "openai"), ("ViT-L-14", "laion2b_s32b_b82k"), ("local-dir:any", None))
    assert [quick_gelu(*name) for name in names] == [True, False, False]


@pytest.mark.parametrize("kept", [0, 1, 5000])
def test_a_bad_model_is_one_clear_error(model_dir, tmp_path, kept):
    if kept:  # the configuration; without weights they are never random ones
        (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    if kept > 1:
        weights = (model_dir / "open_clip_model.safetensors").read_bytes()
        (tmp_path / "open_clip_model.safetensors").write_bytes(weights[:kept])
    with refused(ArragError):
        ColorClassifier(tmp_path)


def test_digest_follows_the_weights(classifier, model_dir, tmp_path):
    assert classifier.name == "tiny-colors" and len(classifier.digest) == 64
    assert ColorClassifier(model_dir).digest == classifier.digest
    (tmp_path / "arrag-tiny.json").write_text(json.dumps(CONFIG["model_cfg"]))
    open_clip.add_model_config(tmp_path / "arrag-tiny.json")
    named = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = str(tmp_path / f"{seed}.safetensors")
        save_file(open_clip.create_model("arrag-tiny").state_dict(), weights)
        named.append(ColorClassifier("arrag-tiny", weights))
    assert named[0].digest != named[1].digest
    assert named[0].name == "arrag-tiny:0.safetensors"
