"""Search against a brute force written the obvious way, and every way to get an index wrong."""

import json
import math
import threading
import time
from contextlib import contextmanager

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import arrag.retrieval.base
import arrag.retrieval.exact
import arrag.retrieval.exact_scan
import arrag.retrieval.ivf
import arrag.retrieval.keys
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.faiss_index import in_threads
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.ivf_lists import nearest_lists
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.utils.errors import ArragError
from arrag.utils.outputs import atomic_path, clear_leftovers

RNG = np.random.default_rng(0)
UNIT = RNG.normal(size=(31, 4)).astype(np.float32)
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)
SIGNS = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1], [-1, -1, -1]], np.float32)
CONTEXTS = [
    Neighborhood(context, hop, border, masked)
    for context in ("causal", "full")
    for hop in (1, 2)
    for border in ("skip", "zero")
    for masked in (False, True)
]


def make_store(path, grids, codebook, shard_size=5, tokenizer="tok"):
    with StoreWriter(
        path,
        tokenizer_digest=tokenizer,
        grid=grids.shape[1:],
        codebook=codebook,
        source="test",
        shard_size=shard_size,
    ) as writer:
        writer.add([str(i) for i in range(len(grids))], grids)
    return TokenStore.open(path)


def make_index(store, path, neighborhood, **options):
    build_index(store, path, neighborhood=neighborhood, progress=False, **options)
    return open_index(path, store)


def brute_force(store, neighborhood, query, k):
    """(distance, entry, code) of the k nearest: loops over everything, in float64 until the end."""
    height, width = store.grid
    book = store.codebook.astype(np.float64)
    zero = np.zeros(book.shape[1])
    found = []
    for image, grid in enumerate(np.concatenate(store.shards)):
        for row in range(height):
            for column in range(width):
                around = []
                for dr, dc in neighborhood.offsets:
                    r, c = row + dr, column + dc
                    inside = 0 <= r < height and 0 <= c < width
                    around.append(grid[r, c] if inside else MISSING)
                if neighborhood.border == "skip" and MISSING in around:
                    continue
                distance = 0.0
                for asked, held in zip(query, around, strict=True):
                    if asked == MISSING and neighborhood.masked_distance:
                        continue
                    a = zero if asked == MISSING else book[asked]
                    b = zero if held == MISSING else book[held]
                    distance += float(((a - b) ** 2).sum())
                entry = (image * height + row) * width + column
                found.append((np.float32(distance), entry, int(grid[row, column])))
    return sorted(found)[:k]


def some_queries(neighborhood, codes, count=8, seed=1):
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, codes, (count, len(neighborhood.offsets)))
    queries[rng.random(queries.shape) < 0.3] = MISSING
    queries[:, 0] = rng.integers(0, codes, count)  # each knows one neighbour at least
    return torch.from_numpy(queries)


@pytest.fixture(scope="module")
def unit_store(tmp_path_factory):
    grids = RNG.integers(0, 31, (13, 6, 7)).astype(np.uint16)
    return make_store(tmp_path_factory.mktemp("unit") / "store", grids, UNIT)


@pytest.fixture(scope="module")
def sign_store(tmp_path_factory):
    """Few codes of small whole numbers: most distances tie, and exactly."""
    grids = RNG.integers(0, 5, (13, 6, 7)).astype(np.uint16)
    return make_store(tmp_path_factory.mktemp("sign") / "store", grids, SIGNS)


def smooth_grids(count, side=12, codes=64, seed=0):
    """Grids whose codes change slowly, as those of images do."""
    rng = np.random.default_rng(seed)
    line = np.linspace(0, 1, side)
    waves = [
        np.sin(6 * (a * line[:, None] + b * line + c)) for a, b, c in rng.normal(size=(count, 3))
    ]
    noise = rng.normal(0, 0.05, (count, side, side))
    return np.clip((np.stack(waves) + 1 + noise) * codes / 2, 0, codes - 1).astype(np.uint16)


