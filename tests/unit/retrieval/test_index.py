"""Building, opening and extending an index, and every way to get one wrong."""

import errno
import json
import os
import threading
import time
import tracemalloc
from contextlib import contextmanager

import faiss
import numpy as np
import pytest
import torch
from patch_indexes import (
    CURVE,
    SIGNS,
    assert_same_result,
    files_of,
    make_index,
    make_store,
    random_queries,
    random_store,
    smooth_grids,
)
from refusals import refused

import arrag.retrieval.ivf_lists
import arrag.retrieval.keys
from arrag.cli.main import main
from arrag.data.merge import merge_stores
from arrag.data.token_store import TokenStore
from arrag.retrieval.faiss_index import in_threads
from arrag.retrieval.index import MODES, build_index, extend_index, open_index
from arrag.retrieval.keys import KeyExtractor, release
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import (
    FormatError,
    MismatchError,
    MissingError,
    ResourceError,
    UnknownNameError,
    UsageError,
)
from arrag.utils.hashing import digest_of

CAUSAL = Neighborhood("causal")
BOTH = pytest.mark.parametrize("mode", ["exact", "ivf"])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "s", smooth_grids(90), CURVE, 40)


@pytest.fixture
def parts(tmp_path):
    return [
        make_store(tmp_path / f"codes{i}", smooth_grids(count, seed=i), CURVE, shard_size=20)
        for i, count in enumerate((50, 7, 30))
    ]


@contextmanager
def threads_of_faiss(count):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def edit_meta(path, **fields):
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, **fields}))


@BOTH
def test_rebuilding_gives_the_same_bytes(store, tmp_path, monkeypatch, mode):
    def built(name, **options):
        zero = Neighborhood("causal", border="zero")
        make_index(store, tmp_path / name, zero, mode=mode, **options)
        return files_of(tmp_path / name)

    before = built("a")
    assert set(before) == {"meta.json", *(arrag.retrieval.ivf_lists.FILES if mode == "ivf" else [])}
    assert (built("c", seed=1) != before) == (mode == "ivf")
    monkeypatch.setattr(arrag.retrieval.keys, "SAMPLE_IMAGES", 33)
    with threads_of_faiss(3):
        assert built("e") == before


def test_work_in_threads_keeps_its_order_and_reads_little_ahead():
    read = []

    def work(number):
        time.sleep(0.02 if number % 3 == 0 else 0)  # the first of three is the last to be done
        return number, threading.get_ident()

    with threads_of_faiss(3):
        results = in_threads(work, (read.append(i) or i for i in range(9)))
        first = next(results)
    assert read == [0, 1, 2, 3]
    done = [first, *results]
    assert [number for number, _ in done] == list(range(9))
    assert 1 < len({thread for _, thread in done}) <= 3
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, range(3)))


def test_an_interrupted_build_leaves_the_previous_one(store, tmp_path, monkeypatch):
    path = tmp_path / "index"
    make_index(store, path, CAUSAL, mode="ivf", nlist=16)
    before = files_of(path)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(arrag.retrieval.ivf_lists, "fill", dies)
    with pytest.raises(KeyboardInterrupt):
        make_index(store, path, CAUSAL, mode="ivf", nlist=32)
    assert files_of(path) == before and [p.name for p in tmp_path.iterdir()] == ["index"]
    monkeypatch.undo()
    (tmp_path / ".index.abc.tmp").mkdir()  # of a build that was killed
    make_index(store, path, CAUSAL)
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_full_disk_is_one_error_and_leaves_the_previous_index(store, tmp_path, monkeypatch):
    make_index(store, tmp_path / "index", CAUSAL, mode="ivf")
    before = files_of(tmp_path / "index")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_in_faiss(*_):
        raise RuntimeError("Error in write_index: write error (No space left on device)")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(faiss, "write_index", full_in_faiss)
    for mode in ("ivf", "faiss:Flat"):
        with refused(ResourceError):
            make_index(store, tmp_path / "index", CAUSAL, mode=mode, nlist=3)
        assert files_of(tmp_path / "index") == before
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_an_index_describes_itself(store, tmp_path):
    exact = make_index(store, tmp_path / "e", CAUSAL)
    ivf = make_index(store, tmp_path / "i", CAUSAL, mode="ivf", nlist=64)
    assert exact.info()["entries"] == ivf.info()["entries"] == 90 * 11 * 10
    assert (exact.info()["bytes_per_patch"], ivf.info()["bytes_per_patch"]) == (2, 10)
    assert exact.info()["border_share"] == 0
    assert ivf.info()["nlist"] == 64 and ivf.info()["nprobe"] == 32
    assert ivf.info()["largest_list"] == np.diff(ivf.lists.offsets).max()
    assert ivf.info()["imbalance"] >= 1
    composite = Neighborhood("causal", [1, 2], border="zero")
    zero = make_index(store, tmp_path / "z", composite, mode="ivf", nlist=3)
    assert zero.neighborhood == composite and zero.info()["neighborhood"]["hop"] == [1, 2]
    assert zero.info()["entries"] == 90 * 144 and zero.info()["bytes_per_patch"] == 2 * (16 + 1)
    assert zero.info()["border_share"] == pytest.approx(1 - 8 * 10 / 144)
    for name, index in {"e": exact, "i": ivf, "z": zero}.items():
        assert index.digest == digest_of(tmp_path / name)  # what results are named by


