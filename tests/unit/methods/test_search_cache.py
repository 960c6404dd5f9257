"""What a search found is kept: the same as searching, and not searched again."""

import numpy as np
import pytest
import torch

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods import search_cache
from arrag.methods.search_cache import SearchCache
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import MismatchError

GRID, CODES, K = (5, 6), 4, 7


@pytest.fixture(scope="module", params=["skip", "zero"])
def index(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    rng = np.random.default_rng(0)
    with StoreWriter(
        folder / "codes", tokenizer_digest="t", grid=GRID, source="random", shard_size=8,
        codebook=rng.standard_normal((CODES, 3)).astype(np.float32),
    ) as writer:  # fmt: skip
        grids = rng.integers(0, CODES, (20, *GRID)).astype(np.uint16)
        writer.add([str(i) for i in range(20)], grids)
    store = TokenStore.open(folder / "codes")
    around = Neighborhood("causal", border=request.param)
    build_index(store, folder / "index", neighborhood=around, mode="exact", progress=False)
    return open_index(folder / "index", store)


def steps(seed):
    """A raster decoder's questions: codes, what is known, and the position."""
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(0, CODES, (3, *GRID)))
    for position in range(GRID[0] * GRID[1]):
        known = torch.zeros_like(codes, dtype=torch.bool)
        known.flatten(1)[:, :position] = True
        yield codes, known, torch.tensor([position])


@pytest.mark.parametrize("room", [search_cache.ROOM, 10])
def test_it_is_what_a_search_finds(index, room, monkeypatch):
    monkeypatch.setattr(search_cache, "ROOM", room)
    kept = SearchCache(index, K)
    for seed in (0, 1, 0):
        for step in steps(seed):
            distances, codes = kept.search(*step)
            found = index.search(*step, K)
            assert torch.equal(distances, found.distances) and torch.equal(codes, found.codes)


def test_what_is_known_is_not_searched_again(index, monkeypatch):
    kept = SearchCache(index, K)
    first = [kept.search(*step) for step in steps(0)]
    monkeypatch.setattr(index, "search_keys", None)
    again = [kept.search(*step) for step in steps(0)]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    with pytest.raises(TypeError):
        for step in steps(1):
            kept.search(*step)


def test_another_grid_is_refused(index):
    codes = torch.zeros(1, 3, 3, dtype=torch.long)
    with pytest.raises(MismatchError):
        SearchCache(index, K).search(codes, codes.bool(), torch.tensor([4]))
