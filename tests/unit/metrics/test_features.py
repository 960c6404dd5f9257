"""Extractors against the upstream libraries, and the cache of features."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from cleanfid import inception_pytorch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image
from refusals import refused
from safetensors.numpy import load_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from arrag.metrics import features as feature_cache
from arrag.metrics.base import ScoreOptions
from arrag.metrics.extractors import INCEPTION, open_extractor
from arrag.metrics.preprocess import ClipSquare, Resize299
from arrag.metrics.types import Extractor
from arrag.utils.errors import (
    FormatError,
    MismatchError,
    MissingError,
    UnknownNameError,
    UsageError,
)


def picture(seed, width=40, height=30):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def folder_of(path, seeds, **size):
    path.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        picture(seed, **size).save(path / f"{seed:03d}.png")
    return path


# -- what images go through --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "size"), [("clean", (40, 30)), ("clean", (400, 310)), ("legacy_pytorch", (400, 30))]
)
def test_resizing_is_clean_fids(mode, size):
    image = picture(0, *size)
    theirs = build_resizer(mode)(np.asarray(image)).transpose(2, 0, 1)
    ours = Resize299(mode)(image)
    assert ours.dtype == np.float32 and ours.shape == (3, 299, 299)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.max() <= 255 and (ours % 1 != 0).any()  # clipped, but not rounded


def test_clip_crops_the_middle_then_scales_bytes():
    pixels = np.zeros((10, 33, 3), np.uint8)
    pixels[:, 11:21] = 200  # exactly the middle square, its offset rounded down
    made = ClipSquare(8, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0))(Image.fromarray(pixels))
    value = np.float32(200) / 255
    expected = [(value - 0.5) / 0.5, value - 0.25, value / 2]
    np.testing.assert_allclose(made, np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 8, 8)))


# -- networks ----------------------------------------------------------------------------------


class Layers(torch.nn.Module):
    """As wide as Inception's last pooling, at a tiny price."""

    def __init__(self):
        super().__init__()
        self.pool, self.last = torch.nn.AdaptiveAvgPool2d(2), torch.nn.Linear(12, 2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pool(x).flatten(1))


class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + 1


def test_torchscript_inception_is_fed_as_clean_fid_feeds_it(tmp_path):
    torch.manual_seed(0)
    torch.jit.script(Wrapped()).save(tmp_path / "inception-2015-12-05.pt")
    upstream = InceptionV3W(str(tmp_path), download=False)
    ours = open_extractor(tmp_path / "inception-2015-12-05.pt")
    prepared = [ours.preprocess(picture(i)) for i in range(3)]
    with torch.no_grad():
        theirs = upstream(torch.from_numpy(np.stack(prepared))).numpy()
    np.testing.assert_allclose(ours(prepared), theirs, rtol=1e-5, atol=1e-6)
    layers = torch.jit.script(Layers())
    layers.save(tmp_path / "plain.pt")  # any other network: pixels 0 to 255
    plain = open_extractor(tmp_path / "plain.pt")
    assert plain.name == "plain" and plain.digest != ours.digest
    with torch.no_grad():
        theirs = layers(torch.from_numpy(np.stack(prepared))).numpy()
    np.testing.assert_allclose(plain(prepared), theirs, rtol=1e-5)


def test_pytorch_inception_is_the_upstream_network(tmp_path, monkeypatch):
    """Upstream's own constructor, except that it keeps its random weights."""
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        network = inception_pytorch.fid_inception_v3()
        patch.setattr(inception_pytorch, "fid_inception_v3", lambda: network)
        upstream = inception_pytorch.InceptionV3([3], resize_input=False).eval()
    for module in network.modules():  # so that an image's influence reaches the last layer
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    ours = open_extractor(tmp_path / "weights.pth", "legacy_pytorch")
    prepared = [ours.preprocess(picture(i)) for i in range(2)]
    with torch.no_grad():
        theirs = upstream(torch.from_numpy(np.stack(prepared)) / 255)[0].flatten(1).numpy()
    assert theirs.shape == (2, 2048)
    scale = np.abs(theirs[0] - theirs[1]).max()  # what the image changes, not what biases give
    assert np.abs(ours(prepared) - theirs).max() < 1e-3 * scale
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with refused(FormatError, path=tmp_path / "other.pth"):
        open_extractor(tmp_path / "other.pth")(prepared)