@pytest.fixture(scope="module")
def smooth_store(tmp_path_factory):
    turn = np.linspace(0, 3, 64)
    book = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    grids = smooth_grids(400)
    return make_store(tmp_path_factory.mktemp("smooth") / "store", grids, book, shard_size=150)


@pytest.fixture(scope="module")
def smooth_path(smooth_store, tmp_path_factory):
    """The same entries in both modes."""
    path, causal = tmp_path_factory.mktemp("smooth-index"), Neighborhood("causal")
    make_index(smooth_store, path / "exact", causal)
    make_index(smooth_store, path / "ivf", causal, mode="ivf", nlist=256)
    return path


@pytest.fixture(scope="module")
def smooth(smooth_store, smooth_path):
    return [open_index(smooth_path / mode, smooth_store) for mode in ("exact", "ivf")]


@pytest.fixture
def probing(smooth_store, smooth_path):
    """The ivf index with some other nprobe."""
    return lambda nprobe: open_index(smooth_path / "ivf", smooth_store, nprobe=nprobe)


@pytest.mark.parametrize("neighborhood", CONTEXTS, ids=str)
@pytest.mark.parametrize("mode", ["exact", "ivf"])
class TestAgainstBruteForce:
    def test_with_unit_vectors(self, unit_store, tmp_path, neighborhood, mode):
        index = make_index(unit_store, tmp_path / "i", neighborhood, mode=mode, nprobe=10**6)
        queries = some_queries(neighborhood, 31)
        found = index.search_keys(queries, 9)
        for q, query in enumerate(queries.tolist()):
            want = brute_force(unit_store, neighborhood, query, 9)
            assert found.distances[q].tolist() == [w[0] for w in want]
            assert found.entries[q].tolist() == [w[1] for w in want]
            assert found.codes[q].tolist() == [w[2] for w in want]

    def test_ties_go_to_the_lower_entry(self, sign_store, tmp_path, neighborhood, mode):
        index = make_index(sign_store, tmp_path / "i", neighborhood, mode=mode, nprobe=10**6)
        queries = some_queries(neighborhood, 5)
        found = index.search_keys(queries, 20)
        for q, query in enumerate(queries.tolist()):
            want = brute_force(sign_store, neighborhood, query, 20)
            assert found.distances[q].tolist() == [w[0] for w in want]
            assert found.entries[q].tolist() == [w[1] for w in want]
            assert found.codes[q].tolist() == [w[2] for w in want]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_small_database_agrees_with_brute_force(tmp_path_factory, data):
    neighborhood = data.draw(st.sampled_from(CONTEXTS))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    smallest = 1 if neighborhood.border == "zero" else 2 * neighborhood.hop + 1
    height, width = (data.draw(st.integers(smallest, 6)) for _ in range(2))
    codes, dimension = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    book = rng.integers(-2, 3, (codes, dimension)).astype(np.float32)
    grids = rng.integers(0, codes, (data.draw(st.integers(1, 6)), height, width)).astype(np.uint16)
    path = tmp_path_factory.mktemp("any")
    store = make_store(path / "s", grids, book, shard_size=data.draw(st.integers(1, 6)))
    modes = {"exact": {}, "ivf": {"mode": "ivf", "nlist": 1}}
    indexes = [make_index(store, path / m, neighborhood, **o) for m, o in modes.items()]
    k = data.draw(st.integers(1, indexes[0].meta.entries))
    queries = some_queries(neighborhood, codes, count=6, seed=data.draw(st.integers(0, 999)))
    for found in (index.search_keys(queries, k) for index in indexes):
        for q, query in enumerate(queries.tolist()):
            want = brute_force(store, neighborhood, query, k)
            assert found.distances[q].tolist() == [w[0] for w in want]
            assert found.entries[q].tolist() == [w[1] for w in want]


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_a_stored_image_is_found_at_distance_zero(smooth_store, smooth, mode):
    index = smooth[mode == "ivf"]
    codes = torch.from_numpy(smooth_store.grids(np.arange(390, 400)).astype(np.int64))
    known = torch.ones_like(codes, dtype=torch.bool)
    positions = torch.arange(144)
    found = index.search(codes, known, positions, 200)
    inside = index.neighborhood.valid_positions(12, 12).flatten()
    itself = torch.arange(390, 400)[:, None] * 144 + positions  # [10, 144]
    assert (found.distances[:, inside, 0] == 0).all()
    hit = found.entries == itself[..., None]
    crowded = found.distances[..., -1] == 0  # more than k entries tie at zero
    assert (hit.any(-1) | crowded)[:, inside].all()
    assert hit.any(-1)[:, inside].float().mean() > 0.9
    assert torch.equal(found.codes[hit], codes.flatten(1)[hit.any(-1)])


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_positions_left_out_by_the_border_rule_get_absent_slots(smooth, mode):
    codes = torch.zeros(2, 12, 12, dtype=torch.int64)
    found = smooth[mode == "ivf"].search(codes, codes == 0, torch.tensor([0, 13, 23, 24]), 3)
    assert found.distances.shape == found.codes.shape == found.entries.shape == (2, 4, 3)
    assert (found.distances.dtype, found.codes.dtype) == (torch.float32, torch.int64)
    for slot in (0, 2, 3):
        assert (found.distances[:, slot] == math.inf).all()
        assert (found.codes[:, slot] == -1).all() and (found.entries[:, slot] == -1).all()
    assert (found.codes[:, 1] >= 0).all()
    nothing = smooth[mode == "ivf"].search(codes, codes == 0, torch.tensor([5]), 3)
    assert (nothing.entries == -1).all()


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_a_masked_query_that_knows_nothing_retrieves_nothing(unit_store, tmp_path, mode):
    masked = Neighborhood("full", border="zero", masked_distance=True)
    index = make_index(unit_store, tmp_path / "i", masked, mode=mode)
    queries = some_queries(masked, 31, count=3)
    queries[1] = MISSING
    found = index.search_keys(queries, 4)
    assert (found.entries[1] == -1).all() and (found.entries[[0, 2]] >= 0).all()
    zeros = make_index(unit_store, tmp_path / "z", Neighborhood("causal", border="zero"))
    corner = zeros.search_keys(torch.full((1, 4), MISSING), 4)  # a zero vector: all first patches
    assert corner.entries.tolist() == [[0, 42, 84, 126]] and (corner.distances == 0).all()


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_a_row_does_not_depend_on_the_batch(smooth_store, smooth, mode):
    index = smooth[mode == "ivf"]
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


