"""Pairs, a database and what they retrieve, for the tests of training."""

import pytest

from arrag.data.encode import encode_source
from arrag.data.token_store import TokenStore
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.training.neighbours import retrieve_neighbours
from arrag.training.pairs import Pairs, make_pairs

IMAGES, COUNT, HELD_OUT, K = 30, 16, 3, 5


@pytest.fixture(scope="package")
def pairs(tmp_path_factory, micro_janus, assets):
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    make_pairs(
        "micro:database", micro_janus, out, count=COUNT, held_out=HELD_OUT, first_held_out=IMAGES,
        assets=assets,
    )  # fmt: skip
    return Pairs.open(out)


@pytest.fixture(scope="package")
def index(tmp_path_factory, micro_janus, assets):
    folder = tmp_path_factory.mktemp("database")
    encode_source("micro:database", micro_janus, folder / "codes", limit=IMAGES, assets=assets)
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), mode="exact")
    return open_index(folder / "index", store)


@pytest.fixture(scope="package")
def retrieved(tmp_path_factory, pairs, index):
    out = tmp_path_factory.mktemp("neighbours") / "out"
    retrieve_neighbours(pairs, index, out, K)
    return out
