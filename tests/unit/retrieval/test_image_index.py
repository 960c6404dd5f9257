"""Whole-image retrieval against brute force, and every way to mix up stores and models."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from tiny_clip import write_tiny_clip

import arrag.retrieval.image_index
from arrag.cli.main import main
from arrag.data.clip import OpenClip
from arrag.data.encode import encode_source
from arrag.data.images import open_rgb, square
from arrag.data.token_store import TokenStore
from arrag.retrieval.image_index import ImageIndex, build_image_index
from arrag.utils.errors import FormatError, MismatchError, UsageError
from arrag.utils.outputs import atomic_path


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def clip(model_dir):
    return OpenClip(model_dir)


@pytest.fixture(scope="module")
def made(clip, tiny_janus, tmp_path_factory):
    """A folder of 30 pictures, one of them broken and two alike; their store and index."""
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    (path / "images").mkdir()
    for i in range(30):
        colors = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        colors.resize((64, 80)).save(path / "images" / f"{i:02d}.png")
    (path / "images" / "05.png").write_text("no image")
    (path / "images" / "20.png").write_bytes((path / "images" / "10.png").read_bytes())
    encode_source(str(path / "images"), tiny_janus, path / "codes", shard_size=8)
    store = TokenStore.open(path / "codes")
    build_image_index(store, str(path / "images"), clip, path / "index", batch_size=7)
    return path, store, ImageIndex(path / "index", store, clip.digest)


def brute_force(index, query, k, own=None):
    """The k most similar images: loops over everything, in float64."""
    query = query.double() / query.double().norm()
    found = []
    for image in range(len(index.store)):
        if index.store.keys(image) != own:
            feature = torch.from_numpy(index.features[image].copy()).double()
            found.append((-round(float((feature * query).sum()), 6), image))
    return [image for _, image in sorted(found)[:k]]


def test_features_are_those_of_the_stores_images_in_its_order(made, clip):
    path, store, index = made
    assert index.features.shape == (29, 16)
    for row in (0, 4, 5, 28):
        assert store.keys(row) == f"{row if row < 5 else row + 1:02d}.png"
        image = open_rgb(path / "images" / store.keys(row))
        want = clip.encode_images([square(image, clip.image_size)])[0].numpy()
        assert np.allclose(index.features[row], want, atol=1e-5)
    assert np.allclose(np.linalg.norm(index.features, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("block", [4096, 7, 1])
def test_search_agrees_with_brute_force(made, clip, monkeypatch, block):
    monkeypatch.setattr(arrag.retrieval.image_index, "BLOCK_ROWS", block)
    index = made[2]
    queries = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    queries = torch.cat([queries, clip.encode_texts(["a photo of a cup", "two red dogs"])])
    cosines, images = index.search(queries, 12)
    assert images.tolist() == [brute_force(index, query, 12) for query in queries]
    unit = queries / queries.norm(dim=1, keepdim=True)
    features = torch.from_numpy(np.array(index.features))
    assert torch.allclose(cosines, (unit @ features.T).gather(1, images), atol=1e-6)
    alone = torch.cat([index.search(query[None], 12)[0] for query in queries])
    assert torch.equal(cosines, alone)


def test_an_image_finds_itself_unless_it_is_its_own(made):
    _, store, index = made
    queries = torch.from_numpy(index.features[[3, 9, 19]].copy())
    keys = [store.keys(image) for image in (3, 9, 19)]
    cosines, images = index.search(queries, 1)
    assert images[:, 0].tolist() == [3, 9, 9]  # 9 and 19 are the same picture: the first one
    assert torch.allclose(cosines, torch.ones(3, 1))
    _, images = index.search(queries, 5, own=[keys[0], None, keys[2]])
    assert images.tolist() == [
        brute_force(index, queries[0], 5, keys[0]),
        brute_force(index, queries[1], 5),
        brute_force(index, queries[2], 5, keys[2]),
    ]
    cosines, images = index.search(queries[:1], 29, own=[keys[0]])
    assert 3 not in images and images[0, -1] == -1 and cosines[0, -1] == -torch.inf
    assert torch.equal(
        index.search(queries, 3, own=["of no store"] * 3)[1], index.search(queries, 3)[1]
    )


def test_wrong_queries_are_refused(made):
    index = made[2]
    for queries, k, kind in (
        (torch.ones(1, 16), 0, UsageError),
        (torch.ones(1, 16), 30, UsageError),
        (torch.ones(1, 15), 1, MismatchError),
        (torch.tensor([[1.0] * 16, [0.0] * 16]), 1, UsageError),
        (torch.tensor([[1.0] * 16, [torch.nan] * 16]), 1, UsageError),
    ):
        with refused(kind):
            index.search(queries, k)


def test_another_store_model_or_file_is_refused(made, clip, tiny_janus, tmp_path):
    path, store, _ = made
    encode_source(str(path / "images"), tiny_janus, tmp_path / "few", limit=3)
    few = TokenStore.open(tmp_path / "few")
    for other, digest, field in (
        (store, "other", "model_digest"),
        (few, clip.digest, "store_digest"),
    ):
        with refused(MismatchError, field=field):
            ImageIndex(path / "index", other, digest)
    with refused(MismatchError, path=store.path):  # it is not in the source
        build_image_index(store, str(path / "images"), clip, tmp_path / "i", limit=3)
    assert not (tmp_path / "i").exists()
    cut = shutil.copytree(path / "index", tmp_path / "cut")
    (cut / "features.f32").write_bytes((cut / "features.f32").read_bytes()[:-4])
    with refused(path=cut / "features.f32"):
        ImageIndex(cut, store, clip.digest)


KILLED = """
import os, signal, sys
from arrag.data.clip import OpenClip
from arrag.retrieval.image_index import build_image_index
from arrag.data.token_store import TokenStore

