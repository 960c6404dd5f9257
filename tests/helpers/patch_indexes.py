"""Small token stores and patch indexes, and a brute-force search that knows no compiled loop."""

from pathlib import Path

import numpy as np
import torch

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import MISSING, Neighborhood

_rng = np.random.default_rng(0)
UNIT = _rng.normal(size=(31, 4)).astype(np.float32)
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)
SIGNS = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1], [-1, -1, -1]], np.float32)
"""Few codes: most distances tie, and exactly."""
_turn = np.linspace(0, 3, 64)
CURVE = np.stack([np.cos(_turn), np.sin(_turn)], axis=1).astype(np.float32)
"""Codes near to each other are near in space too: for ``smooth_grids``."""


def make_store(path, grids, codebook, shard_size=5, tokenizer="tok"):
    """A store of grids [n, H, W] whose images are named 0, 1, ..."""
    with StoreWriter(
        path,
        tokenizer_digest=tokenizer,
        grid=grids.shape[1:],
        codebook=codebook,
        source="test",
        shard_size=shard_size,
    ) as writer:
        writer.add([str(i) for i in range(len(grids))], np.asarray(grids, np.uint16))
    return TokenStore.open(path)


def random_store(path, codebook, count=13, grid=(6, 7), seed=0, **options):
    grids = np.random.default_rng(seed).integers(0, len(codebook), (count, *grid))
    return make_store(path, grids, codebook, **options)


def make_index(store, path, neighborhood, **options):
    build_index(store, path, neighborhood=neighborhood, progress=False, **options)
    return open_index(path, store)


def make_patch_index(
    folder: Path,
    grids: np.ndarray,
    codebook: np.ndarray,
    neighborhood: Neighborhood,
    mode: str = "exact",
    tokenizer_digest: str = "tokenizer",
) -> PatchIndex:
    """Store codes [n, H, W] of images named "0", "1", ... in ``folder``, and index them."""
    codebook = np.asarray(codebook, np.float32)
    store = make_store(folder / "codes", grids, codebook, shard_size=8, tokenizer=tokenizer_digest)
    return make_index(store, folder / "index", neighborhood, mode=mode)


def smooth_grids(count, side=12, codes=64, seed=0):
    """Grids whose codes change slowly, as those of images do."""
    rng = np.random.default_rng(seed)
    line = np.linspace(0, 1, side)
    waves = [
        np.sin(6 * (a * line[:, None] + b * line + c)) for a, b, c in rng.normal(size=(count, 3))
    ]
    noise = rng.normal(0, 0.05, (count, side, side))
    return np.clip((np.stack(waves) + 1 + noise) * codes / 2, 0, codes - 1).astype(np.uint16)


def random_queries(neighborhood, codes, count=8, seed=1):
    """Keys int64 [count, n] of which a third of the neighbours are unknown, but never all."""
    rng = np.random.default_rng(seed)
    steps = sorted(set(neighborhood.offsets))  # a composite key repeats some
    known = rng.integers(0, codes, (count, len(steps)))
    known[rng.random(known.shape) < 0.3] = MISSING
    known[:, 0] = rng.integers(0, codes, count)
    return torch.from_numpy(known[:, [steps.index(step) for step in neighborhood.offsets]])


def brute_force(store, neighborhood, query):
    """All entries by (distance, entry): distances float32, entries and own codes int64.

    Written from the definition of the windows; of ``Neighborhood`` it uses the settings, and the
    order of the query's neighbours.
    """
    asked = dict(zip(neighborhood.offsets, query, strict=True))
    hops = neighborhood.hop if isinstance(neighborhood.hop, tuple) else (neighborhood.hop,)
    (height, width), pad, missing = store.grid, max(hops), len(store.codebook)
    book = np.vstack([store.codebook, np.zeros_like(store.codebook[:1])]).astype(np.float64)
    grids = np.concatenate(store.shards).astype(np.int64)
    padded = np.pad(grids, ((0, 0), (pad, pad), (pad, pad)), constant_values=missing)
    total = np.zeros(grids.shape)
    for hop in hops:
        for r in range(-hop, hop + 1):
            for c in range(-hop, hop + 1):
                if (r, c) == (0, 0) or (neighborhood.context == "causal" and (r, c) > (0, 0)):
                    continue
                code = missing if asked[r, c] == MISSING else asked[r, c]
                if code == missing and neighborhood.masked_distance:
                    continue
                held = padded[:, pad + r : pad + r + height, pad + c : pad + c + width]
                total += ((book - book[code]) ** 2).sum(axis=1)[held]
    inside = np.full(grids.shape, neighborhood.border == "zero")
    bottom = height if neighborhood.context == "causal" else height - pad
    inside[:, pad:bottom, pad : width - pad] = True
    entries = np.flatnonzero(inside)
    distances = total.reshape(-1)[entries].astype(np.float32)
    order = np.lexsort((entries, distances))
    return distances[order], entries[order], grids.reshape(-1)[entries[order]]


def check_against_brute_force(index, queries, k):
    """Assert that a search finds what brute force finds, in the same order, bit for bit."""
    found = index.search_keys(queries, k)
    for q, query in enumerate(queries.tolist()):
        want = brute_force(index.store, index.neighborhood, query)
        for name, part in zip(("distances", "entries", "codes"), want, strict=True):
            assert getattr(found, name)[q].tolist() == part[:k].tolist(), name


def assert_same_result(one, other):
    for part in ("distances", "entries", "codes"):
        assert torch.equal(getattr(one, part), getattr(other, part)), part


def files_of(folder):
    """Contents of a folder's files by name, without the list that marks it as arrag's."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".arrag.json"}
