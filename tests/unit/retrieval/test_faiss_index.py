"""The modes that are there for comparison: FAISS's own indexes, and the authors' published one."""

import contextlib
import json

import faiss
import numpy as np
import pytest
import torch
from patch_indexes import (
    UNIT,
    assert_same_result,
    brute_force,
    make_index,
    random_queries,
    random_store,
)
from refusals import refused

from arrag.cli.main import main
from arrag.retrieval.base import SearchResult
from arrag.retrieval.faiss_index import PUBLISHED, PUBLISHED_CODES, get_nprobe, set_nprobe
from arrag.retrieval.index import open_index
from arrag.retrieval.keys import KeyExtractor
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError

CAUSAL = Neighborhood("causal")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_store(tmp_path_factory.mktemp("modes") / "unit", UNIT)


@pytest.mark.parametrize(
    ("factory", "hop", "border"),
    [("Flat", 1, "skip"), ("IVF4,Flat", 1, "zero"), ("Flat", (1, 2), "zero")],
)
def test_lossless_faiss_indexes_agree_with_brute_force(store, tmp_path, factory, hop, border):
    causal = Neighborhood("causal", hop, border)
    index = make_index(store, tmp_path / "f", causal, mode=f"faiss:{factory}")
    queries = random_queries(causal, 31, count=5)
    found = index.search_keys(queries, 6)
    for q, query in enumerate(queries.tolist()):
        distances, entries, codes = (part.tolist() for part in brute_force(store, causal, query))
        assert found.distances[q].tolist() == pytest.approx(distances[:6], abs=1e-4)
        at = [entries.index(entry) for entry in found.entries[q].tolist()]  # ties in any order
        assert [distances[i] for i in at] == pytest.approx(distances[:6], abs=1e-4)
        assert found.codes[q].tolist() == [codes[i] for i in at]


def test_a_row_of_a_quantised_index_does_not_depend_on_the_batch(store, tmp_path):
    index = make_index(store, tmp_path / "f", CAUSAL, mode="faiss:OPQ4_8,IVF8,PQ4x4")
    queries = random_queries(CAUSAL, 31, count=40)
    together = index.search_keys(queries, 20)
    assert (together.distances.diff(dim=1) >= 0).all()
    for q in range(40):
        row = (part[q : q + 1] for part in vars(together).values())
        assert_same_result(index.search_keys(queries[q : q + 1], 20), SearchResult(*row))


def test_nprobe_reaches_the_lists_within_a_wrapper_and_is_read_back(store, tmp_path):
    wrapper = faiss.index_factory(16, "OPQ4_8,IVF8,PQ4x4")
    with contextlib.suppress(AttributeError):  # this version of FAISS says so, older ones do not
        wrapper.nprobe = 5
    assert get_nprobe(wrapper) == 1
    assert set_nprobe(wrapper, 5, tmp_path) == 5 == get_nprobe(wrapper)
    path = tmp_path / "f"
    index = make_index(store, path, CAUSAL, mode="faiss:OPQ4_8,IVF8,PQ4x4", nprobe=3)
    assert index.info()["nprobe"] == 3
    few, all_of_them = (open_index(path, store, nprobe=n) for n in (1, 8))
    queries = random_queries(CAUSAL, 31, count=10)
    absent = [(i.search_keys(queries, 325).entries == -1).sum() for i in (few, all_of_them)]
    assert absent[0] > absent[1] == 0
    flat = make_index(store, tmp_path / "flat", CAUSAL, mode="faiss:Flat")
    assert flat.info()["nprobe"] is None
    for place, nprobe in ((path, 9), (tmp_path / "flat", 3)):
        with refused(UsageError, field="nprobe"):
            open_index(place, store, nprobe=nprobe)


def test_what_faiss_cannot_make_is_refused(store, tmp_path):
    for factory in ("Nonsense", "IVF999,Flat"):
        with refused(UsageError, field="mode"):
            make_index(store, tmp_path / "f", CAUSAL, mode=f"faiss:{factory}")