def test_nprobe_given_on_opening_is_the_one_used(store, tmp_path):
    path = tmp_path / "i"
    make_index(store, path, CAUSAL, mode="ivf", nlist=16)
    assert open_index(path, store).info()["nprobe"] == 16  # no more than there are lists
    assert open_index(path, store, nprobe=3).info()["nprobe"] == 3
    make_index(store, tmp_path / "e", CAUSAL)
    for place, nprobe in ((path, 0), (path, 17), (tmp_path / "e", 3)):
        with refused(UsageError, field="nprobe"):
            open_index(place, store, nprobe=nprobe)


def test_an_index_of_something_else_is_refused(store, tmp_path):
    path = tmp_path / "index"
    make_index(store, path, CAUSAL)
    open_index(path, store, "tok")
    another = make_store(tmp_path / "another", smooth_grids(3), CURVE)
    with refused(MismatchError, path=path / "meta.json", field="tokenizer_digest"):
        open_index(path, store, "other")
    with refused(MismatchError, path=path / "meta.json", field="store_digest"):
        open_index(path, another)
    (path / "meta.json").unlink()
    with refused(MissingError, path=path / "meta.json"):
        open_index(path, store)


def test_damaged_meta_data_is_named(store, tmp_path):
    make_index(store, tmp_path / "i", CAUSAL, mode="ivf", nlist=4)
    whole = (tmp_path / "i" / "meta.json").read_text()
    for field, value in (
        ("format", 0),
        ("mode", "../ivf"),
        ("entries", "many"),
        ("grid", [12]),
        ("neighborhood", {"context": "causal", "hop": 10**9}),  # would never finish loading
        ("neighborhood", {"context": "causal", "hop": 0}),
        ("neighborhood", {"context": "causal", "reach": 1}),
        ("files", {"../lists.npy": {"bytes": 1, "sha256": ""}}),
        ("nlist", None),
    ):
        edit_meta(tmp_path / "i", **{field: value})
        with refused(FormatError, path=tmp_path / "i" / "meta.json") as error:
            open_index(tmp_path / "i", store)
        assert (error.value.field or "neighborhood").startswith(field)
        (tmp_path / "i" / "meta.json").write_text(whole)


def test_an_index_of_the_old_mode_hamming_opens_as_exact(tmp_path):
    store = random_store(tmp_path / "s", SIGNS)
    exact = make_index(store, tmp_path / "i", CAUSAL)
    edit_meta(tmp_path / "i", mode="hamming")
    old = open_index(tmp_path / "i", store)
    assert old.digest == digest_of(tmp_path / "i") != exact.digest
    queries = random_queries(CAUSAL, 5)
    assert_same_result(old.search_keys(queries, 9), exact.search_keys(queries, 9))
    assert "hamming" not in MODES
    extend_index(tmp_path / "i", store, store, tmp_path / "i")
    assert open_index(tmp_path / "i", store).meta.mode == "exact"


def test_a_truncated_or_wrong_file_is_named(store, tmp_path):
    path = tmp_path / "index"
    make_index(store, path, CAUSAL, mode="ivf", nlist=4)
    for name, whole in files_of(path).items():
        if name != "meta.json":
            (path / name).write_bytes(whole[:-1])
            with refused(FormatError, path=path / name):
                open_index(path, store)
            (path / name).write_bytes(whole)
    edit_meta(path, files={})
    for name, whole in files_of(path).items():
        if name != "meta.json":
            np.save(path / name, np.zeros((2, 2)))
            with refused() as error:
                open_index(path, store)
            assert name in str(error.value)
            (path / name).write_bytes(whole)


def test_wrong_builds_are_refused(store, tmp_path):
    masked = Neighborhood("full", masked_distance=True)
    for kind, field, neighborhood, options in (
        (UnknownNameError, "index mode", CAUSAL, {"mode": "flat"}),
        (UsageError, "hop", Neighborhood("causal", hop=6), {}),
        (UsageError, "published", CAUSAL, {"mode": "official"}),
        (UsageError, "masked_distance", masked, {"mode": "faiss:Flat"}),
        (UsageError, "nlist", CAUSAL, {"mode": "ivf", "nlist": 0}),
        (UsageError, "nlist", CAUSAL, {"mode": "ivf", "nlist": 10**6}),
        (UsageError, "nprobe", CAUSAL, {"mode": "ivf", "nprobe": 0}),
    ):
        with refused(kind, field=field):
            make_index(store, tmp_path / "i", neighborhood, **options)
    assert not (tmp_path / "i").exists()


