"""The compiled scans where they are most likely to be wrong: against sums over all entries."""

import numpy as np
import pytest
import torch
from arrag.retrieval.code_clusters import GROUPS, balanced_clusters
from test_index import make_index, make_store, some_queries

import arrag.retrieval.exact
import arrag.retrieval.ivf
from arrag.retrieval._avx512 import WIDE
from arrag.retrieval.exact_scan import BLOCK
from arrag.retrieval.neighborhood import MISSING, Neighborhood

KINDS = [
    Neighborhood("causal"),
    Neighborhood("causal", 2, "zero"),
    Neighborhood("full", 1, "zero", masked_distance=True),
    Neighborhood("full", (1, 2)),
]


def all_distances(store, neighborhood, queries):
    """Entries int64 [E] and their distances to queries, float32 [Q, E]: every one, by numpy."""
    inside = neighborhood.valid_positions(*store.grid).numpy().reshape(-1)
    around = neighborhood.neighbor_index(*store.grid)[inside]  # [p, n]
    book = np.vstack([store.codebook, np.zeros_like(store.codebook[:1])]).astype(np.float64)
    grids = np.concatenate(store.shards).reshape(len(store), -1).astype(np.int64)
    keys = np.where(around == MISSING, MISSING, grids[:, around]).reshape(-1, around.shape[1])
    total = np.zeros((len(queries), len(keys)))
    for q, query in enumerate(queries):
        for i, code in enumerate(query):
            if code != MISSING or not neighborhood.masked_distance:
                total[q] += ((book - book[code]) ** 2).sum(axis=1)[keys[:, i]]
    size = store.grid[0] * store.grid[1]
    entries = np.arange(len(store))[:, None] * size + np.flatnonzero(inside)
    return entries.reshape(-1), total.astype(np.float32)


def check(index, queries, k):
    found = index.search_keys(queries, k)
    entries, distances = all_distances(index.store, index.neighborhood, queries.numpy())
    for q in range(len(queries)):
        order = np.lexsort((entries, distances[q]))[:k]
        assert found.entries[q].tolist() == entries[order].tolist()
        assert np.array_equal(found.distances[q].numpy(), distances[q][order])


@pytest.fixture(scope="module", params=[64, 1024, 16384])
def store(request, tmp_path_factory):
    """Codes of small whole numbers, so that sums in any order are the same; a few are frequent."""
    rng = np.random.default_rng(request.param)
    book = rng.integers(-5, 6, (request.param, 4)).astype(np.float32)
    grids = (request.param * rng.random((60, 12, 13)) ** 3).astype(np.uint16)
    path = tmp_path_factory.mktemp(f"codes-{request.param}")
    return make_store(path / "s", grids, book, shard_size=25)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    "wide",
    [False, pytest.param(True, marks=pytest.mark.skipif(not WIDE, reason="needs AVX-512 VBMI2"))],
)
def test_the_scan_of_grids_finds_what_sums_over_everything_find(store, tmp_path, kind, wide):
    index = make_index(store, tmp_path / "i", kind)
    index._wide = wide
    queries = some_queries(kind, len(store.codebook), count=6)
    for k in (1, 50):
        check(index, queries, k)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_scan_of_all_lists_finds_the_same(store, tmp_path, kind):
    index = make_index(store, tmp_path / "i", kind, mode="ivf", nlist=20, nprobe=20)
    check(index, some_queries(kind, len(store.codebook), count=6), 50)


@pytest.mark.parametrize("mode", ["exact", "ivf"])
@pytest.mark.parametrize("asked", [7, 8])
def test_equal_patches_tie_and_go_on_when_there_is_no_more_room(tmp_path, monkeypatch, mode, asked):
    """All entries are alike, at distance zero or not; lists are empty; there is no room for all."""
    monkeypatch.setattr(arrag.retrieval.exact, "ROOM", BLOCK)
    monkeypatch.setattr(arrag.retrieval.ivf, "ROOM", arrag.retrieval.ivf.CHUNK)
    book = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    grids = np.full((90, 12, 13), 7, np.uint16)
    grids[-1] = np.arange(156).reshape(12, 13) % 50
    store = make_store(tmp_path / "s", grids, book, shard_size=40)
    index = make_index(
        store,
        tmp_path / "i",
        Neighborhood("causal"),
        mode=mode,
        **({"nlist": 9, "nprobe": 9} if mode == "ivf" else {}),
    )
    for k in (50, 6000):
        found = index.search_keys(torch.full((1, 4), asked), k)
        entries, distances = all_distances(store, index.neighborhood, np.full((1, 4), asked))
        order = np.lexsort((entries, distances[0]))[:k]
        assert found.entries[0].tolist() == entries[order].tolist()


def test_grids_too_large_to_be_held_are_laid_out_anew(store, tmp_path, monkeypatch):
    queries = some_queries(KINDS[1], len(store.codebook))
    held = make_index(store, tmp_path / "i", KINDS[1])
    want = held.search_keys(queries, 20)
    assert len(held._held) == len(store.shards)
    monkeypatch.setattr(arrag.retrieval.exact, "HELD_BYTES", 2 * held._held[0][0].size)
    monkeypatch.setattr(arrag.retrieval.exact, "IMAGES", 7)
    new = make_index(store, tmp_path / "j", KINDS[1])
    assert torch.equal(new.search_keys(queries, 20).entries, want.entries)
    assert len(new._held) == 1


@pytest.mark.parametrize("codes", [1, 5, 300, 16385])
def test_groups_hold_every_code_and_are_of_one_size(codes):
    points = np.random.default_rng(0).normal(size=(codes, 3)).astype(np.float32)
    groups = balanced_clusters(points)
    assert groups.shape == (GROUPS, -(-codes // GROUPS))
    assert np.array_equal(np.unique(groups), np.arange(codes))
    assert all(len(np.unique(group)) >= codes // GROUPS for group in groups)
