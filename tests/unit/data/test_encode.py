"""Sources to stores: order, resizing, unreadable files, resuming."""

import numpy as np
import pytest
from PIL import Image

from arrag.data.encode import encode_source
from arrag.data.images import open_rgb, square
from arrag.data.micro.world import World
from arrag.data.token_store import TokenStore
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json


def test_micro_source_holds_the_codes_of_its_scenes(tiny_janus, assets, tmp_path):
    out = tmp_path / "codes"
    result = encode_source("micro:database", tiny_janus, out, limit=7, shard_size=3, assets=assets)
    assert result["images"] == 7
    store = TokenStore.open(out, verify=True)
    assert [len(shard) for shard in store.shards] == [3, 3, 1]
    world = World(assets, "database")
    images = np.stack([world.scene(i).image for i in range(7)])
    expected = load_tokenizer(tiny_janus).encode(images).numpy()
    assert np.array_equal(np.concatenate(store.shards), expected)
    assert store.keys(5) == "database/5"


def test_resuming_gives_the_same_store(tiny_janus, assets, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = {"limit": 9, "shard_size": 2, "batch_size": 2, "assets": assets}
    encode_source("micro:database", tiny_janus, whole, **options)
    calls = []

    def stop(self, images):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, images)

    from arrag.tokenizers.base import ImageTokenizer

    original = ImageTokenizer.encode
    monkeypatch.setattr(ImageTokenizer, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        encode_source("micro:database", tiny_janus, killed, **options)
    monkeypatch.setattr(ImageTokenizer, "encode", original)
    assert not (killed / "manifest.json").exists()
    encode_source("micro:database", tiny_janus, killed, **options)
    assert TokenStore.open(killed).digest == TokenStore.open(whole).digest


def test_folder_skips_and_lists_what_cannot_be_read(tiny_janus, tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (60, 90, 3)), ("sub/a.png", (48, 48, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    good = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "text.jpg").write_text("no image")
    result = encode_source(str(folder), tiny_janus, tmp_path / "codes")
    assert (result["images"], result["skipped"]) == (2, 2)
    store = TokenStore.open(tmp_path / "codes")
    assert [store.keys(i) for i in range(2)] == ["b.png", "sub/a.png"]
    skipped = read_json(tmp_path / "codes" / "skipped.json")
    assert [entry["key"] for entry in skipped] == ["cut.png", "text.jpg"]
    assert "truncated" in skipped[0]["problem"] and "not an image" in skipped[1]["problem"]


def test_squaring_scales_the_short_side_and_crops_the_middle(tmp_path):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    Image.fromarray(image).save(tmp_path / "wide.png")
    middle = square(open_rgb(tmp_path / "wide.png"), 20)
    assert middle.shape == (20, 20, 3)
    assert (middle == 255).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no such folder"),
        ("micro:nowhere", "no such split; one of training, database, reference"),
        ("micro:database", "is endless; say how many"),
    ],
)
def test_sources_that_cannot_be_used(tiny_janus, tmp_path, source, message):
    with pytest.raises(ArragError, match=message):
        encode_source(source, tiny_janus, tmp_path / "codes")
    assert not (tmp_path / "codes" / "manifest.json").exists()


def test_a_folder_without_images(tiny_janus, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArragError, match="no readable image"):
        encode_source(str(tmp_path / "empty"), tiny_janus, tmp_path / "codes")