def test_a_store_with_a_code_outside_the_codebook_is_refused(tmp_path):
    grids = np.zeros((4, 3, 3), np.uint16)
    path = make_store(tmp_path / "s", grids, SIGNS, shard_size=2).path
    grids[1, 2, 0] = 5
    np.save(path / "shard-00001.npy", grids[:2])
    with refused(MismatchError, path=path / "shard-00001.npy"):
        build_index(TokenStore.open(path), tmp_path / "i", neighborhood=CAUSAL)


def test_a_large_store_is_sampled_without_repeats(store, monkeypatch):
    extractor = KeyExtractor(store, CAUSAL)
    monkeypatch.setattr(arrag.retrieval.keys, "MANY_ENTRIES", 1000)
    everything = extractor.sample(90 * 110, 0)
    keys = [extractor.keys(grids).reshape(-1, 4) for _, grids in extractor.chunks()]
    assert np.array_equal(everything, np.concatenate(keys))  # one of each part: all, once
    assert not np.array_equal(extractor.sample(500, 0), extractor.sample(500, 1))


def test_pages_let_go_are_read_and_written_all_the_same(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.int64, (5000,))
    array[:] = np.arange(5000)
    release(array[10:], np.arange(3))
    assert np.array_equal(array, np.arange(5000))
    array.flush()
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.arange(5000))


def test_memory_of_a_build_is_bounded_by_the_chunk_not_by_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(arrag.retrieval.keys, "CHUNK_ENTRIES", 4096)
    monkeypatch.setattr(arrag.retrieval.keys, "SAMPLE_IMAGES", 100)
    peaks = []
    for count in (300, 1200):
        large = make_store(tmp_path / f"c{count}", smooth_grids(count), CURVE, shard_size=50)
        tracemalloc.start()
        make_index(large, tmp_path / f"i{count}", CAUSAL, mode="ivf", nlist=8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("neighborhood", [CAUSAL, Neighborhood("full", (1, 2), "zero")], ids=str)
def test_extended_lists_are_those_of_assigning_everything_at_once(
    parts, tmp_path, neighborhood, monkeypatch
):
    options = {"mode": "ivf", "nlist": 24, "nprobe": 4}
    make_index(parts[0], tmp_path / "old", neighborhood, **options)
    both = merge_stores(parts, tmp_path / "both")
    meta = extend_index(tmp_path / "old", parts[0], both, tmp_path / "new", progress=False)
    centroids = np.load(tmp_path / "old" / "centroids.npy")
    monkeypatch.setattr(arrag.retrieval.ivf_lists, "train_centroids", lambda *_: centroids)
    at_once = build_index(both, tmp_path / "once", neighborhood=neighborhood, **options)
    new, once = files_of(tmp_path / "new"), files_of(tmp_path / "once")
    assert {name for name in once if new[name] != once[name]} == {"meta.json"}
    assert {field for field in meta if meta[field] != at_once[field]} == {"trained_images"}
    assert (meta["trained_images"], meta["images"]) == (50, 87)


def test_extended_in_steps_or_in_place_is_the_same(parts, tmp_path):
    make_index(parts[0], tmp_path / "old", CAUSAL, mode="ivf", nlist=24)
    both = merge_stores(parts, tmp_path / "both")
    extend_index(tmp_path / "old", parts[0], both, tmp_path / "new", progress=False)
    first = merge_stores(parts[:2], tmp_path / "first")
    extend_index(tmp_path / "old", parts[0], first, tmp_path / "old", progress=False)
    extend_index(tmp_path / "old", first, both, tmp_path / "old", progress=False)
    assert files_of(tmp_path / "old") == files_of(tmp_path / "new")
    make_index(parts[0], tmp_path / "exact", CAUSAL)
    meta = extend_index(tmp_path / "exact", parts[0], both, tmp_path / "exact")
    assert meta == build_index(both, tmp_path / "once", neighborhood=CAUSAL)
    found = open_index(tmp_path / "old", both, nprobe=24).search_keys(torch.zeros(1, 4), 500)
    want = open_index(tmp_path / "exact", both).search_keys(torch.zeros(1, 4), 500)
    assert_same_result(found, want)


def test_what_cannot_be_extended_is_refused(parts, tmp_path):
    both = merge_stores(parts[:2], tmp_path / "both")
    turned = merge_stores(parts[1::-1], tmp_path / "turned")
    for name, mode in (("faiss", "faiss:Flat"), ("ivf", "ivf")):
        make_index(parts[0], tmp_path / name, CAUSAL, mode=mode)
    for kind, name, old, new in (
        (UsageError, "faiss", parts[0], both),
        (MismatchError, "ivf", parts[0], turned),
        (MismatchError, "ivf", parts[1], both),
    ):
        with refused(kind):
            extend_index(tmp_path / name, old, new, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_merge_on_the_command_line(parts, tmp_path, capsys):
    make_index(parts[0], tmp_path / "old", CAUSAL, mode="ivf")
    stores = [str(part.path) for part in parts]
    out = ["--out-codes", f"{tmp_path}/both", "--out", f"{tmp_path}/new"]
    assert main(["index", "merge", f"{tmp_path}/old", "--codes", *stores, *out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 87
    open_index(tmp_path / "new", TokenStore.open(tmp_path / "both"))
