"""What the positions of training images retrieve: never their own image."""

import numpy as np
import pytest
import torch
from refusals import refused

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.training.neighbours import Neighbours, nearest_others, own_images, retrieve_neighbours
from arrag.utils.errors import MismatchError, MissingError, UsageError
from arrag.utils.shards import JobPart

K = 5


def without(store, images, path):
    """A copy of a store that lacks some images."""
    kept = np.setdiff1d(np.arange(len(store)), images)
    return written(store, [store.keys(int(i)) for i in kept], store.grids(kept), path)


def written(like, keys, grids, path):
    """A store of the same tokenizer with other images."""
    with StoreWriter(
        path, tokenizer_digest=like.tokenizer_digest, grid=like.grid, codebook=like.codebook,
        source="copy", shard_size=100,
    ) as writer:  # fmt: skip
        writer.add(keys, grids)
    return TokenStore.open(path)


def test_an_image_does_not_retrieve_itself(pairs, index, retrieved, tmp_path):
    """The same as a search of a database that lacks the image."""
    found = Neighbours(retrieved, pairs, K, index.digest)
    everything = torch.arange(144)
    for pair in (0, 3, int(pairs.held_out[0])):
        own = own_images(pairs.store, index.store)(pair)
        assert len(own) == (pair in pairs.train)  # held-out ones are not in the database
        rest = without(index.store, own, tmp_path / f"codes{pair}")
        out = tmp_path / f"index{pair}"
        build_index(rest, out, neighborhood=Neighborhood("causal"), mode="exact")
        codes = torch.from_numpy(pairs.store.grids(np.array([pair])).astype(np.int64))
        known = torch.ones_like(codes, dtype=torch.bool)
        wanted = open_index(out, rest).search(codes, known, everything, K).codes
        assert torch.equal(found.codes(np.array([pair]), K), wanted)
    # Without the exclusion a training image would retrieve its own code first everywhere.
    codes = torch.from_numpy(pairs.store.grids(np.array([3])).astype(np.int64))
    tempting = index.search(codes, torch.ones_like(codes, dtype=torch.bool), everything, K)
    assert not torch.equal(tempting.codes, found.codes(np.array([3]), K))


def test_copies_under_another_name_are_left_out_too(pairs, index, tmp_path):
    store = index.store
    names, grids = [f"copy/{i}" for i in range(40)], store.grids(np.array([0] * 39 + [1]))
    copies = written(store, names, grids, tmp_path / "codes")
    assert list(own_images(pairs.store, copies)(0)) == list(range(39))
    build_index(copies, tmp_path / "index", neighborhood=Neighborhood("causal"), mode="exact")
    grid = pairs.store.grids(np.array([0]))
    found = nearest_others(
        open_index(tmp_path / "index", copies), grid, [own_images(pairs.store, copies)(0)], K
    )
    other = set(store.grids(np.array([1])).flatten().tolist()) | {65535}
    assert set(found.flatten().tolist()) <= other
    inside = Neighborhood("causal").valid_positions(12, 12).numpy().reshape(-1)
    assert (found[0, inside] != 65535).all()  # k of them although the nearest 4 000 are its own
    assert (found[0, ~inside] == 65535).all()


def test_retrieval_by_parts_is_that_of_one_job(pairs, index, tmp_path):
    """Parts of any number, one of them run twice; killed jobs are the tests' of ShardWriter."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    manifest = retrieve_neighbours(pairs, index, whole, K, shard_images=2)
    for number, count in ((2, 3), (4, 4), (2, 3), (1, 2)):
        retrieve_neighbours(pairs, index, out, K, shard_images=2, part=JobPart(number, count))
        with pytest.raises(MissingError):
            Neighbours(out, pairs, K, index.digest)
    dates = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert 0 < len(dates) < len(manifest["shards"])
    assert retrieve_neighbours(pairs, index, out, K, shard_images=2) == manifest
    assert all(path.stat().st_mtime_ns == date for path, date in dates.items())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_retrieval_of_something_else_is_refused(pairs, index, retrieved, tmp_path):
    with refused(MismatchError, field="index_digest"):
        Neighbours(retrieved, pairs, K, "other")
    with refused(MismatchError, field="k"):
        Neighbours(retrieved, pairs, K + 1, index.digest)
    with refused(MismatchError, field="k"):
        retrieve_neighbours(pairs, index, retrieved, 4)
    with pytest.raises(UsageError):
        retrieve_neighbours(pairs, index, tmp_path / "out", 100_000)
