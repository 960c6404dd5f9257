"""Growing a database gives what building it at once would give."""

import errno
import json
import os
import tracemalloc

import faiss
import numpy as np
import pytest
import torch
from test_index import SIGNS, UNIT, make_index, make_store, smooth_grids

import arrag.retrieval.ivf
import arrag.retrieval.keys
from arrag.cli.main import main
from arrag.data.merge import merge_stores
from arrag.data.token_store import TokenStore
from arrag.retrieval.extend import extend_index
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError, MismatchError, OutputError

CAUSAL = Neighborhood("causal")
BOOK = np.random.default_rng(3).normal(size=(64, 3)).astype(np.float32)


@pytest.fixture
def parts(tmp_path):
    return [
        make_store(tmp_path / f"codes{i}", smooth_grids(count, seed=i), BOOK, shard_size=20)
        for i, count in enumerate((50, 7, 30))
    ]


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_merged_store_holds_every_part_in_order(parts, tmp_path):
    both = merge_stores(parts, tmp_path / "both")
    TokenStore.open(tmp_path / "both", verify=True)
    wanted = np.concatenate([shard for part in parts for shard in part.shards])
    assert np.array_equal(np.concatenate(both.shards), wanted)
    assert [both.keys(i) for i in (49, 50, 56, 57, 86)] == ["49", "0", "6", "0", "29"]
    assert both.manifest["source"] == {"merged": ["test"] * 3}
    at_once = make_store(tmp_path / "once", wanted, BOOK)
    renamed = {**both.manifest["content"], "keys_sha256": None}
    assert renamed == {**at_once.manifest["content"], "keys_sha256": None}


def test_stores_that_do_not_belong_together_are_not_merged(parts, tmp_path):
    other = make_store(tmp_path / "other", smooth_grids(3), BOOK, tokenizer="tik")
    with pytest.raises(MismatchError) as caught:
        merge_stores([parts[0], other], tmp_path / "both")
    assert (caught.value.path, caught.value.field) == (other.path, "tokenizer_digest")
    with pytest.raises(OutputError):
        merge_stores(parts, tmp_path / "codes1")


@pytest.mark.parametrize("neighborhood", [CAUSAL, Neighborhood("full", border="zero")], ids=str)
def test_extended_lists_are_those_of_assigning_everything_at_once(
    parts, tmp_path, neighborhood, monkeypatch
):
    build_index(
        parts[0], tmp_path / "old", neighborhood=neighborhood, mode="ivf", nlist=24, nprobe=4
    )
    both = merge_stores(parts, tmp_path / "both")
    meta = extend_index(tmp_path / "old", parts[0], both, tmp_path / "new", progress=False)
    centroids = np.load(tmp_path / "old" / "centroids.npy")
    monkeypatch.setattr(arrag.retrieval.ivf, "train_centroids", lambda *_: centroids)
    at_once = build_index(
        both, tmp_path / "once", neighborhood=neighborhood, mode="ivf", nlist=24, nprobe=4
    )
    new, once = files(tmp_path / "new"), files(tmp_path / "once")
    assert new.keys() == once.keys()
    assert all(new[name] == once[name] for name in arrag.retrieval.ivf.FILES)
    assert {k for k in meta if meta[k] != at_once[k]} == {"trained_images"}
    assert (meta["trained_images"], meta["images"]) == (50, 87)


def test_growing_copies_what_is_there_and_assigns_only_what_is_new(parts, tmp_path):
    make_index(parts[0], tmp_path / "old", CAUSAL, mode="ivf", nlist=8)
    held = np.load(tmp_path / "old" / "lists.npy", mmap_mode="r+")
    held[::50, 1] = 63  # which no building would write there
    held.flush()
    offsets = np.load(tmp_path / "old" / "offsets.npy")
    both = merge_stores(parts[:2], tmp_path / "both")
    extend_index(tmp_path / "old", parts[0], both, tmp_path / "new", progress=False)
    lists, starts = (np.load(tmp_path / "new" / f"{name}.npy") for name in ("lists", "offsets"))
    for old, end, new in zip(offsets, offsets[1:], starts, strict=False):
        assert np.array_equal(lists[new : new + end - old], held[old:end])


