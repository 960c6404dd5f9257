"""Inverted lists on disk: building, extending and reading them.

FAISS trains the coarse centroids and assigns the entries to lists; nothing else of it is used. The
lists hold the codes of the neighbours, not vectors::

    centroids.npy  float32 [nlist, n * d]
    offsets.npy    int64 [nlist + 1]
    lists.npy      uint16 [E, n + 1]: codes of the neighbours (V off the grid), then of the patch
    ids.npy        uint32 or uint64 [E]: entries, ascending within a list
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from tqdm import tqdm

from arrag.data.token_store import TokenStore
from arrag.retrieval.base import BuildOptions, Fields
from arrag.retrieval.faiss_index import (
    TRAINING_POINTS,
    in_threads,
    nearest_centroid,
    one_thread,
    train_centroids,
)
from arrag.retrieval.keys import KeyExtractor, release
from arrag.retrieval.meta import REBUILD, IndexMeta, describe_files
from arrag.utils.errors import FormatError, UsageError
from arrag.utils.readers import read_npy

FILES = ("centroids.npy", "offsets.npy", "lists.npy", "ids.npy")
RELEASE_ENTRIES = 2**20
"""Entries placed before the pages of the lists are let go."""
CHECKED_ROWS = 2**20
"""Of the lists, checked together."""


class Lists(NamedTuple):
    """The four files, memory-mapped."""

    centroids: np.ndarray
    offsets: np.ndarray
    codes: np.ndarray
    ids: np.ndarray


def build_lists(extractor: KeyExtractor, path: Path, options: BuildOptions) -> Fields:
    """Train the centroids and write the four files; return the further fields of ``meta.json``.

    Without ``nlist`` there are 1.8 √entries lists, which keeps the recall at nprobe 32 about
    constant from 0.4 to 10 million entries. The same store, seed and version of FAISS give the same
    bytes. Memory holds one shard of the store and the training sample, which grows with √entries.
    """
    nlist, nprobe, seed = options.nlist, options.nprobe, options.seed
    entries = len(extractor.store) * len(extractor.positions)
    if nlist is None:
        nlist = max(1, min(round(1.8 * entries**0.5), entries // 39))
    if not 1 <= nlist <= entries or nprobe < 1:
        raise UsageError(
            f"nlist is {nlist} and nprobe {nprobe} for {entries} entries",
            field="nlist" if nprobe >= 1 else "nprobe",
            hint="use 1 <= nlist <= entries and nprobe >= 1",
        )
    with one_thread():
        sample = extractor.sample(min(entries, TRAINING_POINTS * nlist), seed)
        centroids = train_centroids(extractor.vectors(sample), nlist, seed)
    fields = {"nlist": nlist, "nprobe": min(nprobe, nlist), "seed": seed}
    fields["trained_images"] = len(extractor.store)
    return fields | write_lists(extractor, path, centroids, options.progress)


def write_lists(
    extractor: KeyExtractor,
    path: Path,
    centroids: np.ndarray,
    progress: bool,
    old: tuple[int, Lists] | None = None,
) -> Fields:
    """Assign the entries to centroids float32 [nlist, n * d] and write the four files.

    old: how many images, the first ones, are in the lists of an earlier index with these centroids;
    they are copied. Returns the further fields of ``meta.json``.
    """
    np.save(path / "centroids.npy", centroids)
    first, lists = old or (0, None)
    kept = np.zeros(len(centroids), np.int64) if lists is None else np.diff(lists.offsets)
    scratch = path / "assigned.tmp"
    assigned, added = _assign(extractor, centroids, scratch, first, progress)
    sizes = kept + added
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)  # [nlist + 1]
    np.save(path / "offsets.npy", offsets)
    rows, n = int(offsets[-1]), extractor.around.shape[1]
    codes = allocated(path / "lists.npy", np.dtype(np.uint16), (rows, n + 1))
    ids = allocated(path / "ids.npy", _id_type(extractor.store), (rows,))
    if lists is not None:
        for start, stop, to in zip(lists.offsets, lists.offsets[1:], offsets, strict=False):
            codes[to : to + stop - start] = lists.codes[start:stop]
            ids[to : to + stop - start] = lists.ids[start:stop]
            release(codes, ids, lists.codes, lists.ids)
    fill(extractor, assigned, offsets[:-1] + kept, first, codes, ids, progress)
    codes.flush()
    ids.flush()
    del assigned
    scratch.unlink(missing_ok=True)
    return {
        # 1 when all lists are equal; expected entries in a probed list over the mean size.
        "imbalance": float(len(sizes) * (sizes.astype(float) ** 2).sum() / sizes.sum() ** 2),
        "empty_lists": int((sizes == 0).sum()),
        "largest_list": int(sizes.max()),
        "bytes_per_patch": codes.itemsize * codes.shape[1],  # what a search scans
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
    if not entries:  # an empty file cannot be mapped
        return np.empty(0, np.uint32), sizes
    assigned = allocated(scratch, np.dtype(np.uint32), (entries,))
    done = 0
    lists = in_threads(
        lambda grids: nearest(extractor.vectors(extractor.keys(grids))),
        (grids for _, grids in extractor.chunks(first)),
    )
    with tqdm(total=entries, desc="assign", unit="patch", disable=not progress) as bar:
        for here in lists:
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
    codes: np.ndarray,
    ids: np.ndarray,
    progress: bool,
) -> None:
    """Counting sort of the entries by list; within a list they stay in ascending order.

    Args:
        extractor: Of the keys.
        assigned: The list of each entry from image ``first`` on.
        following: int64 [nlist], the next free row of each list; updated.
        first: The first image.
        codes, ids: uint16 [E, n + 1] and [E], filled.
        progress: Whether to show a progress bar.
    """
    done = 0
    with tqdm(total=len(assigned), desc="fill", unit="patch", disable=not progress) as bar:
        for image, grids in extractor.chunks(first):
            flat = grids.reshape(len(grids), -1)
            here = assigned[done : done + len(flat) * len(extractor.positions)]
            positions, around = extractor.positions, extractor.around
            _place(flat, image, positions, around, extractor.codes, here, following, codes, ids)
            done += len(here)
            bar.update(len(here))
            if done // RELEASE_ENTRIES > (done - len(here)) // RELEASE_ENTRIES:
                release(codes, ids, assigned)


@njit(cache=True, nogil=True)
def _place(grids, first, positions, around, missing, assigned, following, codes, ids):
    """Append the entries of images ``first`` and following, uint16 [m, N], to their lists."""
    size, n = grids.shape[1], around.shape[1]
    e = 0
    for m in range(len(grids)):
        for p in range(len(positions)):
            row = following[assigned[e]]
            following[assigned[e]] += 1
            e += 1
            for i in range(n):
                neighbor = around[p, i]
                codes[row, i] = missing if neighbor < 0 else grids[m, neighbor]
            codes[row, n] = grids[m, positions[p]]
            ids[row] = (first + m) * size + positions[p]


def read_lists(path: Path, store: TokenStore, meta: IndexMeta) -> Lists:
    """Open the four files. Raises FormatError unless they have the shapes that a search needs."""
    n, dimension = len(meta.neighborhood.offsets), store.codebook.shape[1]
    nlist, entries = meta.nlist, meta.entries
    expected = (
        ("<f4", (nlist, n * dimension)),
        ("<i8", (nlist + 1,)),
        ("<u2", (entries, n + 1)),
        (_id_type(store), (entries,)),
    )

    def check(valid: bool, name: str, problem: str) -> None:
        if not valid:
            raise FormatError(problem, path=path / name, hint=REBUILD)

    found = []
    for name, (dtype, shape) in zip(FILES, expected, strict=True):
        array = np.asarray(read_npy(path / name, REBUILD, "fiu", len(shape)))
        wanted = f"expected {np.dtype(dtype)} {list(shape)}"
        is_it = array.dtype == dtype and array.shape == shape
        check(is_it, name, f"holds {array.dtype} {list(array.shape)}, {wanted}")
        found.append(array)
    lists = Lists(*found)
    check(np.isfinite(lists.centroids).all(), FILES[0], "holds numbers that are not finite")
    offsets = lists.offsets
    divided = offsets[0] == 0 and offsets[-1] == entries and (np.diff(offsets) >= 0).all()
    check(divided, FILES[1], f"does not divide {entries} entries into lists")
    return lists


def check_lists(path: Path, store: TokenStore, lists: Lists) -> None:
    """Raise FormatError for a code outside the codebook, or an entry outside the store."""
    codes, entries = len(store.codebook), len(store) * store.grid[0] * store.grid[1]
    for first in range(0, len(lists.ids), CHECKED_ROWS):
        rows, ids = (part[first : first + CHECKED_ROWS] for part in (lists.codes, lists.ids))
        if rows[:, :-1].max() > codes or rows[:, -1].max() >= codes or ids.max() >= entries:
            raise FormatError(
                "holds codes or entries that the store does not have", path=path, hint=REBUILD
            )


def _id_type(store: TokenStore) -> np.dtype:
    largest = len(store) * store.grid[0] * store.grid[1]
    return np.dtype(np.uint32 if largest <= 2**32 else np.uint64)


def allocated(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """Create a .npy file to write through a memory map, its blocks reserved.

    A full disk is then an OSError here; without it, a later write would kill the process (SIGBUS).
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array
