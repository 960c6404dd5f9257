"""No room on the disk: one plain error, nothing half-written, and what was there before stays."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
from patch_indexes import UNIT, make_index, make_store
from PIL import Image

from arrag.cli.main import main
from arrag.data.encode import encode_source
from arrag.data.merge import merge_stores
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError, MissingError

LIMIT = 36 * 1024


@contextmanager
def little_room():
    """No file can grow beyond the limit: to a writer the same as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(capsys, path, *arguments):
    """The command ends with one line about the disk and the path."""
    capsys.readouterr()
    with little_room():
        assert main([str(argument) for argument in arguments]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert str(path) in error and "the disk is full" in error, error
    return True


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    grids = np.random.default_rng(0).integers(0, 31, (60, 12, 12)).astype(np.uint16)
    return make_store(tmp_path_factory.mktemp("disk") / "codes", grids, UNIT, shard_size=50)


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize("mode", ["ivf", "faiss:Flat"])
def test_a_build_without_room_leaves_the_previous_index(store, tmp_path, capsys, mode):
    out = tmp_path / "index"
    make_index(store, out, Neighborhood("causal"), mode="ivf", nlist=3)
    before = files(out)
    arguments = ["index", "build", "--codes", store.path, "--out", out, "--mode", mode]
    assert refused(capsys, out, *arguments, "--nlist", "5")
    assert files(out) == before and list(tmp_path.iterdir()) == [out]


def test_a_merge_without_room_leaves_both(store, tmp_path, capsys):
    out = tmp_path / "index"
    make_index(store, out, Neighborhood("causal"), mode="ivf", nlist=3)
    before = files(out)
    more = make_store(tmp_path / "more", np.zeros((20, 12, 12), np.uint16), UNIT)
    stores = ["--codes", store.path, more.path, "--out-codes", tmp_path / "both"]
    grown = tmp_path / "grown"
    assert refused(capsys, grown, "index", "merge", out, *stores, "--out", grown)
    assert files(out) == before and not grown.exists()
    both = TokenStore.open(tmp_path / "both", verify=True)  # links, which take no room
    assert both.digest == merge_stores([store, more], tmp_path / "again").digest


def test_an_encoding_without_room_goes_on_once_there_is_some(tiny_janus, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(132):
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:03d}.png")
    out, images = tmp_path / "codes", tmp_path / "images"
    arguments = [
        "db",
        "encode",
        images,
        "--tokenizer",
        tiny_janus,
        "--out",
        out,
        "--shard-size",
        "130",
    ]
    assert refused(capsys, out, *arguments)
    with pytest.raises(MissingError):
        TokenStore.open(out)
    assert main([str(argument) for argument in arguments]) == 0
    encode_source(str(images), tiny_janus, tmp_path / "whole")
    assert TokenStore.open(out).digest == TokenStore.open(tmp_path / "whole").digest


def test_a_store_without_room_for_its_codebook(tmp_path):
    options = {"tokenizer_digest": "tok", "grid": (3, 3), "source": "test", "shard_size": 5}
    book = np.zeros((LIMIT // 4, 1))
    with little_room(), pytest.raises(ArragError, match="the disk is full"):
        StoreWriter(tmp_path / "store", codebook=book, **options)
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["manifest.partial.json"]
    assert StoreWriter(tmp_path / "store", codebook=book, **options).done == 0
