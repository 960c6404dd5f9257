"""Verify an index: checksums of every file, and recall against the exact scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.data.store_format import check_codes
from arrag.data.token_store import TokenStore
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.exact import ExactIndex
from arrag.retrieval.index import open_index
from arrag.retrieval.keys import KeyExtractor, key_vectors
from arrag.retrieval.meta import check_files
from arrag.retrieval.neighborhood import MISSING
from arrag.utils.errors import UsageError

TIE = 1e-5
"""Relative; an entry as near as the exact k-th one counts as found, whichever came first."""


def verify_index(
    path: str | Path,
    codes: str | Path,
    *,
    queries: int = 64,
    k: int = 50,
    nprobe: int | None = None,
    known: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Read every byte of store and index, then search for the neighbourhoods of random patches.

    Args:
        path, codes: Folders of the index and of its store.
        queries, seed: How many random patches, and the seed of the random choices.
        k: Entries to find.
        nprobe: Lists to visit instead of the stored number.
        known: Share of the neighbours that a query knows, chosen at random; masked decoding asks
            with half-known neighbourhoods.

    Returns:
        ``recall``: the share of the k entries found that are as near as the k nearest of an exact
        scan. ``retrieved_border_share``: the share of the entries found whose neighbourhood leaves
        the grid, to compare with ``border_share``, that of all entries: without
        ``masked_distance`` an unknown neighbour draws a query to the border. Both are None in mode
        official, whose entries are not the store's.

    Raises:
        ArragError: The first file that is not what its manifest says, or another store.
    """
    if not 0 < known <= 1:
        raise UsageError(f"found {known}", field="known", hint="use a share above 0, at most 1")
    store = TokenStore.open(codes, verify=True)
    index = open_index(path, store, nprobe=nprobe)
    check_files(Path(path), index.meta.files, digests=True)
    for shard in store.shards:
        check_codes(shard, len(store.codebook), store.path)
    index.check_contents()
    result = {
        "mode": index.meta.mode,
        "entries": index.meta.entries,
        "files": 2 * len(store.shards) + 1 + len(index.meta.files),
        "border_share": index.meta.border_share,
    }
    if index.meta.mode == "official":
        nothing = dict.fromkeys(("k", "recall", "retrieved_border_share"))
        return {**result, "queries": 0, **nothing}
    k, queries = (min(value, index.meta.entries) for value in (k, queries))
    extractor = KeyExtractor(store, index.neighborhood)
    keys = extractor.sample(queries, seed).astype(np.int64)  # [Q, n]
    keys[keys == extractor.codes] = MISSING
    keys = forget_neighbors(index, keys, known, seed)
    found = index.search_keys(torch.from_numpy(keys), k).entries.numpy()  # [Q, k]
    return {
        **result,
        "queries": queries,
        "k": k,
        "recall": recall(index, keys, k, found),
        "retrieved_border_share": border_share(index, found),
    }


def nearest_patches(index: PatchIndex, image: int, row: int, column: int, k: int) -> dict[str, Any]:
    """Search with the full neighbourhood of a stored patch, which is found at distance 0.

    Args:
        index: The index to search.
        image, row, column: The patch, all from 0.
        k: Patches to return.

    Returns:
        ``nearest``, best first: distance, code, entry, and the image's name, row and column if the
        index knows them; and ``border_share``.

    Raises:
        UsageError: ``image``, ``row`` or ``column`` is out of range.
    """
    store, (rows, columns) = index.store, index.store.grid
    limits = (("image", image, len(store)), ("row", row, rows), ("col", column, columns))
    for name, value, size in limits:
        if not 0 <= value < size:
            raise UsageError(f"found {value}", field=f"--{name}", hint=f"give 0 to {size - 1}")
    codes = torch.from_numpy(store.grids(np.array([image])).astype(np.int64))  # [1, H, W]
    position = torch.tensor([row * columns + column])  # [P=1]
    hits = index.search(codes, torch.ones_like(codes, dtype=torch.bool), position, k)
    parts = (part[0, 0].tolist() for part in (hits.distances, hits.codes, hits.entries))
    located = index.meta.mode != "official"  # whose files do not say of which image an entry is
    nearest = []
    for distance, code, entry in zip(*parts, strict=True):
        if entry < 0:  # fewer than k were found
            break
        found = {"distance": round(distance, 6), "code": code, "entry": entry}
        if located:
            other, flat = divmod(entry, rows * columns)
            found |= {"key": store.keys(other), "row": flat // columns, "col": flat % columns}
        nearest.append(found)
    share = {"border_share": border_share(index, hits.entries.numpy())} if located else {}
    return {**share, "nearest": nearest}


def border_share(index: PatchIndex, entries: np.ndarray) -> float | None:
    """Share of some entries, absent ones left out, whose neighbourhood leaves the grid."""
    height, width = index.store.grid
    held = entries[entries >= 0]
    if not held.size:
        return None
    return float(index.neighborhood.boundary_mask(height, width)[held % (height * width)].mean())


def forget_neighbors(index: PatchIndex, keys: np.ndarray, known: float, seed: int) -> np.ndarray:
    """Keys int64 [Q, n] that know a share of their neighbours, at least one each.

    A neighbour that a composite key repeats is known everywhere or nowhere.
    """
    rng, steps = np.random.default_rng(seed), np.array(index.neighborhood.offsets)
    _, places = np.unique(steps, axis=0, return_inverse=True)
    chance = rng.random((len(keys), places.max() + 1))
    kept = (chance < known) | (chance == chance.min(axis=1, keepdims=True))
    return np.where(kept[:, places.reshape(-1)], keys, MISSING)


def recall(index: PatchIndex, keys: np.ndarray, k: int, found: np.ndarray | None = None) -> float:
    """Share of the k nearest to keys int64 [Q, n] that an index finds.

    found: int64 [Q, k], the entries that it finds, if they are known already.
    """
    queries = torch.from_numpy(keys)
    # nprobe is of the lists, which the exact scan has not.
    exact = ExactIndex(index.store, index.meta.model_copy(update={"nprobe": None, "files": {}}))
    farthest = exact.search_keys(queries, k).distances[:, -1:].numpy()  # [Q, 1]
    if found is None:
        found = index.search_keys(queries, k).entries.numpy()
    distances = distances_to(index, keys, found)
    return float((distances <= farthest * (1 + TIE) + 1e-9).mean())


def distances_to(index: PatchIndex, keys: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Squared L2 of keys int64 [Q, n] to entries int64 [Q, k]: float64, +inf where absent."""
    store, neighborhood = index.store, index.neighborhood
    images, positions = np.divmod(np.maximum(entries, 0), store.grid[0] * store.grid[1])
    distinct, rows = np.unique(images, return_inverse=True)
    flat = store.grids(distinct).reshape(len(distinct), -1).astype(np.int64)
    around = neighborhood.neighbor_index(*store.grid)[positions]  # [Q, k, n]
    held = np.where(around == MISSING, MISSING, flat[rows.reshape(images.shape)[..., None], around])
    distances = np.empty(entries.shape)
    for q, key in enumerate(keys):
        steps = key_vectors(store.codebook, held[q]) - key_vectors(store.codebook, key[None])
        steps = steps.reshape(*held[q].shape, -1).astype(np.float64)  # [k, n, d]
        if neighborhood.masked_distance:
            steps[:, key == MISSING] = 0
        distances[q] = (steps**2).sum(axis=(1, 2))
    distances[entries < 0] = np.inf
    return distances
