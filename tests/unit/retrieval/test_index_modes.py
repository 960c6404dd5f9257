"""The modes that are there for other codes and for comparison: hamming, FAISS's own, official."""

import contextlib
import json
import re

import faiss
import numpy as np
import pytest
import torch
from test_index import CONTEXTS, SIGNS, UNIT, brute_force, make_index, make_store, some_queries

from arrag.cli.main import main
from arrag.retrieval.faiss_index import PUBLISHED, PUBLISHED_CODES, get_nprobe, set_nprobe
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.utils.errors import ArragError

CAUSAL = Neighborhood("causal")
LFQ = 1 - 2 * ((np.arange(8192)[:, None] >> np.arange(12, -1, -1)) & 1).astype(np.float32)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("modes")
    books = {"sign": SIGNS, "lfq": LFQ, "unit": UNIT}
    return {
        name: make_store(
            path / name, rng.integers(0, len(book), (13, 6, 7)).astype(np.uint16), book
        )
        for name, book in books.items()
    }


@pytest.mark.parametrize("neighborhood", CONTEXTS, ids=str)
@pytest.mark.parametrize("name", ["sign", "lfq"])
def test_hamming_equals_the_exact_mode(stores, tmp_path, neighborhood, name):
    store = stores[name]
    exact = make_index(store, tmp_path / "e", neighborhood)
    hamming = make_index(store, tmp_path / "h", neighborhood, mode="hamming")
    queries = some_queries(neighborhood, len(store.codebook), count=20)
    queries[3] = MISSING
    want, found = (index.search_keys(queries, 40) for index in (exact, hamming))
    for part in ("distances", "entries", "codes"):
        assert torch.equal(getattr(found, part), getattr(want, part))


def test_hamming_equals_brute_force(stores, tmp_path):
    full = Neighborhood("full", border="zero")
    index = make_index(stores["lfq"], tmp_path / "h", full, mode="hamming")
    queries = some_queries(full, 8192, count=3)
    found = index.search_keys(queries, 12)
    for q, query in enumerate(queries.tolist()):
        want = brute_force(stores["lfq"], full, query, 12)
        assert found.distances[q].tolist() == [w[0] for w in want]
        assert found.entries[q].tolist() == [w[1] for w in want]
        assert found.codes[q].tolist() == [w[2] for w in want]
    assert index.info()["bytes_per_patch"] == 2


def test_hamming_orders_ties_between_the_corners_and_edges_of_one_image(tmp_path):
    store = make_store(tmp_path / "s", np.zeros((1, 4, 4), np.uint16), SIGNS)
    index = make_index(store, tmp_path / "h", Neighborhood("full", border="zero"), mode="hamming")
    found = index.search_keys(torch.full((1, 8), MISSING), 8)
    assert found.entries.tolist() == [[0, 3, 12, 15, 1, 2, 4, 7]]
    assert found.distances.tolist() == [[9.0] * 4 + [15.0] * 4]


def test_hamming_takes_codes_of_signs_only(stores, tmp_path):
    with pytest.raises(ArragError, match=r"needs codes of \+1 and -1.*use mode exact or ivf"):
        build_index(stores["unit"], tmp_path / "h", neighborhood=CAUSAL, mode="hamming")


@pytest.mark.parametrize("border", ["skip", "zero"])
@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_lossless_faiss_indexes_agree_with_brute_force(stores, tmp_path, factory, border):
    causal = Neighborhood("causal", border=border)
    index = make_index(stores["unit"], tmp_path / "f", causal, mode=f"faiss:{factory}")
    queries = some_queries(causal, 31, count=5)
    found = index.search_keys(queries, 6)
    for q, query in enumerate(queries.tolist()):
        want = brute_force(stores["unit"], causal, query, 6)
        assert found.distances[q].tolist() == pytest.approx([w[0] for w in want], abs=1e-5)
        assert found.entries[q].tolist() == [w[1] for w in want]
        assert found.codes[q].tolist() == [w[2] for w in want]