@pytest.fixture(scope="module")
def published(store, tmp_path_factory):
    """The authors' two files, as their code would make them of the store's patches."""
    folder, extractor = tmp_path_factory.mktemp("published"), KeyExtractor(store, CAUSAL)
    grids = np.concatenate(store.shards)
    vectors = extractor.vectors(extractor.keys(grids))
    index = faiss.index_factory(16, "OPQ4_8,IVF16,PQ4x4")
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / PUBLISHED))
    codes = grids.reshape(len(grids), -1)[:, extractor.positions].reshape(-1)
    np.save(folder / PUBLISHED_CODES, codes.astype(np.int32))
    return folder


def official(store, path, folder, neighborhood=CAUSAL, nprobe=16):
    options = {"mode": "official", "published": folder, "nprobe": nprobe}
    return make_index(store, path, neighborhood, **options)


def test_the_published_index_is_read_and_searched(store, published, tmp_path):
    index = official(store, tmp_path / "o", published)
    info = index.info()
    assert (info["entries"], info["nprobe"], info["mode"]) == (325, 16, "official")
    raw = faiss.read_index(str(published / PUBLISHED))
    faiss.extract_index_ivf(raw).nprobe = 16
    codes = np.load(published / PUBLISHED_CODES)
    queries = random_queries(CAUSAL, 31, count=8)
    book = np.vstack([UNIT, np.zeros_like(UNIT[:1])])
    found = index.search_keys(queries, 12)
    for q, query in enumerate(queries.numpy()):
        distances, ids = raw.search(book[query].reshape(1, -1), 12)
        assert found.distances[q].tolist() == distances[0].tolist()
        assert sorted(found.entries[q].tolist()) == sorted(ids[0].tolist())
        assert found.codes[q].tolist() == codes[found.entries[q]].tolist()


def test_a_hit_of_the_published_index_has_no_image(store, published, tmp_path, capsys):
    codes, index = str(store.path), str(tmp_path / "o")
    argv = ["index", "build", "--codes", codes, "--out", index, "--mode", "official"]
    assert main([*argv, "--published", str(published), "--nprobe", "16"]) == 0
    capsys.readouterr()
    argv = ["index", "search", index, "--codes", codes, "--row", "2", "--col", "3", "-k", "2"]
    assert main([*argv, "--json"]) == 0
    nearest = json.loads(capsys.readouterr().out)["nearest"]
    assert [set(found) for found in nearest] == [{"distance", "code", "entry"}] * 2
    assert main(["index", "verify", index, "--codes", codes, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recall"] is None


def test_a_short_list_of_the_published_index_leaves_absent_slots(store, published, tmp_path):
    index = official(store, tmp_path / "o", published, nprobe=1)
    found = index.search_keys(random_queries(CAUSAL, 31), 325)
    absent = found.entries == -1
    assert absent.any(dim=1).all() and not absent.all(dim=1).any()
    assert torch.equal(absent, found.codes == -1)  # not the last code, which -1 would index
    assert torch.equal(absent, found.distances == torch.inf)


def test_published_files_that_do_not_fit_are_refused(store, published, tmp_path):
    bad, out, whole = tmp_path / "bad", tmp_path / "o", (published / PUBLISHED).read_bytes()
    bad.mkdir()
    with refused(MismatchError, path=published / PUBLISHED):
        official(store, out, published, Neighborhood("full"))
    with refused(UsageError, field="nprobe"):
        official(store, out, published, nprobe=17)
    with refused(MissingError, path=bad / PUBLISHED):
        official(store, out, bad)
    (bad / PUBLISHED).write_bytes(whole[:-9])
    with refused(FormatError, path=bad / PUBLISHED):
        official(store, out, bad)
    (bad / PUBLISHED).write_bytes(whole)
    for codes in (np.zeros(324, np.int32), np.full(325, 31), np.zeros(325), np.array([None] * 325)):
        np.save(bad / PUBLISHED_CODES, codes, allow_pickle=True)
        with refused() as error:
            official(store, out, bad)
        assert PUBLISHED_CODES in str(error.value)
    assert not out.exists()
