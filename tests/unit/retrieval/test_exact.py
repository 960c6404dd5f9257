"""The compiled exact scans where they are most likely to be wrong."""

import numpy as np
import pytest
import torch
from patch_indexes import (
    SIGNS,
    assert_same_result,
    check_against_brute_force,
    make_index,
    make_store,
    random_queries,
    random_store,
)

import arrag.retrieval.exact
import arrag.retrieval.ivf
from arrag.retrieval._avx512 import WIDE
from arrag.retrieval.exact_scan import BLOCK, GROUPS, balanced_clusters
from arrag.retrieval.neighborhood import MISSING, Neighborhood

KINDS = [
    Neighborhood("causal"),
    Neighborhood("causal", 2, "zero"),
    Neighborhood("full", 1, "zero", masked_distance=True),
    Neighborhood("full", (1, 2)),
]
LFQ = 1 - 2 * ((np.arange(8192)[:, None] >> np.arange(12, -1, -1)) & 1).astype(np.float32)


def frequent_store(path, codes):
    """Codes of small whole numbers, so that sums in any order are the same; a few are frequent."""
    rng = np.random.default_rng(codes)
    book = rng.integers(-5, 6, (codes, 4)).astype(np.float32)
    return make_store(path, codes * rng.random((60, 12, 13)) ** 3, book, shard_size=25)


@pytest.mark.parametrize(("codes", "kind"), [(64, 3), (1024, 1), (16384, 0), (16384, 2)])
def test_instructions_and_loops_find_what_brute_force_finds(tmp_path, codes, kind):
    store, kind = frequent_store(tmp_path / "s", codes), KINDS[kind]
    queries = random_queries(kind, codes, count=6)
    plain = make_index(store, tmp_path / "i", kind)
    plain._wide = False
    for k in (1, 50):
        check_against_brute_force(plain, queries, k)
    lists = make_index(store, tmp_path / "l", kind, mode="ivf", nlist=20, nprobe=20)
    check_against_brute_force(lists, queries, 50)
    if not WIDE:
        pytest.skip("the instructions need AVX-512 VBMI2")
    wide = make_index(store, tmp_path / "w", kind)
    for k in (1, 50, 700):
        assert_same_result(wide.search_keys(queries, k), plain.search_keys(queries, k))


@pytest.mark.parametrize("mode", ["exact", "ivf"])
@pytest.mark.parametrize("asked", [7, 8])
def test_equal_patches_tie_when_there_is_no_more_room(tmp_path, monkeypatch, mode, asked):
    """All entries are alike, at distance zero or not; lists are empty; there is no room for all."""
    monkeypatch.setattr(arrag.retrieval.exact, "ROOM", BLOCK)
    monkeypatch.setattr(arrag.retrieval.ivf, "ROOM", arrag.retrieval.ivf.CHUNK)
    book = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    grids = np.full((90, 12, 13), 7)
    grids[-1] = np.arange(156).reshape(12, 13) % 50
    store = make_store(tmp_path / "s", grids, book, shard_size=40)
    lists = {"nlist": 9, "nprobe": 9} if mode == "ivf" else {}
    index = make_index(store, tmp_path / "i", KINDS[0], mode=mode, **lists)
    for k in (50, 6000):
        check_against_brute_force(index, torch.full((1, 4), asked), k)


def test_grids_too_large_to_be_kept_are_laid_out_anew(tmp_path, monkeypatch):
    store = frequent_store(tmp_path / "s", 64)
    queries = random_queries(KINDS[1], 64)
    want = make_index(store, tmp_path / "i", KINDS[1]).search_keys(queries, 20)
    monkeypatch.setattr(arrag.retrieval.exact, "CACHE_BYTES", 0)
    monkeypatch.setattr(arrag.retrieval.exact, "IMAGES", 7)
    again = make_index(store, tmp_path / "j", KINDS[1])
    for _ in range(2):
        assert_same_result(again.search_keys(queries, 20), want)


def test_clusters_hold_every_code_and_are_of_one_size():
    for codes in (1, 5, 300, 16385):
        points = np.random.default_rng(0).normal(size=(codes, 3)).astype(np.float32)
        groups = balanced_clusters(points)
        assert groups.shape == (GROUPS, -(-codes // GROUPS))
        assert np.array_equal(np.unique(groups), np.arange(codes))
        assert all(len(np.unique(group)) >= codes // GROUPS for group in groups)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_signs_by_popcount_equal_tables_and_brute_force(tmp_path, kind):
    for book in (SIGNS, LFQ):
        store = random_store(tmp_path / f"s{len(book)}", book, grid=(6, 7))
        index = make_index(store, tmp_path / f"i{len(book)}", kind)
        queries = random_queries(kind, len(book), count=20)
        queries[3] = MISSING
        found = index.search_keys(queries, 40)
        check_against_brute_force(index, queries[:2], 40)
        index._signs = None  # a search by tables of bounds
        assert_same_result(found, index.search_keys(queries, 40))


def test_signs_order_ties_between_the_corners_and_edges_of_one_image(tmp_path):
    store = make_store(tmp_path / "s", np.zeros((1, 4, 4)), SIGNS)
    index = make_index(store, tmp_path / "i", Neighborhood("full", border="zero"))
    found = index.search_keys(torch.full((1, 8), MISSING), 8)
    assert found.entries.tolist() == [[0, 3, 12, 15, 1, 2, 4, 7]]
    assert found.distances.tolist() == [[9.0] * 4 + [15.0] * 4]