def test_the_scan_does_not_depend_on_its_blocks(smooth, monkeypatch):
    queries = some_queries(Neighborhood("causal"), 64, count=7)
    want = smooth[0].search_keys(queries, 40)
    monkeypatch.setattr(
        arrag.retrieval.exact, "ROOM", arrag.retrieval.exact_scan.BLOCK
    )  # settled at every block
    monkeypatch.setattr(arrag.retrieval.base, "QUERIES_AT_ONCE", 5)
    assert torch.equal(smooth[0].search_keys(queries, 40).entries, want.entries)


def test_all_lists_give_the_exact_result(smooth, probing):
    queries = some_queries(Neighborhood("causal"), 64, count=50)
    want, found = (index.search_keys(queries, 30) for index in (smooth[0], probing(256)))
    for part in ("distances", "codes", "entries"):
        assert torch.equal(getattr(found, part), getattr(want, part))


def test_recall_at_32_lists_and_that_nprobe_has_an_effect(smooth, probing):
    codes = torch.from_numpy(smooth_grids(20, seed=5).astype(np.int64))
    known, positions = torch.ones_like(codes, dtype=torch.bool), torch.arange(20, 140, 7)
    want = smooth[0].search(codes, known, positions, 50)
    inside = want.entries[..., 0] >= 0
    recall = {}
    for nprobe in (1, 8, 32):
        found = probing(nprobe).search(codes, known, positions, 50)
        recall[nprobe] = (found.distances <= want.distances[..., -1:])[inside].float().mean()
    assert recall[32] >= 0.95
    assert recall[1] < recall[8] < recall[32]


