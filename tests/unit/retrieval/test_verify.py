"""Damage is found, and recall is what it is."""

import json

import numpy as np
import pytest
import torch
from patch_indexes import CURVE, UNIT, make_index, make_store, random_store, smooth_grids
from refusals import refused

from arrag.cli.main import main
from arrag.data.token_store import TokenStore
from arrag.retrieval.index import open_index
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.retrieval.verify import border_share, forget_neighbors, recall, verify_index
from arrag.utils.errors import FormatError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify")
    store = make_store(path / "codes", smooth_grids(60), CURVE, shard_size=25)
    for mode in ("exact", "ivf", "faiss:IVF16,PQ4x4"):
        name = mode.partition(":")[0]
        make_index(store, path / name, Neighborhood("causal"), mode=mode, nlist=64, nprobe=2)
    return path


@pytest.mark.parametrize("name", ["exact", "ivf", "faiss"])
def test_a_whole_index_passes_and_reports_its_recall(made, name):
    result = verify_index(made / name, made / "codes", queries=40)
    assert (result["queries"], result["k"]) == (40, 50)
    assert (result["recall"] == 1) == (name == "exact")
    assert result["recall"] > 0.2


def test_recall_is_the_brute_force_share(made):
    store = TokenStore.open(made / "codes")
    exact, ivf = (open_index(made / name, store) for name in ("exact", "ivf"))
    keys = np.array([[3, 4, 5, 6], [60, 60, 60, MISSING], [1, 40, 2, 9]])
    want = exact.search_keys(torch.from_numpy(keys), 30)
    found = ivf.search_keys(torch.from_numpy(keys), 30)
    near = found.distances <= want.distances[:, -1:] * (1 + 1e-5) + 1e-9
    assert recall(ivf, keys, 30) == near.double().mean().item() < 1
    few, more = (verify_index(made / "ivf", made / "codes", nprobe=n) for n in (1, 64))
    assert few["recall"] < more["recall"] == 1


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_a_masked_query_counts_what_it_knows(tmp_path, mode):
    store = random_store(tmp_path / "codes", UNIT)
    masked = Neighborhood("full", border="zero", masked_distance=True)
    index = make_index(store, tmp_path / mode, masked, mode=mode, nprobe=10**6)
    keys = np.full((1, 8), MISSING)
    keys[0, 2:5] = (4, 9, 11)
    assert recall(index, keys, 20) == 1


@pytest.mark.parametrize(
    "file",
    ["codes/shard-00001.npy", "codes/shard-00002.keys.json", "ivf/lists.npy"],
)
def test_an_altered_byte_is_found_in_any_file(made, file):
    path = made / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    try:
        with refused(path=path):
            verify_index(made / "ivf", made / "codes")
    finally:
        path.write_bytes(whole)


def test_codes_that_the_store_does_not_have_are_found(tmp_path):
    store = random_store(tmp_path / "codes", UNIT)
    index = make_index(store, tmp_path / "i", Neighborhood("causal"), mode="ivf", nlist=2)
    index.check_contents()
    lists = np.load(tmp_path / "i" / "lists.npy", mmap_mode="r+")
    lists[5, -1] = 31
    lists.flush()
    with refused(FormatError):
        open_index(tmp_path / "i", store).check_contents()


def test_verify_on_the_command_line(made, capsys):
    arguments = ["index", "verify", f"{made}/ivf", "--codes", f"{made}/codes", "--queries", "9"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["queries"] == 9 and 0 < result["recall"] <= 1
    assert main(arguments) == 0
    assert f"recall: {result['recall']}" in capsys.readouterr().out


def border_index(path, masked):
    store = make_store(path / "codes", smooth_grids(40, seed=4), CURVE)
    return make_index(store, path / "i", Neighborhood("full", 1, "zero", masked))


def test_half_known_queries_find_the_border_unless_distances_are_masked(tmp_path):
    shares = {}
    for masked in (False, True):
        path = tmp_path / str(masked)
        border_index(path, masked)
        for known in (1.0, 0.4):
            shares[masked, known] = verify_index(path / "i", path / "codes", known=known)
    assert shares[False, 1.0]["border_share"] == pytest.approx(44 / 144)
    assert shares[False, 0.4]["retrieved_border_share"] > 0.95
    for other in ((True, 0.4), (False, 1.0), (True, 1.0)):
        assert shares[other]["retrieved_border_share"] < 0.6
    with refused(UsageError, field="known"):
        verify_index(tmp_path / "True" / "i", tmp_path / "True" / "codes", known=0)


def test_the_border_share_is_that_of_the_entries_found(tmp_path, capsys):
    index = border_index(tmp_path, masked=False)
    entries = np.array([[0, 13, 14], [143, -1, -1], [144 * 7 + 24, 144 + 11, 144 + 25]])
    assert border_share(index, entries) == 4 / 7
    assert border_share(index, np.array([[-1]])) is None
    argv = ["index", "search", f"{tmp_path}/i", "--codes", f"{tmp_path}/codes", "--row", "0"]
    assert main([*argv, "--col", "0", "-k", "20", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    edges = [hit["row"] in (0, 11) or hit["col"] in (0, 11) for hit in said["nearest"]]
    assert said["border_share"] == np.mean(edges) > 0


def test_a_composite_query_knows_a_neighbour_everywhere_or_nowhere(made):
    store = TokenStore.open(made / "codes")
    index = make_index(store, made / "composite", Neighborhood("causal", (1, 2)))
    keys = forget_neighbors(index, np.full((200, 16), 7), 0.3, seed=0)
    assert 0.25 < (keys != MISSING).mean() < 0.42 and (keys != MISSING).any(axis=1).all()
    twice = [index.neighborhood.offsets.index(step, 4) for step in index.neighborhood.offsets[:4]]
    assert np.array_equal(keys[:, :4], keys[:, twice])
