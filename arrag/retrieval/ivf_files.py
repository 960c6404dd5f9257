"""The four files of inverted lists, looked at before a kernel, which does not look, reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arrag.data.token_store import TokenStore
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import ArragError
from arrag.utils.readers import read_npy

FILES = ("centroids.npy", "offsets.npy", "lists.npy", "ids.npy")
AGAIN = "build the index again"
ROWS = 2**20
"""Of the lists, looked at together."""


def read_lists(path: Path, index: PatchIndex) -> tuple[np.ndarray, ...]:
    """The four files, of the shapes that the kernels rely on. ArragError for others."""
    n, dimension = len(index.neighborhood.offsets), index.store.codebook.shape[1]
    lists, rows = index.meta["nlist"], index.meta["entries"]
    wanted = (("<f4", (lists, n * dimension)), ("<i8", (lists + 1,)), ("<u2", (rows, n + 1)))
    wanted += ((id_type(index.store), (rows,)),)
    found = []
    for name, (dtype, shape) in zip(FILES, wanted, strict=True):
        array = read_npy(path / name, AGAIN, "fiu", len(shape))
        if array.dtype != dtype or array.shape != shape:
            raise ArragError(
                f"{path / name}: holds {array.dtype} {list(array.shape)}, expected "
                f"{np.dtype(dtype)} {list(shape)}; {AGAIN}"
            )
        found.append(np.asarray(array))
    if not np.isfinite(found[0]).all():
        raise ArragError(f"{path / FILES[0]}: holds what is no number; {AGAIN}")
    offsets = found[1]
    if offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
        raise ArragError(f"{path / FILES[1]}: does not cut {rows} entries into lists; {AGAIN}")
    return tuple(found)


def check_contents(store: TokenStore, lists: np.ndarray, ids: np.ndarray) -> None:
    """ArragError for a code outside the codebook, or an entry outside the store; reads all."""
    codes, entries = len(store.codebook), len(store) * store.grid[0] * store.grid[1]
    for first in range(0, len(lists), ROWS):
        rows, numbers = lists[first : first + ROWS], ids[first : first + ROWS]
        if rows[:, :-1].max() > codes or rows[:, -1].max() >= codes or numbers.max() >= entries:
            raise ArragError(
                f"index of {store.path}: its lists hold codes or entries that the store has not; "
                f"{AGAIN}"
            )


def id_type(store: TokenStore) -> np.dtype:
    largest = len(store) * store.grid[0] * store.grid[1]
    return np.dtype(np.uint32 if largest <= 2**32 else np.uint64)