def test_a_row_of_a_quantised_index_does_not_depend_on_the_batch(stores, tmp_path):
    index = make_index(stores["unit"], tmp_path / "f", CAUSAL, mode="faiss:OPQ4_8,IVF8,PQ4x4")
    queries = some_queries(CAUSAL, 31, count=40)
    together = index.search_keys(queries, 20)
    assert (together.distances.diff(dim=1) >= 0).all()
    for q in range(40):
        alone = index.search_keys(queries[q : q + 1], 20)
        assert torch.equal(alone.distances[0], together.distances[q])
        assert torch.equal(alone.entries[0], together.entries[q])


def test_nprobe_reaches_the_lists_within_a_wrapper_and_is_read_back(stores, tmp_path):
    wrapper = faiss.index_factory(16, "OPQ4_8,IVF8,PQ4x4")
    with contextlib.suppress(AttributeError):  # this version of FAISS says so, older ones do not
        wrapper.nprobe = 5
    assert get_nprobe(wrapper) == 1
    assert set_nprobe(wrapper, 5, tmp_path) == 5 == get_nprobe(wrapper)

    path = tmp_path / "f"
    mode = "faiss:OPQ4_8,IVF8,PQ4x4"
    index = make_index(stores["unit"], path, CAUSAL, mode=mode, nprobe=3)
    assert index.info()["nprobe"] == 3
    few, all_of_them = (open_index(path, stores["unit"], nprobe=n) for n in (1, 8))
    queries = some_queries(CAUSAL, 31, count=10)
    absent = [(i.search_keys(queries, 325).entries == -1).sum() for i in (few, all_of_them)]
    assert absent[0] > absent[1] == 0
    with pytest.raises(ArragError, match="nprobe is 9, it has 8 lists"):
        open_index(path, stores["unit"], nprobe=9)


def test_faiss_that_cannot_be_built_is_refused(stores, tmp_path):
    def build(mode, neighborhood=CAUSAL):
        build_index(
            stores["unit"], tmp_path / "f", neighborhood=neighborhood, mode=mode, progress=False
        )

    with pytest.raises(ArragError, match="'Nonsense' of 325 entries.*could not parse"):
        build("faiss:Nonsense")
    with pytest.raises(ArragError, match=r"'IVF999,Flat'.*\(325\).*\(999\)"):
        build("faiss:IVF999,Flat")
    with pytest.raises(ArragError, match="cannot leave unknown neighbours out"):
        build("faiss:Flat", Neighborhood("full", masked_distance=True))
    build("faiss:Flat")
    with pytest.raises(ArragError, match="nprobe is 3, it has 0 lists"):
        open_index(tmp_path / "f", stores["unit"], nprobe=3)
    assert open_index(tmp_path / "f", stores["unit"]).info()["nprobe"] is None


@pytest.fixture(scope="module")
def published(stores, tmp_path_factory):
    """The authors' two files, as their code would make them of the store's patches."""
    folder, store = tmp_path_factory.mktemp("published"), stores["unit"]
    flat = make_index(store, folder / "flat", CAUSAL, mode="faiss:Flat")
    vectors = flat._index.reconstruct_n(0, flat._index.ntotal)
    index = faiss.index_factory(16, "OPQ4_8,IVF16,PQ4x4")
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / PUBLISHED))
    _, codes = flat._named(np.arange(len(vectors))[None])
    np.save(folder / PUBLISHED_CODES, codes[0].astype(np.int32))
    return folder


def official(store, path, folder, **options):
    options = {"neighborhood": CAUSAL, "nprobe": 16, **options}
    build_index(store, path, mode="official", published=folder, **options)
    return open_index(path, store)


