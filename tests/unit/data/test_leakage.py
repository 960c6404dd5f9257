"""Copies of test images do not get into a database; what is missed is known."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from arrag.data.decontamination import NEAR, Decontaminator
from arrag.data.encode import encode_source
from arrag.data.fingerprint import fingerprint
from arrag.data.micro.world import World
from arrag.data.token_store import TokenStore
from arrag.utils.errors import ArragError
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
    "jpeg": (lambda p: jpeg(p, 75), "looks like it"),
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
def guard(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tests")
    for i, photo in enumerate(photos):
        photo.save(folder / f"{i:02d}.png")
    return Decontaminator.load([folder])


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_caught(photos, guard, name):
    change, reason = COPIES[name]
    for i, photo in enumerate(photos):
        match = guard.match(fingerprint(change(photo)))
        assert match["test_image"] == f"{i:02d}.png"
        assert match["reason"] == reason and match["bits"] <= NEAR


@pytest.mark.parametrize("name", MISSED)
def test_what_the_module_says_is_missed(photos, guard, name):
    assert not any(guard.match(fingerprint(MISSED[name](photo))) for photo in photos)


def test_other_pictures_are_not_excluded(guard, assets):
    rng = np.random.default_rng(1)
    for _ in range(300):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        assert guard.match(fingerprint(coarse.resize((256, 192), Image.Resampling.BICUBIC))) is None


def test_encode_leaves_planted_copies_out_and_says_why(photos, guard, tiny_janus, tmp_path):
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
    with pytest.raises(ArragError):
        encode_source(str(folder), tiny_janus, tmp_path / "codes")


def test_several_sources_of_test_images_and_single_files(photos, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        photos[ord(name) % 5].save(tmp_path / name / "p.png")
    photos[7].save(tmp_path / "one.png")
    sources = [tmp_path / "a", str(tmp_path / "b"), tmp_path / "one.png"]
    guard = Decontaminator.load(sources)
    assert guard.names == [f"{tmp_path}/a/p.png", f"{tmp_path}/b/p.png", "one.png"]
    for photo, name in ((photos[7], "one.png"), (photos[ord("b") % 5], "b")):
        assert name in guard.match(fingerprint(photo))["test_image"]


def test_a_report_is_written_even_when_nothing_is_excluded(photos, tiny_janus, tmp_path):
    for name, photo in (("images", photos[0]), ("tests", photos[1])):
        (tmp_path / name).mkdir()
        photo.save(tmp_path / name / "p.png")
    tests = tmp_path / "tests"
    encode_source(str(tmp_path / "images"), tiny_janus, tmp_path / "codes", exclude=[tests])
    assert read_json(tmp_path / "codes" / "excluded.json") == []


def test_test_images_that_cannot_be_read_are_an_error(photos, tmp_path):
    with pytest.raises(ArragError, match="nowhere: no such folder"):
        Decontaminator.load([tmp_path / "nowhere"])
    with pytest.raises(ArragError):
        Decontaminator.load([tmp_path])
    photos[0].save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArragError, match=r"a.png cannot be read .* could not be excluded"):
        Decontaminator.load([tmp_path])
