"""Everything that calls FAISS: clustering for the inverted lists, and its indexes for comparison.

``faiss:<factory string>`` indexes the store's keys as FAISS would, ``official`` reads the index
that the authors published. Their distances are FAISS's own, hence approximate where it quantises.

    index.faiss                                   faiss:<factory string>
    faiss_ivf_pq_opq.index, next_codes.npy        official: links to the published files
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from arrag.data.token_store import TokenStore
from arrag.retrieval.base import Heap, PatchIndex, check_files, describe_files
from arrag.retrieval.distances import FAR
from arrag.retrieval.keys import KeyExtractor, key_vectors
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError
from arrag.utils.readers import read_npy
from arrag.utils.resource_errors import NO_SPACE

VERSION = faiss.__version__
PREFIX = "faiss:"
FILE = "index.faiss"
PUBLISHED, PUBLISHED_CODES = "faiss_ivf_pq_opq.index", "next_codes.npy"
KMEANS_ITERATIONS = 10
TRAINING_POINTS = 64
"""A centroid, of the lists or of a product quantiser's 256."""


class FaissIndex(PatchIndex):
    """Search an index of FAISS's own; see the module's head."""

    def __init__(
        self, store: TokenStore, meta: dict[str, Any], path: Path, nprobe: int | None
    ) -> None:
        super().__init__(store, meta)
        check_files(path, meta)
        self._published = meta["mode"] == "official"
        file = path / (PUBLISHED if self._published else FILE)
        self._index = _read(file)
        self._codes = _load_codes(path / PUBLISHED_CODES) if self._published else None
        if self._index.d != KeyExtractor(store, self.neighborhood).dimension or (
            self._index.ntotal != (meta["entries"] if self._codes is None else len(self._codes))
        ):
            raise ArragError(
                f"{file}: holds {self._index.ntotal} entries of {self._index.d} dimensions, not "
                "those of this store; build the index again"
            )
        if nprobe is not None or meta["nprobe"] is not None:
            set_nprobe(self._index, meta["nprobe"] if nprobe is None else nprobe, file)
        self._positions = np.flatnonzero(self._inside.numpy())  # [E]

    def info(self) -> dict[str, Any]:
        """What the index holds, and the ``nprobe`` read back from FAISS (None without lists)."""
        return {**super().info(), "nprobe": get_nprobe(self._index)}

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        vectors = key_vectors(self.store.codebook, keys)
        distances = np.empty((len(keys), k), np.float32)
        found = np.empty((len(keys), k), np.int64)
        for q in range(len(keys)):
            # One at a time: the rounding of FAISS's matrix products depends on the batch.
            distances[q], found[q] = (part[0] for part in self._index.search(vectors[q : q + 1], k))
        entries, codes = self._named(found)
        distances[found < 0] = FAR  # FAISS fills short lists with the largest float
        order = np.lexsort((entries, distances))[:, ::-1]  # descending is a heap
        heap = (distances * np.float32(self._scale), entries, codes)
        return tuple(np.take_along_axis(part, order, axis=1) for part in heap)

    def _named(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """FAISS's numbers [Q, k] -> entries and codes, int64 [Q, k]; -1 stays -1 in both."""
        absent = found < 0
        held = np.where(absent, 0, found)
        if self._codes is not None:
            entries, codes = held, self._codes[held].astype(np.int64)
        else:
            images, slots = np.divmod(held, len(self._positions))
            positions = self._positions[slots]
            rows, columns = np.divmod(positions, self.store.grid[1])
            entries = images * (self.store.grid[0] * self.store.grid[1]) + positions
            distinct, inverse = np.unique(images, return_inverse=True)
            grids = self.store.grids(distinct)
            codes = grids[inverse.reshape(images.shape), rows, columns].astype(np.int64)
        return np.where(absent, -1, entries), np.where(absent, -1, codes)


def build_faiss(
    store: TokenStore,
    path: Path,
    neighborhood: Neighborhood,
    *,
    factory: str,
    nprobe: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Write ``index.faiss`` made by a factory string; returns what ``meta.json`` says of it.

    Raises ArragError for a string FAISS does not know or an index it cannot train.
    """
    _refuse_masked(neighborhood, PREFIX + factory)
    extractor = KeyExtractor(store, neighborhood)
    entries = len(store) * len(extractor.positions)
    try:
        index = faiss.index_factory(extractor.dimension, factory)
        inner = faiss.try_extract_index_ivf(index)
        if inner is not None:
            inner.cp.seed = seed
        with one_thread():
            if not index.is_trained:
                most = TRAINING_POINTS * max(256, inner.nlist if inner else 0)
                index.train(extractor.vectors(extractor.sample(min(entries, most), seed)))
            with tqdm(total=entries, desc="add", unit="patch", disable=not progress) as bar:
                for _, grids in extractor.chunks():
                    vectors = extractor.vectors(extractor.keys(grids))
                    index.add(vectors)
                    bar.update(len(vectors))
    except RuntimeError as error:
        raise ArragError(
            f"index: FAISS cannot make {factory!r} of {entries} entries of "
            f"{extractor.dimension} dimensions ({_reason(error)}); use another factory string"
        ) from None
    _write(index, path / FILE)
    nprobe = None if inner is None else set_nprobe(index, min(nprobe, inner.nlist), path / FILE)
    return {"nprobe": nprobe, "seed": seed} | _files(path, [FILE], entries)


def link_published(
    store: TokenStore, path: Path, neighborhood: Neighborhood, folder: Path, nprobe: int
) -> dict[str, Any]:
    """Link the authors' two files; returns what ``meta.json`` says of them.

    The store gives the codebook and the grid, the entries are those of the files; an entry's
    number says nothing about its image. Raises ArragError if file and codebook do not fit.
    """
    _refuse_masked(neighborhood, "official")
    index, codes = _read(folder / PUBLISHED), _load_codes(folder / PUBLISHED_CODES)
    dimension = KeyExtractor(store, neighborhood).dimension
    if index.d != dimension:
        raise ArragError(
            f"{folder / PUBLISHED}: its keys have {index.d} dimensions, {neighborhood.context} "
            f"neighbourhoods of this codebook have {dimension}; use the context and the tokenizer "
            "it was made with"
        )
    if len(codes) != index.ntotal:
        raise ArragError(
            f"{folder / PUBLISHED_CODES}: holds {len(codes)} codes for {index.ntotal} entries of "
            f"{PUBLISHED}; fetch both files again"
        )
    if len(codes) and not 0 <= codes.min() <= codes.max() < len(store.codebook):
        raise ArragError(
            f"{folder / PUBLISHED_CODES}: holds codes {codes.min()} to {codes.max()}, the "
            f"codebook has {len(store.codebook)}; use the tokenizer it was made with"
        )
    nprobe = set_nprobe(index, nprobe, folder / PUBLISHED)
    for name in (PUBLISHED, PUBLISHED_CODES):
        (path / name).symlink_to((folder / name).resolve())
    about = _files(path, [PUBLISHED, PUBLISHED_CODES], len(codes))
    return {"nprobe": nprobe, "entries": len(codes), "border_share": None} | about


def set_nprobe(index: Any, nprobe: int, where: Path) -> int:
    """Set how many lists a search visits, on the inverted file within any wrapper; read it back.

    On the OPQ wrapper itself, where the authors' code sets it, the attribute has no effect.
    Raises ArragError if there are no lists, or fewer than ``nprobe``.
    """
    inner = faiss.try_extract_index_ivf(index)
    lists = 0 if inner is None else inner.nlist
    if not 1 <= nprobe <= lists:
        raise ArragError(
            f"{where}: nprobe is {nprobe}, it has {lists} lists; use 1 <= nprobe <= lists, and "
            "none for an index without lists"
        )
    inner.nprobe = nprobe
    if get_nprobe(index) != nprobe:
        raise ArragError(
            f"{where}: nprobe was set to {nprobe}, FAISS {VERSION} still uses "
            f"{get_nprobe(index)}; install the pinned version of FAISS"
        )
    return nprobe


def get_nprobe(index: Any) -> int | None:
    """Lists that a search visits; None if the index has none."""
    inner = faiss.try_extract_index_ivf(index)
    return None if inner is None else inner.nprobe


def train_centroids(sample: np.ndarray, nlist: int, seed: int) -> np.ndarray:
    """K-means: float32 [points, D] -> [nlist, D]."""
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


def nearest_centroid(centroids: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function float32 [Q, D] -> int64 [Q], the nearest of the centroids [nlist, D]."""
    quantizer = faiss.IndexFlatL2(centroids.shape[1])
    quantizer.add(np.ascontiguousarray(centroids))
    return lambda vectors: quantizer.search(vectors, 1)[1][:, 0]


def in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """``work`` of each item, in order, in as many threads as FAISS may use.

    Each item is one thread's, so results do not depend on their number. No more items are read
    ahead than there are threads.
    """
    threads = faiss.omp_get_max_threads()
    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Partial sums of several threads would make the files differ from run to run."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ArragError(f"{path}: no such file; fetch or build the index, or correct the path")
    try:
        return faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise ArragError(
            f"{path}: FAISS cannot read it ({_reason(error)}); fetch or build it again"
        ) from None


def _write(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        for number in NO_SPACE:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from None
        raise


def _load_codes(path: Path) -> np.ndarray:
    """Codes of the published entries: whole numbers [E], memory-mapped."""
    codes = read_npy(path, "fetch it again", "ui").squeeze()
    if codes.ndim != 1:
        raise ArragError(
            f"{path}: expected whole numbers, one an entry, found {codes.dtype} "
            f"{list(codes.shape)}; fetch it again"
        )
    return codes


def _files(path: Path, names: list[str], entries: int) -> dict[str, Any]:
    files = describe_files(path, names)
    size = sum(about["bytes"] for about in files.values())
    return {"bytes_per_patch": round(size / max(1, entries), 1), "files": files}


def _refuse_masked(neighborhood: Neighborhood, mode: str) -> None:
    if neighborhood.masked_distance:
        raise ArragError(
            f"index: mode {mode} cannot leave unknown neighbours out of a distance; use mode "
            "exact, ivf or hamming, or masked_distance false"
        )


def _reason(error: Exception) -> str:
    """FAISS's own words, without the line of C++ they come from."""
    return re.sub(r"^Error in .*?:\d+: (Error: )?", "", str(error), flags=re.DOTALL).strip()