def test_extended_in_steps_or_in_place_is_the_same(parts, tmp_path):
    build_index(parts[0], tmp_path / "old", neighborhood=CAUSAL, mode="ivf", nlist=24)
    both = merge_stores(parts, tmp_path / "both")
    extend_index(tmp_path / "old", parts[0], both, tmp_path / "new", progress=False)
    first = merge_stores(parts[:2], tmp_path / "first")
    extend_index(tmp_path / "old", parts[0], first, tmp_path / "old", progress=False)
    extend_index(tmp_path / "old", first, both, tmp_path / "old", progress=False)
    assert files(tmp_path / "old") == files(tmp_path / "new")
    found = open_index(tmp_path / "old", both, nprobe=24).search_keys(torch.zeros(1, 4), 500)
    build_index(both, tmp_path / "exact", neighborhood=CAUSAL)
    want = open_index(tmp_path / "exact", both).search_keys(torch.zeros(1, 4), 500)
    assert torch.equal(found.entries, want.entries)


@pytest.mark.parametrize("mode", ["exact", "hamming"])
def test_a_scan_is_extended_too(tmp_path, mode):
    grids = np.random.default_rng(0).integers(0, 5, (6, 6, 7)).astype(np.uint16)
    first = make_store(tmp_path / "a", grids[:4], SIGNS)
    second = make_store(tmp_path / "b", grids[4:], SIGNS)
    both = merge_stores([first, second], tmp_path / "both")
    make_index(first, tmp_path / "old", CAUSAL, mode=mode)
    meta = extend_index(tmp_path / "old", first, both, tmp_path / "new")
    assert meta == build_index(both, tmp_path / "once", neighborhood=CAUSAL, mode=mode)


def test_what_cannot_be_extended_is_refused(parts, tmp_path):
    make_index(parts[0], tmp_path / "faiss", CAUSAL, mode="faiss:Flat")
    both = merge_stores(parts[:2], tmp_path / "both")
    with pytest.raises(ArragError, match="mode faiss:Flat cannot be extended"):
        extend_index(tmp_path / "faiss", parts[0], both, tmp_path / "new")
    make_index(parts[0], tmp_path / "ivf", CAUSAL, mode="ivf")
    reversed_ = merge_stores(parts[1::-1], tmp_path / "reversed")
    with pytest.raises(ArragError, match="does not begin with the 50 images of .*codes0"):
        extend_index(tmp_path / "ivf", parts[0], reversed_, tmp_path / "new")
    with pytest.raises(ArragError, match="store_digest"):
        extend_index(tmp_path / "ivf", parts[1], both, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_merge_on_the_command_line(parts, tmp_path, capsys):
    make_index(parts[0], tmp_path / "old", CAUSAL, mode="ivf")
    stores = [str(part.path) for part in parts]
    out = ["--out-codes", f"{tmp_path}/both", "--out", f"{tmp_path}/new"]
    assert main(["index", "merge", f"{tmp_path}/old", "--codes", *stores, *out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 87
    open_index(tmp_path / "new", TokenStore.open(tmp_path / "both"))


def test_memory_of_a_build_is_bounded_by_the_chunk_not_by_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(arrag.retrieval.keys, "CHUNK_ENTRIES", 4096)
    monkeypatch.setattr(arrag.retrieval.keys, "SAMPLE_IMAGES", 100)
    peaks = []
    for count in (300, 1200):
        store = make_store(tmp_path / f"c{count}", smooth_grids(count), BOOK, shard_size=50)
        tracemalloc.start()
        make_index(store, tmp_path / f"i{count}", CAUSAL, mode="ivf", nlist=8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_full_disk_is_one_error_and_leaves_the_previous_index(tmp_path, monkeypatch):
    grids = np.random.default_rng(0).integers(0, 31, (13, 6, 7)).astype(np.uint16)
    store = make_store(tmp_path / "codes", grids, UNIT)
    make_index(store, tmp_path / "index", CAUSAL, mode="ivf")
    before = files(tmp_path / "index")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_in_faiss(*_):
        raise RuntimeError("Error in write_index: write error (No space left on device)")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(faiss, "write_index", full_in_faiss)
    for mode in ("ivf", "faiss:Flat"):
        with pytest.raises(ArragError, match="index: the disk is full"):
            make_index(store, tmp_path / "index", CAUSAL, mode=mode, nlist=3)
        assert files(tmp_path / "index") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes", "index"]