def test_lists_are_chosen_by_what_a_masked_query_knows():
    centroids = np.array([[0, 5], [10, 0]], np.float32)  # [dimensions, lists]
    query = np.zeros((2, 2), np.float32)
    counts = np.array([[True, False], [True, True]])
    assert nearest_lists(centroids, query, counts, 1)[0].tolist() == [[0], [1]]


def test_a_short_list_leaves_absent_slots(probing):
    found = probing(1).search_keys(some_queries(Neighborhood("causal"), 64), 2000)
    absent = found.entries == -1
    assert absent.any(dim=1).all() and not absent.all(dim=1).any()
    assert torch.equal(absent, found.codes == -1)
    assert torch.equal(absent, found.distances == math.inf)


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_rebuilding_gives_the_same_bytes(smooth_store, tmp_path, monkeypatch, mode):
    def files(name, **options):
        build_index(
            smooth_store,
            tmp_path / name,
            neighborhood=Neighborhood("causal", border="zero"),
            mode=mode,
            progress=False,
            **options,
        )
        return {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}

    before = files("a")
    assert files("b") == before
    assert (files("c", seed=1) != before) == (mode == "ivf")
    monkeypatch.setattr(arrag.retrieval.keys, "SAMPLE_IMAGES", 33)
    assert files("d") == before
    with threads_of_faiss(3):
        assert files("e") == before


@contextmanager
def threads_of_faiss(count):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


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


def test_an_interrupted_build_leaves_the_previous_one(smooth_store, tmp_path, monkeypatch):
    path, causal = tmp_path / "index", Neighborhood("causal")
    make_index(smooth_store, path, causal, mode="ivf", nlist=16)
    before = {p.name: p.read_bytes() for p in path.iterdir()}

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(arrag.retrieval.ivf, "fill", dies)
    with pytest.raises(KeyboardInterrupt):
        make_index(smooth_store, path, causal, mode="ivf", nlist=32)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    open_index(path, smooth_store)


def test_an_index_describes_itself(smooth_store, smooth, tmp_path):
    exact, ivf = (index.info() for index in smooth)
    assert exact["entries"] == ivf["entries"] == 400 * 11 * 10
    assert (exact["bytes_per_patch"], ivf["bytes_per_patch"]) == (2, 10)
    assert exact["border_share"] == 0 and exact["digest"] != ivf["digest"]
    assert ivf["nlist"] == 256 and ivf["nprobe"] == 32 and ivf["imbalance"] >= 1
    sizes = np.diff(smooth[1].offsets)
    assert sizes.sum() == 400 * 110 and ivf["largest_list"] == sizes.max()
    zero = make_index(smooth_store, tmp_path / "z", Neighborhood("causal", border="zero")).info()
    assert zero["entries"] == 400 * 144 and zero["border_share"] == pytest.approx(34 / 144)
    assert zero["store_digest"] == smooth_store.digest and zero["tokenizer_digest"] == "tok"


def test_exact_needs_the_store_and_meta_json_only(smooth_store, tmp_path):
    make_index(smooth_store, tmp_path / "i", Neighborhood("causal"))
    assert [p.name for p in (tmp_path / "i").iterdir()] == ["meta.json"]


