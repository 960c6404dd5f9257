"""Wide and composite neighbourhoods against loops that know windows, and nothing of offsets."""

import json

import numpy as np
import pytest
import torch
from test_index import SIGNS, UNIT, make_index, make_store

from arrag.data.merge import merge_stores
from arrag.retrieval.extend import extend_index
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.utils.errors import ArragError

HOPS = [3, (1, 2), (1, 2, 3)]
RULES = [("skip", False), ("zero", False), ("zero", True)]
KINDS = [
    Neighborhood(context, hop, border, masked)
    for context in ("causal", "full")
    for hop in HOPS
    for border, masked in RULES
]


def distance(book, asked, held, at, neighborhood):
    """Sum over the windows of the squared L2 within each, of two grids {(row, column): code}."""
    total, zero, (row, column) = 0.0, np.zeros(book.shape[1]), at
    for hop in neighborhood.hop if isinstance(neighborhood.hop, tuple) else [neighborhood.hop]:
        for r in range(-hop, hop + 1):
            for c in range(-hop, hop + 1):
                if (r, c) == (0, 0) or (neighborhood.context == "causal" and (r, c) > (0, 0)):
                    continue
                query = asked.get((r, c))
                if query is None and neighborhood.masked_distance:
                    continue
                code = held.get((row + r, column + c))
                a = zero if query is None else book[query]
                b = zero if code is None else book[code]
                total += float(((a - b) ** 2).sum())
    return total


def brute_force(store, neighborhood, asked, k):
    """(distance, entry, code) of the k nearest to {(row step, column step): code}."""
    height, width = store.grid
    widest = max(np.atleast_1d(neighborhood.hop))
    book, found = store.codebook.astype(np.float64), []
    for image, grid in enumerate(np.concatenate(store.shards)):
        held = {(r, c): grid[r, c] for r in range(height) for c in range(width)}
        for row in range(height):
            for column in range(width):
                bottom = height if neighborhood.context == "causal" else height - widest
                inside = widest <= row < bottom and widest <= column < width - widest
                if neighborhood.border == "skip" and not inside:
                    continue
                d = distance(book, asked, held, (row, column), neighborhood)
                entry = (image * height + row) * width + column
                found.append((np.float32(d), entry, int(grid[row, column])))
    return sorted(found)[:k]


def queries_of(neighborhood, codes, count=3):
    """Steps to codes, some unknown, and the same as rows for the index: int64 [Q, n]."""
    rng, widest = np.random.default_rng(5), max(np.atleast_1d(neighborhood.hop))
    window = [
        (r, c) for r in range(-widest, widest + 1) for c in range(-widest, widest + 1) if (r, c)
    ]
    asked = []
    for _ in range(count):
        known = {step: int(rng.integers(codes)) for step in window if rng.random() < 0.6}
        asked.append({**known, (-1, -1): int(rng.integers(codes))})
    rows = [[query.get(step, MISSING) for step in neighborhood.offsets] for query in asked]
    return asked, torch.tensor(rows)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("composite")
    return {
        name: make_store(path / name, rng.integers(0, len(b), (2, 8, 9)).astype(np.uint16), b)
        for name, b in {"unit": UNIT, "sign": SIGNS}.items()
    }


@pytest.mark.parametrize("neighborhood", KINDS, ids=str)
@pytest.mark.parametrize(
    ("mode", "name"), [("exact", "unit"), ("exact", "sign"), ("ivf", "unit"), ("hamming", "sign")]
)
def test_every_mode_agrees_with_loops(stores, tmp_path, neighborhood, mode, name):
    store = stores[name]
    index = make_index(store, tmp_path / "i", neighborhood, mode=mode, nprobe=10**6)
    k = min(9, index.meta["entries"])
    asked, rows = queries_of(neighborhood, len(store.codebook))
    found = index.search_keys(rows, k)
    for q, query in enumerate(asked):
        want = brute_force(store, neighborhood, query, k)
        assert found.distances[q].tolist() == [w[0] for w in want]
        assert found.entries[q].tolist() == [w[1] for w in want]
        assert found.codes[q].tolist() == [w[2] for w in want]


@pytest.mark.parametrize("hop", [3, (1, 2)])
def test_faiss_sees_the_same_keys(stores, tmp_path, hop):
    causal = Neighborhood("causal", hop, "zero")
    index = make_index(stores["unit"], tmp_path / "i", causal, mode="faiss:Flat")
    asked, rows = queries_of(causal, 31)
    found = index.search_keys(rows, 5)
    for q, query in enumerate(asked):
        want = brute_force(stores["unit"], causal, query, 5)
        assert found.distances[q].tolist() == pytest.approx([w[0] for w in want], abs=1e-4)
        assert found.entries[q].tolist() == [w[1] for w in want]


def test_a_composite_distance_is_the_sum_of_those_of_its_hops(stores, tmp_path):
    store, entries = stores["unit"], 2 * 72
    rows, distances = {}, {}
    for hop in (1, 2, 3, (1, 2, 3)):
        kind = Neighborhood("full", hop, "zero")
        index = make_index(store, tmp_path / str(hop), kind)
        _, rows[hop] = queries_of(Neighborhood("full", 3, "zero"), 31, count=1)
        known = dict(zip(Neighborhood("full", 3).offsets, rows[hop][0].tolist(), strict=True))
        query = torch.tensor([[known[step] for step in kind.offsets]])
        found = index.search_keys(query, entries)
        distances[hop] = torch.empty(entries)
        distances[hop][found.entries[0]] = found.distances[0]
    together = distances[1] + distances[2] + distances[3]
    assert torch.allclose(distances[1, 2, 3], together, atol=1e-4)


def test_a_stored_patch_is_found_through_its_composite_key(stores, tmp_path):
    causal = Neighborhood("causal", (1, 2))
    index = make_index(stores["unit"], tmp_path / "i", causal, mode="ivf", nprobe=10**6)
    codes = torch.from_numpy(stores["unit"].grids(np.arange(2)).astype(np.int64))
    found = index.search(codes, torch.ones_like(codes, dtype=torch.bool), torch.arange(72), 1)
    inside = causal.valid_positions(8, 9).flatten()
    itself = torch.arange(2 * 72).view(2, 72)
    assert torch.equal(found.entries[:, inside, 0], itself[:, inside])
    assert (found.distances[:, inside] == 0).all() and (found.entries[:, ~inside] == -1).all()
    assert index.info()["bytes_per_patch"] == 2 * (16 + 1)


def test_a_composite_survives_the_disk_and_a_merge(stores, tmp_path):
    causal = Neighborhood("causal", [1, 2])
    assert causal == Neighborhood("causal", (1, 2)) and hash(causal)
    meta = build_index(stores["unit"], tmp_path / "i", neighborhood=causal, mode="ivf", nlist=3)
    said = json.loads((tmp_path / "i" / "meta.json").read_text())["neighborhood"]
    assert said["hop"] == [1, 2]
    assert open_index(tmp_path / "i", stores["unit"]).neighborhood == causal
    again = merge_stores([stores["unit"]], tmp_path / "again")
    grown = extend_index(tmp_path / "i", stores["unit"], again, tmp_path / "i")
    assert json.dumps(grown["neighborhood"]) == json.dumps(meta["neighborhood"])


@pytest.mark.parametrize("hop", [[], [1, 1], [2, 1], [0, 1], [1, True], ["1"], "12", None])
def test_wrong_hops_are_named(hop):
    with pytest.raises(ArragError, match="neighborhood: hop: found .*; use a whole number"):
        Neighborhood("causal", hop)
    assert Neighborhood("causal", [2]).hop == 2