def test_the_published_index_is_read_and_searched(stores, published, tmp_path):
    index = official(stores["unit"], tmp_path / "o", published)
    info = index.info()
    assert (info["entries"], info["nprobe"], info["mode"]) == (325, 16, "official")
    raw = faiss.read_index(str(published / PUBLISHED))
    faiss.extract_index_ivf(raw).nprobe = 16
    codes = np.load(published / PUBLISHED_CODES)
    queries = some_queries(CAUSAL, 31, count=8)
    book = np.vstack([UNIT, np.zeros_like(UNIT[:1])])
    found = index.search_keys(queries, 12)
    for q, query in enumerate(queries.numpy()):
        distances, ids = raw.search(book[query].reshape(1, -1), 12)
        assert found.distances[q].tolist() == distances[0].tolist()
        assert sorted(found.entries[q].tolist()) == sorted(ids[0].tolist())
        assert found.codes[q].tolist() == codes[found.entries[q]].tolist()


def test_a_hit_of_the_published_index_has_no_image(stores, published, tmp_path, capsys):
    codes, index = str(stores["unit"].path), str(tmp_path / "o")
    argv = ["index", "build", "--codes", codes, "--out", index, "--mode", "official"]
    assert main([*argv, "--published", str(published), "--nprobe", "16"]) == 0
    capsys.readouterr()
    argv = ["index", "search", index, "--codes", codes, "--row", "2", "--col", "3", "-k", "2"]
    assert main([*argv, "--json"]) == 0
    nearest = json.loads(capsys.readouterr().out)["nearest"]
    assert [set(found) for found in nearest] == [{"distance", "code", "entry"}] * 2
    assert main(["index", "verify", index, "--codes", codes, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recall"] is None


def test_a_short_list_of_the_published_index_leaves_absent_slots(stores, published, tmp_path):
    index = official(stores["unit"], tmp_path / "o", published, nprobe=1)
    assert index.info()["nprobe"] == 1
    found = index.search_keys(some_queries(CAUSAL, 31), 325)
    absent = found.entries == -1
    assert absent.any(dim=1).all() and not absent.all(dim=1).any()
    assert torch.equal(absent, found.codes == -1)  # not the last code, which -1 would index
    assert torch.equal(absent, found.distances == torch.inf)


def test_published_files_that_do_not_fit_are_refused(stores, published, tmp_path):
    store = stores["unit"]
    with pytest.raises(ArragError, match="16 dimensions, full neighbourhoods .* have 32"):
        official(store, tmp_path / "o", published, neighborhood=Neighborhood("full"))
    with pytest.raises(ArragError, match="nprobe is 17, it has 16 lists"):
        official(store, tmp_path / "o", published, nprobe=17)
    with pytest.raises(ArragError, match=f"{PUBLISHED}: no such file"):
        official(store, tmp_path / "o", tmp_path)
    with pytest.raises(ArragError, match="mode official needs one"):
        build_index(store, tmp_path / "o", neighborhood=CAUSAL, mode="official")
    bad = tmp_path / "bad"
    bad.mkdir()
    whole = (published / PUBLISHED).read_bytes()
    (bad / PUBLISHED).write_bytes(whole[:-9])
    with pytest.raises(ArragError, match=f"{PUBLISHED}: FAISS cannot read it"):
        official(store, tmp_path / "o", bad)
    (bad / PUBLISHED).write_bytes(whole)
    for codes, message in (
        (np.zeros(324, np.int32), "324 codes for 325 entries"),
        (np.full(325, 31), "codes 31 to 31, the codebook has 31"),
        (np.zeros(325), r"next_codes.npy: holds float64 \[325\], which is not what belongs there"),
        (np.array([None] * 325), "cannot be read"),
    ):
        np.save(bad / PUBLISHED_CODES, codes, allow_pickle=True)
        with pytest.raises(ArragError, match=message):
            official(store, tmp_path / "o", bad)
    assert not (tmp_path / "o").exists()


def test_one_file_of_the_retrieval_imports_faiss(root):
    pattern = re.compile(r"^\s*(import|from) faiss", re.MULTILINE)
    files = [p for p in (root / "arrag").rglob("*.py") if pattern.search(p.read_text())]
    # Training the micro tokenizer clusters its codebook; it searches nothing.
    assert [p.name for p in files if p.parent.name != "train"] == ["faiss_index.py"]