def encode_images(self, images, calls=[], real=OpenClip.encode_images):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, images)

store, source, model, out = sys.argv[1:]
OpenClip.encode_images = encode_images
build_image_index(TokenStore.open(store), source, OpenClip(model), out, batch_size=3)
"""


def test_after_kill_9_whole_shards_are_not_encoded_again(made, clip, model_dir, root, tmp_path):
    path, store, _ = made
    script, out = tmp_path / "killed.py", tmp_path / "i"
    script.write_text(KILLED)
    with atomic_path(out) as earlier:
        earlier.mkdir()
        (earlier / "meta.json").write_text("an earlier index")
    arguments = [str(store.path), f"{path}/images", str(model_dir), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, str(script), *arguments], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert (out / "meta.json").read_text() == "an earlier index"
    encoded = []

    class Counting(OpenClip):
        def encode_images(self, images):
            encoded.extend(images)
            return super().encode_images(images)

    again = Counting(model_dir)
    build_image_index(store, f"{path}/images", again, out, batch_size=3)
    assert len(encoded) == 29 - 8 and not (tmp_path / ".i.building").exists()
    build_image_index(store, f"{path}/images", clip, tmp_path / "whole", batch_size=3)
    for name in ("features.f32", "meta.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert ImageIndex(out, store, clip.digest).features.shape == (29, 16)
    (out / "meta.json").unlink()  # as Snakemake does to a job whose end it missed
    encoded.clear()
    build_image_index(store, f"{path}/images", again, out, batch_size=3)
    assert not encoded
    assert (out / "meta.json").read_bytes() == (tmp_path / "whole/meta.json").read_bytes()


def test_an_image_that_cannot_be_read_any_more_is_named(made, clip, tmp_path):
    path, store, _ = made
    images = shutil.copytree(path / "images", tmp_path / "images")
    (images / "02.png").write_bytes(b"no image")
    with refused(FormatError, path="02.png"):
        build_image_index(store, str(images), clip, tmp_path / "i")


def test_images_on_the_command_line(made, model_dir, tmp_path, capsys):
    path = made[0]
    arguments = [f"{path}/images", "--codes", f"{path}/codes", "--clip", str(model_dir)]
    arguments += ["--out", f"{tmp_path}/i", "--batch-size", "7"]  # on which rounding depends
    assert main(["index", "images", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 29
    for name in ("features.f32", "meta.json"):
        assert (tmp_path / "i" / name).read_bytes() == (path / "index" / name).read_bytes()