def test_nprobe_given_on_opening_is_the_one_used(smooth_store, tmp_path):
    path = tmp_path / "i"
    make_index(smooth_store, path, Neighborhood("causal"), mode="ivf", nlist=16)
    assert open_index(path, smooth_store).info()["nprobe"] == 16  # no more than there are lists
    assert open_index(path, smooth_store, nprobe=3).info()["nprobe"] == 3
    for nprobe in (0, 17):
        with pytest.raises(ArragError, match=f"nprobe is {nprobe}.* 16 lists"):
            open_index(path, smooth_store, nprobe=nprobe)
    make_index(smooth_store, tmp_path / "e", Neighborhood("causal"))
    with pytest.raises(ArragError, match="exact has no nprobe"):
        open_index(tmp_path / "e", smooth_store, nprobe=3)


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_an_index_of_something_else_is_refused(smooth_store, tmp_path, mode):
    path = tmp_path / "index"
    make_index(smooth_store, path, Neighborhood("causal"), mode=mode)
    open_index(path, smooth_store, "tok")
    with pytest.raises(ArragError, match=r"tokenizer_digest is tok, but other"):
        open_index(path, smooth_store, "other")
    another = make_store(tmp_path / "another", smooth_grids(3), smooth_store.codebook)
    with pytest.raises(ArragError, match=f"{smooth_store.digest}, but {another.digest}"):
        open_index(path, another)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "format": 0}))
    with pytest.raises(ArragError, match="format is 0"):
        open_index(path, smooth_store)
    (path / "meta.json").unlink()
    with pytest.raises(ArragError, match=r"meta.json: no such file"):
        open_index(path, smooth_store)


@pytest.mark.parametrize("name", arrag.retrieval.ivf.FILES)
def test_a_truncated_index_file_is_named_with_both_sizes(sign_store, tmp_path, name):
    path = tmp_path / "index"
    make_index(sign_store, path, Neighborhood("causal"), mode="ivf")
    size = (path / name).stat().st_size
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(ArragError, match=f"{name}: {size - 1} bytes.* {size}"):
        open_index(path, sign_store)


def test_wrong_queries_are_refused(smooth):
    codes = torch.zeros(1, 12, 12, dtype=torch.int64)
    at = torch.tensor([14])
    for index in smooth:
        for k in (0, 400 * 110 + 1):
            with pytest.raises(ArragError, match=f"k is {k}, it holds 44000 entries"):
                index.search(codes, codes == 0, at, k)
        with pytest.raises(ArragError, match="64 codes, the query holds 64"):
            index.search(codes + 64, codes == 0, at, 1)
        with pytest.raises(ArragError, match="64 codes, the query holds -2"):
            index.search_keys(torch.full((1, 4), -2), 1)
        with pytest.raises(ArragError, match=r"its grid is \[12, 12\].*\[1, 12, 11\]"):
            index.search(codes[..., 1:], codes[..., 1:] == 0, at, 1)
        unknown = index.search(codes + 64, codes != 0, at, 1)  # not generated: not looked at
        assert unknown.entries.shape == (1, 1, 1)


def test_wrong_builds_are_refused(sign_store, tmp_path):
    def build(**options):
        options = {"neighborhood": Neighborhood("causal"), "progress": False, **options}
        return build_index(sign_store, tmp_path / "i", **options)

    with pytest.raises(ArragError, match="mode is 'flat'"):
        build(mode="flat")
    with pytest.raises(ArragError, match="hop 4 leaves the grid"):
        build(neighborhood=Neighborhood("causal", hop=4))
    for options in ({"nlist": 0}, {"nlist": 10**6}, {"nprobe": 0}):
        with pytest.raises(ArragError, match="use 1 <= nlist <= entries and nprobe >= 1"):
            build(mode="ivf", **options)
    assert not (tmp_path / "i").exists()


def test_a_store_with_a_code_outside_the_codebook_is_refused(tmp_path):
    grids = np.zeros((4, 3, 3), np.uint16)
    store = make_store(tmp_path / "s", grids, SIGNS, shard_size=2)
    file = store.path / "shard-00001.npy"
    grids[1, 2, 0] = 5
    np.save(file, grids[:2])
    with pytest.raises(ArragError, match=r"shard-00001.npy: image 1, row 2, column 0 holds code 5"):
        build_index(
            TokenStore.open(tmp_path / "s"), tmp_path / "i", neighborhood=Neighborhood("causal")
        )


