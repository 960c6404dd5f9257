"""Copies of test images do not get into a database; what is missed is known."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from refusals import refused

from arrag.data.decontamination import NEAR, Decontaminator
from arrag.data.encode import encode_source
from arrag.data.images import fingerprint
from arrag.data.micro.world import World
from arrag.data.token_store import TokenStore
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError
from arrag.utils.files import read_json


@pytest.fixture(scope="session")
def photos(assets):
    """Twenty pictures of real textures, each unlike the others, uint8 [192, 256, 3]."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(20):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        picture = coarse.resize((256, 192), Image.Resampling.BICUBIC)
        scene = Image.fromarray(World(assets, "reference").scene(i).image).resize((96, 96))
        picture.paste(scene, tuple(rng.integers(0, 96, 2).tolist()))
        pictures.append(picture)
    return pictures


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


COPIES = {
    "exact": (lambda p: p, "same pixels"),
    "bad jpeg": (lambda p: jpeg(p, 30), "looks like it"),
    "half": (lambda p: p.resize((128, 96)), "looks like it"),
    "twice": (lambda p: p.resize((512, 384)), "looks like it"),
    "squeezed": (lambda p: p.resize((200, 200)), "looks like it"),
    "mirrored": (ImageOps.mirror, "looks like its mirror image"),
    "mirrored, small, jpeg": (
        lambda p: jpeg(ImageOps.mirror(p).resize((160, 120)), 75),
        "looks like its mirror image",
    ),
}
MISSED = {
    "cropped": lambda p: p.crop((50, 40, 256, 192)),
    "turned": lambda p: p.rotate(90, expand=True),
    "upside down": ImageOps.flip,
    "within a picture": lambda p: ImageOps.expand(p, 60),
}


@pytest.fixture(scope="session")
def tests(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tests")
    for i, photo in enumerate(photos):
        photo.save(folder / f"{i:02d}.png")
    return Decontaminator.load([folder])


def test_a_copy_is_caught(photos, tests):
    for name, (change, reason) in COPIES.items():
        for i, photo in enumerate(photos):
            match = tests.match(fingerprint(change(photo)))
            assert (match["test_image"], match["reason"]) == (f"{i:02d}.png", reason), name
            assert match["bits"] <= NEAR


def test_other_pictures_and_what_the_module_says_is_missed_are_not_excluded(photos, tests):
    for change in MISSED.values():
        assert not any(tests.match(fingerprint(change(photo))) for photo in photos)
    rng = np.random.default_rng(1)
    for _ in range(300):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        assert tests.match(fingerprint(coarse.resize((256, 192), Image.Resampling.BICUBIC))) is None


def test_saved_fingerprints_find_what_the_images_find(photos, tests, tmp_path):
    tests.save(tmp_path / "t.prints.npz")
    again = Decontaminator.load([tmp_path / "t.prints.npz"])
    assert again.digest == tests.digest and again.names == tests.names
    mirrored = fingerprint(ImageOps.mirror(photos[1]))
    assert again.match(mirrored) == tests.match(mirrored) is not None
    with refused(UsageError):
        tests.save(tmp_path / "t.npz")
    np.savez(tmp_path / "y.prints.npz", names=["a"], sha256=["b"], look=[0.5], mirrored=[1])
    (tmp_path / "x.prints.npz").write_bytes(b"PK")
    for name in ("x", "y"):
        with refused():
            Decontaminator.load([tmp_path / f"{name}.prints.npz"])


def test_encode_leaves_planted_copies_out_and_says_why(photos, tiny_janus, tmp_path):
    folder, tests = tmp_path / "images", tmp_path / "tests"
    for path in (folder, tests / "sub"):
        path.mkdir(parents=True)
    photos[3].save(tests / "sub" / "t.png")
    photos[3].save(folder / "a exact.bmp")
    photos[3].save(folder / "b jpeg.jpg", quality=75)
    photos[3].resize((100, 75)).save(folder / "c small.png")
    ImageOps.mirror(photos[3]).save(folder / "d mirrored.webp", lossless=True)
    photos[4].save(folder / "e other.png")
    result = encode_source(str(folder), tiny_janus, tmp_path / "codes", exclude=[tests])
    assert (result["images"], result["excluded"]) == (1, 4)
    store = TokenStore.open(tmp_path / "codes")
    assert store.keys(0) == "e other.png"
    assert "without 1 test images" in store.manifest["source"]
    report = read_json(tmp_path / "codes" / "excluded.json")
    assert [(entry["key"], entry["reason"]) for entry in report] == [
        ("a exact.bmp", "same pixels"),
        ("b jpeg.jpg", "looks like it"),
        ("c small.png", "looks like it"),
        ("d mirrored.webp", "looks like its mirror image"),
    ]
    assert {entry["test_image"] for entry in report} == {"sub/t.png"}
    with refused(MismatchError, field="source"):
        encode_source(str(folder), tiny_janus, tmp_path / "codes")
    photos[5].save(tests / "sub" / "t.png")  # nothing is excluded: a report is written all the same
    encode_source(str(folder), tiny_janus, tmp_path / "none", exclude=[tests])
    assert read_json(tmp_path / "none" / "excluded.json") == []


def test_several_sources_of_test_images_and_single_files(photos, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        photos[ord(name) % 5].save(tmp_path / name / "p.png")
    photos[7].save(tmp_path / "one.png")
    sources = [tmp_path / "a", str(tmp_path / "b"), tmp_path / "one.png"]
    tests = Decontaminator.load(sources)
    assert tests.names == [f"{tmp_path}/a/p.png", f"{tmp_path}/b/p.png", "one.png"]
    assert tests.match(fingerprint(photos[ord("b") % 5]))["test_image"] == tests.names[1]


def test_test_images_that_cannot_be_read_are_an_error(photos, tmp_path):
    for source in (tmp_path / "nowhere", tmp_path):
        with refused(MissingError, path=source):
            Decontaminator.load([source])
    photos[0].save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20000])
    with refused(FormatError, path=tmp_path):
        Decontaminator.load([tmp_path])
