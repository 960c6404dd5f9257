"""What a search returns, in modes exact and ivf, against brute force and its own definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_indexes import (
    CURVE,
    SIGNS,
    UNIT,
    assert_same_result,
    check_against_brute_force,
    make_index,
    make_store,
    random_queries,
    random_store,
    smooth_grids,
)
from refusals import refused

import arrag.retrieval.base
from arrag.retrieval.index import open_index
from arrag.retrieval.ivf import nearest_lists
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.utils.errors import MismatchError, UsageError

CAUSAL = Neighborhood("causal")
MODES = pytest.mark.parametrize("mode", ["exact", "ivf"])


@pytest.fixture(scope="module")
def smooth_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("smooth") / "store"
    return make_store(path, smooth_grids(400), CURVE, shard_size=150)


@pytest.fixture(scope="module")
def smooth_path(smooth_store, tmp_path_factory):
    """The same entries in both modes."""
    path = tmp_path_factory.mktemp("smooth-index")
    make_index(smooth_store, path / "exact", CAUSAL)
    make_index(smooth_store, path / "ivf", CAUSAL, mode="ivf", nlist=256)
    return path


@pytest.fixture
def opened(smooth_store, smooth_path):
    return lambda mode, nprobe=None: open_index(smooth_path / mode, smooth_store, nprobe=nprobe)


@given(st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_search_agrees_with_brute_force(tmp_path_factory, data):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    neighborhood = Neighborhood(
        draw("causal", "full"),
        draw(1, 2, 3, (1, 2), (1, 2, 3)),
        draw("skip", "zero"),
        draw(False, True),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    smallest = 1 if neighborhood.border == "zero" else 2 * neighborhood.radius + 1
    grid = [smallest + data.draw(st.integers(0, 4)) for _ in range(2)]
    whole = rng.integers(-2, 3, (data.draw(st.integers(1, 9)), draw(1, 3)))
    book = draw(UNIT, SIGNS, whole.astype(np.float32))
    path = tmp_path_factory.mktemp("any")
    grids = rng.integers(0, len(book), (data.draw(st.integers(1, 6)), *grid))
    store = make_store(path / "s", grids, book, shard_size=draw(1, 2, 5))
    lists = {"mode": "ivf", "nlist": 1 if len(grids) < 3 else 2, "nprobe": 2}
    index = make_index(store, path / "i", neighborhood, **draw({}, lists))
    k = data.draw(st.integers(1, index.meta.entries))
    queries = random_queries(neighborhood, len(book), count=4, seed=rng.integers(999))
    check_against_brute_force(index, queries, k)


@MODES
def test_a_stored_image_is_found_at_distance_zero(smooth_store, opened, mode):
    codes = torch.from_numpy(smooth_store.grids(np.arange(390, 400)).astype(np.int64))
    found = opened(mode).search(codes, codes >= 0, positions := torch.arange(144), 200)
    inside = CAUSAL.valid_positions(12, 12).flatten()
    assert (found.distances[:, inside, 0] == 0).all()
    hit = found.entries == (torch.arange(390, 400)[:, None] * 144 + positions)[..., None]
    crowded = found.distances[..., -1] == 0  # more than k entries tie at zero
    assert (hit.any(-1) | crowded)[:, inside].all()
    assert torch.equal(found.codes[hit], codes.flatten(1)[hit.any(-1)])


@MODES
def test_positions_left_out_by_the_border_rule_get_absent_slots(opened, mode):
    codes = torch.zeros(2, 12, 12, dtype=torch.int64)
    found = opened(mode).search(codes, codes == 0, torch.tensor([0, 13, 23, 24]), 3)
    assert found.distances.shape == found.codes.shape == found.entries.shape == (2, 4, 3)
    assert (found.distances.dtype, found.codes.dtype) == (torch.float32, torch.int64)
    absent = torch.tensor([True, False, True, True])[None, :, None].expand(2, 4, 3)
    assert torch.equal(found.distances == math.inf, absent)
    assert torch.equal(found.codes == -1, absent) and torch.equal(found.entries == -1, absent)


@MODES
def test_a_masked_query_that_knows_nothing_retrieves_nothing(tmp_path, mode):
    store = random_store(tmp_path / "s", UNIT)
    masked = Neighborhood("full", border="zero", masked_distance=True)
    queries = random_queries(masked, 31, count=3)
    queries[1] = MISSING
    found = make_index(store, tmp_path / "i", masked, mode=mode).search_keys(queries, 4)
    assert (found.entries[1] == -1).all() and (found.entries[[0, 2]] >= 0).all()
    zeros = make_index(store, tmp_path / "z", Neighborhood("causal", border="zero"), mode=mode)
    corner = zeros.search_keys(torch.full((1, 4), MISSING), 4)  # a zero vector: all first patches
    assert corner.entries.tolist() == [[0, 42, 84, 126]] and (corner.distances == 0).all()


@MODES
def test_a_row_does_not_depend_on_the_batch(opened, mode):
    index = opened(mode)
    codes = torch.from_numpy(smooth_grids(8, seed=9).astype(np.int64))
    codes[5] = codes[2]  # searched once
    known = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    known[5] = known[2]
    positions = torch.tensor([40, 13, 0, 100])
    together = index.search(codes, known, positions, 30)
    for b in range(8):
        for p, position in enumerate(positions):
            alone = index.search(codes[b : b + 1], known[b : b + 1], position.view(1), 30)
            for part in ("distances", "codes", "entries"):
                assert torch.equal(getattr(alone, part)[0, 0], getattr(together, part)[b, p])


@MODES
def test_rows_kept_between_searches_change_nothing(opened, monkeypatch, mode):
    queries = random_queries(CAUSAL, 64, count=40)
    together = opened(mode).search_keys(queries, 9)
    monkeypatch.setattr(arrag.retrieval.base, "QUERIES_AT_ONCE", 7)
    assert_same_result(opened(mode).search_keys(queries, 9), together)
    monkeypatch.setattr(arrag.retrieval.base, "ROW_CACHE_BYTES", 2 * 65 * 7)  # of seven codes
    small = opened(mode)
    alone = [small.search_keys(query[None], 9).entries for query in queries]
    assert torch.equal(torch.cat(alone), together.entries)


def test_recall_grows_with_nprobe_up_to_the_exact_result(opened):
    codes = torch.from_numpy(smooth_grids(20, seed=5).astype(np.int64))
    known, positions = torch.ones_like(codes, dtype=torch.bool), torch.arange(20, 140, 7)
    want = opened("exact").search(codes, known, positions, 50)
    inside = want.entries[..., 0] >= 0
    recall = {}
    for nprobe in (1, 8, 32):
        found = opened("ivf", nprobe).search(codes, known, positions, 50)
        recall[nprobe] = (found.distances <= want.distances[..., -1:])[inside].float().mean()
    assert recall[1] < recall[8] < recall[32] and recall[32] >= 0.95
    assert_same_result(opened("ivf", 256).search(codes, known, positions, 50), want)


def test_lists_are_chosen_by_what_a_masked_query_knows():
    centroids = np.array([[0, 5], [10, 0]], np.float32)  # [dimensions, lists]
    query = np.zeros((2, 2), np.float32)
    counts = np.array([[True, False], [True, True]])
    assert nearest_lists(centroids, query, counts, 1)[0].tolist() == [[0], [1]]


def test_a_short_list_leaves_absent_slots(opened):
    found = opened("ivf", 1).search_keys(random_queries(CAUSAL, 64), 2000)
    absent = found.entries == -1
    assert absent.any(dim=1).all() and not absent.all(dim=1).any()
    assert torch.equal(absent, found.codes == -1)
    assert torch.equal(absent, found.distances == math.inf)


def test_what_is_left_out_of_the_scan_holds_nothing_near(smooth_store, opened):
    """Scanning all nprobe lists in full, in numpy, finds nothing else."""
    index = opened("ivf", 24)
    codes = torch.from_numpy(smooth_grids(6, seed=11).astype(np.int64)).flatten(1)
    around = index.neighborhood.neighbor_index(12, 12)[[30, 77, 100]]
    keys = codes[:, torch.from_numpy(around)].flatten(0, 1).numpy()  # [18, n]
    found = index.search_keys(torch.from_numpy(keys), 20)
    offsets, lists, ids = index.lists.offsets, index.lists.codes, index.lists.ids
    for q, probes in enumerate(index.nearest_lists(keys)):
        held = np.concatenate([np.arange(offsets[p], offsets[p + 1]) for p in probes])
        steps = smooth_store.codebook[lists[held, :4].astype(int)].astype(np.float64)
        steps -= smooth_store.codebook[keys[q]]
        distances = (steps**2).sum(axis=(1, 2)).astype(np.float32)
        order = np.lexsort((ids[held], distances))[:20]
        assert found.entries[q].tolist() == ids[held][order].tolist()


@MODES
def test_wrong_queries_are_refused(opened, mode):
    index = opened(mode)
    codes = torch.zeros(1, 12, 12, dtype=torch.int64)
    at = torch.tensor([14])
    for k in (0, 400 * 110 + 1):
        with refused(UsageError, field="k"):
            index.search(codes, codes == 0, at, k)
    for query in (64, -2):
        with refused(MismatchError):
            index.search_keys(torch.full((1, 4), query), 1)
    with refused(MismatchError):
        index.search(codes[..., 1:], codes[..., 1:] == 0, at, 1)
    unknown = index.search(codes + 64, codes != 0, at, 1)  # not generated, so not looked at
    assert unknown.entries.shape == (1, 1, 1)
