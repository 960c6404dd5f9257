"""Pairs of images and captions: where captions are found, what is sampled and held out."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from arrag.training.pairs import Pairs, find_captions, make_pairs
from arrag.utils.errors import MissingError

FIRST_HELD_OUT = 30  # of the fixture, which are the database's images


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six images: four with a caption of some kind, one with an empty one, one with none."""
    path = tmp_path / "images"
    (path / "sub").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "sub/c", "sub/d", "e", "f")):
        (path / f"{name}.png").write_bytes(picture(i))
    (path / "a.txt").write_text("a photo of a dog\n")
    (path / "b.json").write_text('{"caption": "a photo of a cat"}')
    (path / "sub/c.json").write_text('{"prompt": "a photo of a cup"}')
    (path / "sub/d.txt").write_text("a photo of two cups")
    (path / "e.txt").write_text(" \n")
    return path


def test_captions_stand_beside_their_images(folder, tmp_path):
    wanted = {
        "a.png": "a photo of a dog",
        "b.png": "a photo of a cat",
        "sub/c.png": "a photo of a cup",
        "sub/d.png": "a photo of two cups",
    }
    assert find_captions(str(folder)) == wanted
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for path in sorted(folder.rglob("*.*")):
            tar.add(path, str(path.relative_to(folder)))
    in_tar = {f"data.tar/{name}": text for name, text in wanted.items()}
    assert find_captions(str(tmp_path / "data.tar")) == in_tar


def test_a_seed_samples_captioned_images(folder, micro_janus, tmp_path):
    made = [
        make_pairs(str(folder), micro_janus, tmp_path / str(i), count=2, held_out=1, seed=i)
        for i in (0, 1)
    ]
    assert made[0]["train"] == 2 and made[0]["held_out"] == 1
    pairs = [Pairs.open(tmp_path / str(i)) for i in (0, 1)]
    for some in pairs:
        keys = [some.store.keys(i) for i in range(3)]
        assert some.captions == [find_captions(str(folder))[key] for key in keys]
        assert not set(some.train) & set(some.held_out)
    assert pairs[0].digest != pairs[1].digest


def test_training_without_captions_is_refused(folder, micro_janus, index, tmp_path):
    with pytest.raises(MissingError):  # of four
        make_pairs(str(folder), micro_janus, tmp_path / "out", count=3, held_out=2)
    for path in [*folder.rglob("*.txt"), *folder.rglob("*.json")]:
        path.unlink()
    with pytest.raises(MissingError):
        make_pairs(str(folder), micro_janus, tmp_path / "out", count=1, held_out=1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingError):
        Pairs.open(index.store.path)


def test_held_out_scenes_are_neither_trained_on_nor_in_the_database(pairs):
    names = [pairs.store.keys(int(i)) for i in pairs.held_out]
    assert names and all(int(name.split("/")[1]) >= FIRST_HELD_OUT for name in names)
    trained = {g.tobytes() for g in pairs.store.grids(pairs.train)}
    assert not trained & {g.tobytes() for g in pairs.store.grids(pairs.held_out)}