def test_lists_that_are_left_out_hold_nothing_near(smooth_store, smooth_path):
    """Scanning the nprobe lists in full, the obvious way, finds nothing else."""
    index = open_index(smooth_path / "ivf", smooth_store, nprobe=24)
    codes = torch.from_numpy(smooth_grids(6, seed=11).astype(np.int64)).flatten(1)
    around = index.neighborhood.neighbor_index(12, 12)[[30, 77, 100]]
    keys = codes[:, torch.from_numpy(around)].flatten(0, 1).numpy()  # [18, n]
    probes, near, tolerance = index._probes(keys)
    rows = index._rows(keys)
    heap = arrag.retrieval.base.empty_heap(len(keys), 20)
    scanned = index._scan_probes(probes, near, tolerance, *rows, heap)
    sizes = np.diff(index.offsets)[probes].sum(axis=1)
    assert (scanned <= sizes).all() and (scanned < sizes).any()
    found = index.search_keys(torch.from_numpy(keys), 20)
    for q, key in enumerate(keys):
        held = np.concatenate(
            [np.arange(index.offsets[p], index.offsets[p + 1]) for p in probes[q]]
        )
        steps = smooth_store.codebook[index.lists[held, :4].astype(int)].astype(np.float64)
        steps -= smooth_store.codebook[key]
        distances = (steps**2).sum(axis=(1, 2)).astype(np.float32)
        order = np.lexsort((index.ids[held], distances))[:20]
        assert found.entries[q].tolist() == index.ids[held][order].tolist()


def test_rows_kept_between_searches_change_nothing(smooth_store, smooth_path, monkeypatch):
    monkeypatch.setattr(arrag.retrieval.base, "ROWS_BYTES", 2 * 65 * 7)  # room for seven codes
    small = open_index(smooth_path / "ivf", smooth_store)
    large = open_index(smooth_path / "exact", smooth_store)
    queries = some_queries(Neighborhood("causal"), 64, count=40)
    whole = open_index(smooth_path / "ivf", smooth_store).search_keys(queries, 9)
    alone = [small.search_keys(query[None], 9) for query in queries]
    assert torch.equal(torch.cat([found.entries for found in alone]), whole.entries)
    assert large.search_keys(queries, 9).distances.shape == whole.distances.shape


def test_a_large_store_is_sampled_without_repeats(smooth_store, monkeypatch):
    extractor = arrag.retrieval.keys.KeyExtractor(smooth_store, Neighborhood("causal"))
    monkeypatch.setattr(arrag.retrieval.keys, "MANY_ENTRIES", 1000)
    everything = extractor.sample(44000, 0)
    want = np.concatenate([extractor.keys(grids).reshape(-1, 4) for _, grids in extractor.chunks()])
    assert np.array_equal(everything, want)  # one of each part: all of them, once
    assert not np.array_equal(extractor.sample(500, 0), extractor.sample(500, 1))


def test_pages_let_go_are_read_and_written_all_the_same(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.int64, (5000,))
    array[:] = np.arange(5000)
    arrag.retrieval.keys.release(array[10:], np.arange(3))
    assert np.array_equal(array, np.arange(5000))
    array.flush()
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.arange(5000))


def test_what_a_killed_build_left_is_removed_by_the_next(smooth_store, tmp_path):
    dead = tmp_path / ".index.abc.tmp"
    (dead / "index").mkdir(parents=True)
    with atomic_path(tmp_path / "index") as living:
        living.mkdir()
        clear_leftovers(tmp_path / "index")
        assert living.exists() and not dead.exists()
    (tmp_path / ".index.def.tmp").mkdir()
    make_index(smooth_store, tmp_path / "index", Neighborhood("causal"))
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_build_killed_between_its_two_moves_gives_the_previous_one_back(tmp_path):
    old = tmp_path / ".index.abc.tmp" / "index.old"
    old.mkdir(parents=True)
    (old / "meta.json").write_text("{}")
    clear_leftovers(tmp_path / "index")
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["meta.json"]
