"""Inverted lists that hold the neighbours' codes inline; distances stay exact.

FAISS trains the coarse centroids and assigns the entries to lists; nothing else of it is used. A
search scans the ``nprobe`` nearest lists, 2 (n + 1) bytes an entry; the entries' numbers are in a
file of their own, read only for entries that get among the nearest.

    centroids.npy  float32 [nlist, n * d]
    offsets.npy    int64 [nlist + 1]
    lists.npy      uint16 [E, n + 1]: codes of the neighbours (V off the grid), then of the patch
    ids.npy        uint32 or uint64 [E]: entries, ascending within a list
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from tqdm import tqdm

from arrag.data.token_store import TokenStore
from arrag.retrieval.base import Heap, PatchIndex, check_files, describe_files, empty_heap
from arrag.retrieval.distances import LARGEST, empty_found, rerank_exact
from arrag.retrieval.faiss_index import (
    TRAINING_POINTS,
    in_threads,
    nearest_centroid,
    one_thread,
    train_centroids,
)
from arrag.retrieval.ivf_files import AGAIN, FILES, id_type, read_lists
from arrag.retrieval.ivf_lists import CHUNK, nearest_lists, read_rows, scan_lists
from arrag.retrieval.keys import KeyExtractor, release
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.utils.errors import ArragError
from arrag.utils.readers import read_npy

RELEASE_ENTRIES = 2**20
"""Entries placed before the pages of the lists are let go."""
ROOM = 8 * CHUNK
"""Entries noted before they are measured."""


class IvfIndex(PatchIndex):
    """Search the ``nprobe`` lists nearest to a query; offsets, lists, ids: memory-mapped."""

    def __init__(
        self, store: TokenStore, meta: dict[str, Any], path: Path, nprobe: int | None
    ) -> None:
        super().__init__(store, meta)
        check_files(path, meta)
        centroids, self.offsets, self.lists, self.ids = read_lists(path, self)
        self._nearby = np.ascontiguousarray(centroids)  # float32 [nlist, n * d]
        self._centroids = np.ascontiguousarray(centroids.T)  # [n * d, nlist]
        # Four codes at a time (little-endian), as the rows are no multiple of eight bytes.
        rows, width = self.lists.shape
        shape, strides = (rows, width // 4), (2 * width, 8)
        self._words = np.ndarray(shape, np.dtype("<u8"), self.lists, strides=strides)
        # An entry's list is that of the nearest centroid but for the rounding of FAISS's products:
        # D 2^-24 |x|² or so each, for two centroids.
        longest = len(self.neighborhood.offsets) * float((self._vectors**2).sum(axis=0).max())
        self._tolerance = 16 * centroids.shape[1] * 2.0**-24 * longest
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
        probes, near, tolerance = self._probes(keys)
        rows, slots, keys = self._rows(keys)
        heap = empty_heap(len(keys), k)
        self._scan_probes(probes, near, tolerance, rows, slots, keys, heap)
        return heap

    def _probes(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nearest lists of queries int64 [Q, n], their distances, and the tolerance [Q] of them."""
        counts = np.ones(keys.shape, bool)
        if self.neighborhood.masked_distance:
            counts = keys != MISSING
        tolerance = np.where(counts.all(axis=1), self._tolerance, -1.0)
        counts = np.repeat(counts, self._points.shape[1], axis=1)
        vectors = self._points[keys].reshape(len(keys), -1)  # MISSING = -1 reads the last, zero
        found = nearest_lists(self._centroids, vectors, counts, self.nprobe)
        return *found, tolerance

    def _scan_probes(self, probes, near, tolerance, rows, slots, keys, heap) -> np.ndarray:
        """Scan the probed lists; see ``scan_lists``. Returns how many rows of lists: int64 [Q]."""
        count, k = heap[0].shape
        at, found = np.zeros(3, np.int64), empty_found(ROOM, keys.shape[1])
        limits, scanned = np.full(count, LARGEST, np.int32), np.zeros(count, np.int64)
        last = np.full(count, np.iinfo(np.int64).max)
        state = limits, np.full((count, k), LARGEST, np.int32), scanned, last
        while at[0] < count:
            noted = scan_lists(
                (self.lists.reshape(-1), self._words),
                self.ids,
                self.offsets,
                at,
                (self._nearby, probes, near, tolerance),
                self._unit,
                rows,
                slots,
                state,
                found[:3],
                self._error,
            )
            noted = read_rows(found, noted, limits, self.lists, self.ids)
            rerank_exact(found, noted, limits, keys, self._points, self._scale, heap)
            # Once k entries are at distance zero, later ones lose every tie.
            full = heap[0][:, 0] == 0
            last[full] = heap[1][full, 0]
        return scanned


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
    shard of the store and the training sample, which grows with √entries. Raises ArragError for
    nlist or nprobe out of range.
    """
    if nlist is None:
        nlist = max(1, min(round(1.8 * entries**0.5), entries // 39))
    if not 1 <= nlist <= entries or nprobe < 1:
        raise ArragError(
            f"index: nlist is {nlist} and nprobe {nprobe} for {entries} entries; "
            "use 1 <= nlist <= entries and nprobe >= 1"
        )
    extractor = KeyExtractor(store, neighborhood)
    with one_thread():
        sample = extractor.sample(min(entries, TRAINING_POINTS * nlist), seed)
        centroids = train_centroids(extractor.vectors(sample), nlist, seed)
    options = {"nlist": nlist, "nprobe": min(nprobe, nlist), "seed": seed}
    options["trained_images"] = len(store)
    return options | _write_lists(extractor, path, centroids, None, progress)


def extend_lists(
    store: TokenStore, path: Path, old: IvfIndex, old_path: Path, *, progress: bool
) -> dict[str, Any]:
    """Write the four files for a store that goes on where the old index's ends.

    The centroids stay, so the result is that of assigning all entries to them at once; only the
    new images are assigned. Returns what ``meta.json`` says.
    """
    kept = {field: old.meta[field] for field in ("nlist", "nprobe", "seed", "trained_images")}
    centroids = np.array(read_npy(old_path / "centroids.npy", AGAIN, "f", 2))
    return kept | _write_lists(
        KeyExtractor(store, old.neighborhood), path, centroids, old, progress
    )


def _write_lists(
    extractor: KeyExtractor, path: Path, centroids: np.ndarray, old: IvfIndex | None, progress: bool
) -> dict[str, Any]:
    """Assign the images that the old index lacks and write all lists; memory: one shard."""
    np.save(path / "centroids.npy", centroids)
    first = 0 if old is None else old.meta["images"]
    kept = np.zeros(len(centroids), np.int64) if old is None else np.diff(old.offsets)
    scratch = path / "assigned.tmp"
    assigned, added = _assign(extractor, centroids, scratch, first, progress)
    sizes = kept + added
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)  # [nlist + 1]
    np.save(path / "offsets.npy", offsets)
    rows, n = int(offsets[-1]), extractor.around.shape[1]
    lists = allocated(path / "lists.npy", np.dtype(np.uint16), (rows, n + 1))
    ids = allocated(path / "ids.npy", id_type(extractor.store), (rows,))
    if old is not None:
        for start, stop, to in zip(old.offsets, old.offsets[1:], offsets, strict=False):
            lists[to : to + stop - start] = old.lists[start:stop]
            ids[to : to + stop - start] = old.ids[start:stop]
            release(lists, ids, old.lists, old.ids)
    fill(extractor, assigned, offsets[:-1] + kept, first, lists, ids, progress)
    lists.flush()
    ids.flush()
    del assigned
    scratch.unlink(missing_ok=True)
    return _describe(path, sizes)


def _describe(path: Path, sizes: np.ndarray) -> dict[str, Any]:
    """What ``meta.json`` says of the lists; sizes: int64 [nlist]."""
    lists, ids = (
        np.load(path / name, mmap_mode="r", allow_pickle=False) for name in ("lists.npy", "ids.npy")
    )
    return {
        # 1 when all lists are equal; expected entries in a probed list over the mean size.
        "imbalance": float(len(sizes) * (sizes.astype(float) ** 2).sum() / sizes.sum() ** 2),
        "empty_lists": int((sizes == 0).sum()),
        "largest_list": int(sizes.max()),
        "bytes_per_patch": lists.itemsize * lists.shape[1],  # what a search scans
        "id_bytes_per_patch": ids.itemsize,
        "files": describe_files(path, FILES),
    }


def _assign(
    extractor: KeyExtractor, centroids: np.ndarray, scratch: Path, first: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """List of each entry from image ``first`` on: uint32 [E], on disk; entries a list [nlist]."""
    nearest = nearest_centroid(centroids)
    entries = (len(extractor.store) - first) * len(extractor.positions)
    sizes = np.zeros(len(centroids), np.int64)
    if not entries:  # nothing can be mapped
        return np.empty(0, np.uint32), sizes
    assigned = allocated(scratch, np.dtype(np.uint32), (entries,))
    done = 0

    def lists_of(grids: np.ndarray) -> np.ndarray:
        return nearest(extractor.vectors(extractor.keys(grids)))

    chunks = (grids for _, grids in extractor.chunks(first))
    with tqdm(total=entries, desc="assign", unit="patch", disable=not progress) as bar:
        for here in in_threads(lists_of, chunks):
            assigned[done : done + len(here)] = here
            sizes += np.bincount(here, minlength=len(sizes))
            done += len(here)
            bar.update(len(here))
    release(assigned)
    return assigned, sizes


def fill(
    extractor: KeyExtractor,
    assigned: np.ndarray,
    following: np.ndarray,
    first: int,
    lists: np.ndarray,
    ids: np.ndarray,
    progress: bool,
) -> None:
    """Counting sort of the entries by list; within a list they stay in ascending order.

    following: next free row of each list, int64 [nlist], updated.
    """
    done = 0
    with tqdm(total=len(assigned), desc="fill", unit="patch", disable=not progress) as bar:
        for image, grids in extractor.chunks(first):
            flat = grids.reshape(len(grids), -1)
            here = assigned[done : done + len(flat) * len(extractor.positions)]
            _place(
                flat,
                image,
                extractor.positions,
                extractor.around,
                extractor.codes,
                here,
                following,
                lists,
                ids,
            )
            done += len(here)
            bar.update(len(here))
            if done // RELEASE_ENTRIES > (done - len(here)) // RELEASE_ENTRIES:
                release(lists, ids, assigned)


@njit(cache=True, nogil=True)
def _place(grids, first, positions, around, missing, assigned, following, lists, ids):
    """Append the entries of images ``first`` and following, uint16 [m, N], to their lists."""
    size, n = grids.shape[1], around.shape[1]
    e = 0
    for m in range(len(grids)):
        for p in range(len(positions)):
            row = following[assigned[e]]
            following[assigned[e]] += 1
            e += 1
            for i in range(n):
                source = around[p, i]
                lists[row, i] = missing if source < 0 else grids[m, source]
            lists[row, n] = grids[m, positions[p]]
            ids[row] = (first + m) * size + positions[p]


def allocated(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file to write through a memory map, its blocks reserved.

    Without that a full disk would kill the process at some later write (SIGBUS); with it, it is
    an OSError here.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array