TOWER = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "image_size": 24,
         "num_attention_heads": 4, "patch_size": 8, "projection_dim": 16}  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_transformers_clip(tmp_path, whole):
    torch.manual_seed(0)
    if whole:
        text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "vocab_size": 20}  # fmt: skip
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=16))
    else:
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER))
    model.eval().save_pretrained(tmp_path / "clip")
    preprocessor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "clip/preprocessor_config.json").write_text(json.dumps(preprocessor))
    ours = open_extractor(tmp_path / "clip")
    image = picture(3, 40, 30)
    # by hand, on pixels that need no scaling
    square = np.asarray(image.crop((5, 0, 35, 30)).resize((24, 24), Image.BICUBIC), np.float64)
    values = (square / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    batch = torch.from_numpy(values.transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        if whole:
            theirs = model.visual_projection(model.vision_model(batch).pooler_output)
        else:
            theirs = model(pixel_values=batch).image_embeds
    found = ours([ours.preprocess(image)])
    assert found.shape == (1, 16)
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_open_clip(root):
    from arrag.data.clip import OpenClip

    ours = open_extractor(root / "checkpoints/micro-clip")
    image = picture(0, 32, 32)  # the model's own size: its transform then only normalises
    theirs = OpenClip(root / "checkpoints/micro-clip").encode_images([image]).numpy()
    found = ours([ours.preprocess(image)])
    np.testing.assert_allclose(found / np.linalg.norm(found), theirs, rtol=1e-4, atol=1e-6)


def test_missing_weights_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mode, source in INCEPTION.items():
        with refused(MissingError, path=f"data/weights/{source.file}") as caught:
            open_extractor("inception", mode)
        assert source.url in caught.value.hint and source.sha256 in caught.value.hint
    for name in ("clip", "mobilenetv2:160"):
        with refused(MissingError) as caught:
            open_extractor(name)
        assert caught.value.path is not None and caught.value.hint is not None
    for name in ("mobilenetv2:100", "resnet"):
        with refused(UnknownNameError, field="extractor"):
            open_extractor(name)
    with refused(UsageError, field="mode"):
        Resize299("tf")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with refused(FormatError, path="torn.pt"):
        open_extractor("torn.pt")([np.zeros((3, 299, 299), np.float32)])


def test_mobilenet_layers_are_torchvisions(tmp_path):
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    model = mobilenet_v2().eval()
    folder = tmp_path / "mobilenetv2"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = (torch.from_numpy(pixels) / 255 - mean) / std
    with torch.no_grad():
        for i, block in enumerate(model.features):
            x = block(x)
            if i in (13, 16, 17, 18):
                ours = open_extractor(f"{folder}:{x.shape[1]}")
                assert ours.name == f"MobileNetV2-{x.shape[1]}"
                np.testing.assert_allclose(ours(list(pixels)), x.mean((2, 3)), rtol=1e-3, atol=1e-6)


# -- the cache ---------------------------------------------------------------------------------


class Means:
    """A real, small feature network that counts the images it sees."""

    def __init__(self):
        self.seen = 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], 1)


def extract(source, extractor, cache=None, **options):
    return feature_cache.extract(source, extractor, ScoreOptions(cache=cache, **options))


def means(digest="d" * 64, mode="clean"):
    network = Means()
    return network, Extractor("means", digest, Resize299(mode), lambda: network)


def test_only_new_images_reach_the_network(tmp_path):
    images = folder_of(tmp_path / "images", range(5))
    network, extractor = means()
    found, features = extract(images, extractor, tmp_path / "cache", batch_size=2, workers=2)
    assert network.seen == 5 and features.shape == (5, 6) and features.dtype == np.float32
    expected = [np.asarray(Resize299()(picture(i))).mean((1, 2)) for i in range(5)]
    np.testing.assert_allclose(features[:, :3], expected, rtol=1e-4)

    network, extractor = means()
    again, cached = extract(images, extractor, tmp_path / "cache")
    assert network.seen == 0 and again == found
    np.testing.assert_array_equal(cached, features)

    picture(99).save(images / "002.png")
    picture(3).save(images / "005.png")  # a copy of another image
    _, changed = extract(images, extractor, tmp_path / "cache")
    assert network.seen == 1
    np.testing.assert_array_equal(changed[[0, 1, 3, 4, 5]], features[[0, 1, 3, 4, 3]])
    assert not np.allclose(changed[2], features[2])

    for other in (means("e" * 64), means(mode="legacy_pytorch")):
        extract(images, other[1], tmp_path / "cache")
        assert other[0].seen == 5  # five different images; nothing of another extractor is taken
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_tars_and_folders_share_the_cache(tmp_path):
    images = folder_of(tmp_path / "images", range(3))
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(images / "001.png", "a/001.png")
        data = json.dumps({}).encode()
        info = tarfile.TarInfo("a/001.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    network, extractor = means()
    _, features = extract(images, extractor, tmp_path / "cache")
    found, one = extract(tmp_path / "images.tar", extractor, tmp_path / "cache")
    assert network.seen == 3 and found.names == ("images.tar/a/001.png",)
    np.testing.assert_array_equal(one[0], features[1])


def test_a_killed_run_keeps_its_shards_and_a_torn_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("arrag.metrics.features.SHARD", 2)
    images = folder_of(tmp_path / "images", range(7))

    class Killed(Means):
        def __call__(self, pixels):
            if self.seen >= 4:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    killed = Extractor("means", "d" * 64, Resize299(), Killed)
    with pytest.raises(KeyboardInterrupt):
        extract(images, killed, tmp_path / "cache", batch_size=2)
    network, extractor = means()
    extract(images, extractor, tmp_path / "cache", batch_size=2)
    assert network.seen == 3
    shard = sorted((tmp_path / "cache").glob("*/*.safetensors"))[0]
    assert set(load_file(shard)) == {"features", "sha256", "size"}
    shard.write_bytes(shard.read_bytes()[:40])
    with refused(FormatError, path=shard):
        extract(images, extractor, tmp_path / "cache")


def test_damaged_missing_and_unsupported_images(tmp_path):
    images = folder_of(tmp_path / "images", range(4))
    extractor = means()[1]
    torn = images / "001.png"
    torn.write_bytes(torn.read_bytes()[:-200])
    with refused(FormatError, path=images):
        extract(images, extractor)
    found, features = extract(images, extractor, allow_partial=True)
    assert found.unreadable == ("001.png",) and len(found) == len(features) == 3
    torn.unlink()
    assert extract(images, extractor, expect=4, allow_partial=True)[0].missing == 1
    (images / "run.json").write_text(json.dumps({"prompts": 2, "images_per_prompt": 2}))
    for options in ({"expect": 4}, {"expect": 2, "allow_partial": True}, {}):
        with refused(MismatchError, path=images):
            extract(images, extractor, **options)
    picture(0).save(images / "scan.tif")
    with refused(FormatError, path=images):
        extract(images, extractor)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with refused(MissingError, path=tmp_path / name):
            extract(tmp_path / name, extractor)
