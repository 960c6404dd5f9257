"""Inverted lists that hold the neighbours' codes inline; distances stay exact.

FAISS trains the coarse centroids and assigns the entries to lists; nothing else of it is used, and
no other file imports it. A search scans the ``nprobe`` nearest lists, 2 (n + 1) bytes an entry;
the entries' numbers are in a file of their own, read only for entries that get among the nearest.

    centroids.npy  float32 [nlist, n * d]
    offsets.npy    int64 [nlist + 1]
    lists.npy      uint16 [E, n + 1]: codes of the neighbours (V off the grid), then of the patch
    ids.npy        uint32 or uint64 [E]: entries, ascending within a list
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from arrag.errors import ArragError
from arrag.files import sha256_file
from arrag.index.base import Heap, PatchIndex, empty_heap
from arrag.index.kernels import nearest_lists, scan_lists
from arrag.neighborhood import MISSING, Neighborhood
from arrag.store import TokenStore

FAISS_VERSION = faiss.__version__
FILES = ("centroids.npy", "offsets.npy", "lists.npy", "ids.npy")
KMEANS_ITERATIONS = 10
POINTS_PER_CENTROID = 64
CHUNK_ENTRIES = 65536
SAMPLE_IMAGES = 4096
"""Images held at once while the training sample is gathered."""


class IvfIndex(PatchIndex):
    """Search the ``nprobe`` lists nearest to a query."""

    def __init__(
        self, store: TokenStore, meta: dict[str, Any], path: Path, nprobe: int | None
    ) -> None:
        super().__init__(store, meta)
        for name in FILES:
            _check_file(path / name, meta["files"][name]["bytes"])
        centroids, self._offsets, self._lists, self._ids = (
            np.asarray(np.load(path / name, mmap_mode="r", allow_pickle=False)) for name in FILES
        )
        self._centroids = np.ascontiguousarray(centroids.T)  # [n * d, nlist]
        self.nprobe = meta["nprobe"] if nprobe is None else nprobe
        if not 1 <= self.nprobe <= meta["nlist"]:
            raise ArragError(
                f"index {path}: nprobe is {self.nprobe}, it has {meta['nlist']} lists; "
                "use 1 <= nprobe <= nlist"
            )

    def info(self) -> dict[str, Any]:
        """What the index holds, and the ``nprobe`` that searches really use."""
        return {**super().info(), "nprobe": self.nprobe}

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        tables, rows = self._tables(keys)
        heap = empty_heap(len(keys), k)
        vectors = _key_vectors(self.store.codebook, keys)
        counts = np.ones(keys.shape, bool)
        if self.neighborhood.masked_distance:
            counts = keys != MISSING
        counts = np.repeat(counts, self.store.codebook.shape[1], axis=1)
        probes = nearest_lists(self._centroids, vectors, counts, self.nprobe)
        scan_lists(self._lists, self._ids, self._offsets, probes, tables, rows, heap)
        return heap


def build_lists(
    store: TokenStore,
    path: Path,
    neighborhood: Neighborhood,
    *,
    entries: int,
    nlist: int | None,
    nprobe: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Write the four files into ``path`` and return what ``meta.json`` says of them.

    nlist defaults to 1.8 √entries, which keeps recall at nprobe 32 about constant from 0.4 to
    10 million entries. The same store, seed and version of FAISS give the same bytes. Memory: one
    chunk of entries and the training sample. Raises ArragError for nlist or nprobe out of range.
    """
    if nlist is None:
        nlist = max(1, min(round(1.8 * entries**0.5), entries // 39))
    if not 1 <= nlist <= entries or nprobe < 1:
        raise ArragError(
            f"index: nlist is {nlist} and nprobe {nprobe} for {entries} entries; "
            "use 1 <= nlist <= entries and nprobe >= 1"
        )
    cutter = _Cutter(store, neighborhood)
    with _one_thread():
        centroids = _train(cutter, entries, nlist, seed)
        np.save(path / "centroids.npy", centroids)
        assigned = _assign(cutter, centroids, path / "assigned.tmp", entries, progress)
    sizes = np.bincount(assigned, minlength=nlist)
    np.save(path / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    _fill(cutter, assigned, sizes, path, progress)
    del assigned
    (path / "assigned.tmp").unlink()
    options = {"nlist": nlist, "nprobe": min(nprobe, nlist), "seed": seed}
    return options | _describe(path, sizes)


def _describe(path: Path, sizes: np.ndarray) -> dict[str, Any]:
    """What ``meta.json`` says of the lists; sizes: int64 [nlist]."""
    lists, ids = (np.load(path / name, mmap_mode="r") for name in ("lists.npy", "ids.npy"))
    return {
        # 1 when all lists are equal; expected entries in a probed list over the mean size.
        "imbalance": float(len(sizes) * (sizes.astype(float) ** 2).sum() / sizes.sum() ** 2),
        "empty_lists": int((sizes == 0).sum()),
        "largest_list": int(sizes.max()),
        "bytes_per_patch": lists.itemsize * lists.shape[1],  # what a search scans
        "id_bytes_per_patch": ids.itemsize,
        "files": {
            name: {"bytes": (path / name).stat().st_size, "sha256": sha256_file(path / name)}
            for name in FILES
        },
    }


class _Cutter:
    """Cuts the grids of a store into entries, in ascending order."""

    def __init__(self, store: TokenStore, neighborhood: Neighborhood) -> None:
        self.store, self.codes = store, len(store.codebook)
        self.size = store.grid[0] * store.grid[1]
        self.positions = np.flatnonzero(neighborhood.entries(*store.grid).numpy())  # [E]
        self.around = neighborhood.sources(*store.grid)[self.positions]  # [E, n]

    def keys(self, grids: np.ndarray) -> np.ndarray:
        """Codes of the neighbours: uint16 [m, H, W] -> [m, E, n], V off the grid."""
        flat = np.pad(grids.reshape(-1, self.size), ((0, 0), (0, 1)), constant_values=self.codes)
        return flat[:, self.around]  # MISSING = -1 reads the extra last column

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first image, uint16 [m, H, W]); the cut depends on the store alone."""
        images = max(1, CHUNK_ENTRIES // len(self.positions))
        for shard, start in zip(self.store.shards, self.store.starts, strict=False):
            for m in range(0, len(shard), images):
                yield int(start) + m, np.asarray(shard[m : m + images])

    def vectors(self, keys: np.ndarray) -> np.ndarray:
        """Codes [..., n] -> float32 [Q, n * d]."""
        keys = keys.reshape(-1, keys.shape[-1]).astype(np.int64)
        return _key_vectors(self.store.codebook, np.where(keys == self.codes, MISSING, keys))


def _train(cutter: _Cutter, entries: int, nlist: int, seed: int) -> np.ndarray:
    """Centroids by k-means over a sample: float32 [nlist, n * d]."""
    wanted = min(entries, POINTS_PER_CENTROID * nlist)
    chosen = np.random.default_rng(seed).choice(entries, wanted, replace=False, shuffle=False)
    images, slots = np.divmod(np.sort(chosen), len(cutter.positions))
    distinct, rows = np.unique(images, return_inverse=True)
    keys = np.empty((wanted, cutter.around.shape[1]), np.uint16)
    for start in range(0, len(distinct), SAMPLE_IMAGES):
        here = (rows >= start) & (rows < start + SAMPLE_IMAGES)
        cut = cutter.keys(cutter.store.grids(distinct[start : start + SAMPLE_IMAGES]))
        keys[here] = cut[rows[here] - start, slots[here]]
    sample = cutter.vectors(keys)
    kmeans = faiss.Kmeans(
        sample.shape[1],
        nlist,
        niter=KMEANS_ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )
    kmeans.train(sample)
    return kmeans.centroids.reshape(nlist, -1)


def _assign(
    cutter: _Cutter, centroids: np.ndarray, scratch: Path, entries: int, progress: bool
) -> np.ndarray:
    """List of each entry: uint32 [E], on disk."""
    quantizer = faiss.IndexFlatL2(centroids.shape[1])
    quantizer.add(centroids)
    assigned = np.memmap(scratch, np.uint32, "w+", shape=(entries,))
    done = 0
    with tqdm(total=entries, desc="assign", unit="patch", disable=not progress) as bar:
        for _, grids in cutter.chunks():
            nearest = quantizer.search(cutter.vectors(cutter.keys(grids)), 1)[1][:, 0]
            assigned[done : done + len(nearest)] = nearest
            done += len(nearest)
            bar.update(len(nearest))
    return assigned


def _fill(
    cutter: _Cutter, assigned: np.ndarray, sizes: np.ndarray, path: Path, progress: bool
) -> None:
    """Counting sort of the entries by list; within a list they stay in ascending order."""
    n = cutter.around.shape[1]
    lists = np.lib.format.open_memmap(path / "lists.npy", "w+", np.uint16, (len(assigned), n + 1))
    ids = np.lib.format.open_memmap(
        path / "ids.npy", "w+", _id_type(cutter.store), (len(assigned),)
    )
    following = np.cumsum(sizes) - sizes  # next free row of each list
    done = 0
    with tqdm(total=len(assigned), desc="fill", unit="patch", disable=not progress) as bar:
        for first, grids in cutter.chunks():
            values = grids.reshape(len(grids), -1)[:, cutter.positions]  # [m, E]
            images = np.arange(first, first + len(grids))
            entries = (images[:, None] * cutter.size + cutter.positions).reshape(-1)
            here = np.asarray(assigned[done : done + len(entries)])
            order = np.argsort(here, kind="stable")
            chosen = here[order]
            counts = np.bincount(here, minlength=len(sizes))
            rank = np.arange(len(chosen)) - (np.cumsum(counts) - counts)[chosen]
            rows = following[chosen] + rank
            lists[rows, :n] = cutter.keys(grids).reshape(-1, n)[order]
            lists[rows, n] = values.reshape(-1)[order]
            ids[rows] = entries[order]
            following += counts
            done += len(entries)
            bar.update(len(entries))
    lists.flush()
    ids.flush()


def _key_vectors(codebook: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Concatenated vectors of codes int64 [Q, n], zero where MISSING: float32 [Q, n * d]."""
    padded = np.vstack([codebook, np.zeros_like(codebook[:1])])
    return padded[keys].reshape(len(keys), -1)  # MISSING = -1 reads the extra last row


def _id_type(store: TokenStore) -> np.dtype:
    largest = len(store) * store.grid[0] * store.grid[1]
    return np.dtype(np.uint32 if largest <= 2**32 else np.uint64)


def _check_file(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.exists() else 0
    if found != expected:
        raise ArragError(f"{path}: {found} bytes, meta.json says {expected}; build the index again")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Partial sums of several threads would make the files differ from run to run."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
