"""The keys of a store's entries, chunk by chunk: what FAISS clusters, assigns or indexes."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

from arrag.data.token_store import TokenStore
from arrag.retrieval.neighborhood import MISSING, Neighborhood

CHUNK_ENTRIES = 65536
SAMPLE_IMAGES = 4096
"""Images in memory while a sample is gathered."""
MANY_ENTRIES = 2**20
"""From here on a sample is stratified, to save memory."""


class KeyExtractor:
    """Extract the keys of the entries of a store, in ascending order.

    Attributes:
        positions: int64 [E], flat positions of an image's entries.
        around: int64 [E, n], flat positions of their neighbours, MISSING off the grid.
        codes: Size V of the codebook, which marks a neighbour off the grid.
        size: Positions of a grid.
    """

    def __init__(self, store: TokenStore, neighborhood: Neighborhood) -> None:
        self.store, self.codes = store, len(store.codebook)
        self.size = store.grid[0] * store.grid[1]
        self.positions = np.flatnonzero(neighborhood.valid_positions(*store.grid).numpy())  # [E]
        self.around = neighborhood.neighbor_index(*store.grid)[self.positions]  # [E, n]

    @property
    def dimension(self) -> int:
        """Dimension of a key: n * d."""
        return self.around.shape[1] * self.store.codebook.shape[1]

    def keys(self, grids: np.ndarray) -> np.ndarray:
        """Codes of the neighbours: uint16 [m, H, W] -> [m, E, n], V off the grid."""
        flat = np.pad(grids.reshape(-1, self.size), ((0, 0), (0, 1)), constant_values=self.codes)
        return flat[:, self.around]  # MISSING = -1 reads the extra last column

    def chunks(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(first image, grids uint16 [m, H, W]) from image ``first`` on."""
        images = max(1, CHUNK_ENTRIES // len(self.positions))
        for shard, start in zip(self.store.shards, self.store.starts, strict=False):
            for m in range(max(0, first - int(start)), len(shard), images):
                yield int(start) + m, np.asarray(shard[m : m + images])
            release(shard)

    def vectors(self, keys: np.ndarray) -> np.ndarray:
        """Codes [..., n] -> float32 [Q, n * d]."""
        keys = keys.reshape(-1, keys.shape[-1]).astype(np.int64)
        return key_vectors(self.store.codebook, np.where(keys == self.codes, MISSING, keys))

    def sample(self, wanted: int, seed: int) -> np.ndarray:
        """Codes of the neighbours of random entries, without repeats: uint16 [wanted, n]."""
        entries = len(self.store) * len(self.positions)
        rng = np.random.default_rng(seed)
        if entries > MANY_ENTRIES:  # one of each part: ``choice`` would hold eight bytes an entry
            edges = np.arange(wanted + 1) * entries // wanted
            chosen = rng.integers(edges[:-1], edges[1:])
        else:
            chosen = rng.choice(entries, wanted, replace=False, shuffle=False)
        images, slots = np.divmod(np.sort(chosen), len(self.positions))
        distinct, rows = np.unique(images, return_inverse=True)
        keys = np.empty((wanted, self.around.shape[1]), np.uint16)
        for start in range(0, len(distinct), SAMPLE_IMAGES):
            here = (rows >= start) & (rows < start + SAMPLE_IMAGES)
            cut = self.keys(self.store.grids(distinct[start : start + SAMPLE_IMAGES]))
            keys[here] = cut[rows[here] - start, slots[here]]
            release(*self.store.shards)
        return keys


def key_vectors(codebook: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Concatenated vectors of codes int64 [Q, n], zero where MISSING: float32 [Q, n * d]."""
    padded = np.vstack([codebook, np.zeros_like(codebook[:1])])
    return padded[keys].reshape(len(keys), -1)  # MISSING = -1 reads the extra last row


def release(*arrays: np.ndarray) -> None:
    """Drop the pages of memory-mapped arrays: the memory of a build does not grow with its files.

    Nothing is lost: what was written is in the file, and is mapped again when it is read.
    """
    for array in arrays:
        while isinstance(array, np.ndarray):
            array = array.base
        if isinstance(array, mmap.mmap):
            array.madvise(mmap.MADV_DONTNEED)
