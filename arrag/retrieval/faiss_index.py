"""Everything that calls FAISS: clustering for the inverted lists, and two modes for comparison.

``faiss:<factory string>`` indexes the store's keys with an index of FAISS; ``official`` reads the
index that the authors published. Their distances are FAISS's own, approximate where it quantises.

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
from arrag.retrieval.base import BuildOptions, Fields, PatchIndex
from arrag.retrieval.distances import Heap
from arrag.retrieval.keys import KeyExtractor, key_vectors
from arrag.retrieval.meta import IndexMeta, describe_files
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError
from arrag.utils.readers import read_npy
from arrag.utils.resource_errors import NO_SPACE

VERSION = faiss.__version__
FILE = "index.faiss"
PUBLISHED, PUBLISHED_CODES = "faiss_ivf_pq_opq.index", "next_codes.npy"
AGAIN = "fetch or build it again"
KMEANS_ITERATIONS = 10
TRAINING_POINTS = 64
"""A centroid, of the lists or of a product quantiser's 256."""


class FaissIndex(PatchIndex):
    """Search the keys of the store with an index of FAISS."""

    masks = False
    file = FILE

    def _load(self) -> None:
        self._index = _read_index(self.path / self.file, self.store, self.meta)
        if self.nprobe is not None:
            set_nprobe(self._index, self.nprobe, self.path / self.file)
        self._positions = np.flatnonzero(self.inside.numpy())  # [E]
        self._check_entries(self.meta.entries)

    def _check_entries(self, expected: int) -> None:
        if self._index.ntotal != expected:
            message = f"holds {self._index.ntotal} entries, expected {expected}"
            raise FormatError(message, path=self.path / self.file, hint=AGAIN)

    @classmethod
    def build(cls, store: TokenStore, path: Path, meta: IndexMeta, options: BuildOptions) -> Fields:
        """Train, fill and write an index; raises UsageError for a string FAISS cannot make."""
        factory = meta.mode.partition(":")[2]
        extractor = KeyExtractor(store, meta.neighborhood)
        try:
            index = faiss.index_factory(extractor.dimension, factory)
            inner = faiss.try_extract_index_ivf(index)
            if inner is not None:
                inner.cp.seed = options.seed
            with one_thread():
                if not index.is_trained:
                    most = TRAINING_POINTS * max(256, inner.nlist if inner else 0)
                    sample = extractor.sample(min(meta.entries, most), options.seed)
                    index.train(extractor.vectors(sample))
                with tqdm(
                    total=meta.entries, desc="add", unit="patch", disable=not options.progress
                ) as bar:
                    for _, grids in extractor.chunks():
                        vectors = extractor.vectors(extractor.keys(grids))
                        index.add(vectors)
                        bar.update(len(vectors))
        except RuntimeError as error:
            raise UsageError(
                f"FAISS cannot make {factory!r} of {meta.entries} entries of "
                f"{extractor.dimension} dimensions ({_reason(error)})",
                field="mode",
                hint="use another factory string",
            ) from None
        _write_index(index, path / FILE)
        nprobe = None
        if inner is not None:
            nprobe = set_nprobe(index, min(options.nprobe, inner.nlist), path / FILE)
        return {"nprobe": nprobe, "seed": options.seed} | _fields(path, [FILE], meta.entries)

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
        absent = found < 0
        distances[absent] = np.inf  # FAISS fills short lists with the largest float
        entries, codes = self._entries_and_codes(np.where(absent, 0, found))
        entries, codes = (np.where(absent, -1, part) for part in (entries, codes))
        return distances * np.float32(self.scale), entries, codes

    def _entries_and_codes(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """FAISS's numbers [Q, k] -> entries and own codes, int64 [Q, k]."""
        images, slots = np.divmod(found, len(self._positions))
        positions = self._positions[slots]
        distinct, inverse = np.unique(images, return_inverse=True)
        grids = self.store.grids(distinct).reshape(len(distinct), -1)
        codes = grids[inverse.reshape(images.shape), positions].astype(np.int64)
        return images * len(self.inside) + positions, codes


class PublishedIndex(FaissIndex):
    """Search the index of the authors. The store gives the codebook and the grid only.

    An entry's number says nothing about its image.
    """

    file = PUBLISHED

    @classmethod
    def build(cls, store: TokenStore, path: Path, meta: IndexMeta, options: BuildOptions) -> Fields:
        """Link the two files; raises an ArragError if they do not fit each other or the store."""
        folder = options.published
        assert folder is not None
        index, codes = _read_index(folder / PUBLISHED, store, meta), _read_codes(folder)
        if len(codes) != index.ntotal:
            raise MismatchError(
                f"holds {len(codes)} codes for {index.ntotal} entries of {PUBLISHED}",
                path=folder / PUBLISHED_CODES,
                hint="fetch both files again",
            )
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(store.codebook):
            raise MismatchError(
                f"holds codes {codes.min()} to {codes.max()}, the codebook has "
                f"{len(store.codebook)}",
                path=folder / PUBLISHED_CODES,
                hint="use the tokenizer it was made with",
            )
        nprobe = set_nprobe(index, options.nprobe, folder / PUBLISHED)
        for name in (PUBLISHED, PUBLISHED_CODES):
            (path / name).symlink_to((folder / name).resolve())
        fields = _fields(path, [PUBLISHED, PUBLISHED_CODES], len(codes))
        return {"nprobe": nprobe, "entries": len(codes), "border_share": None} | fields

    def _load(self) -> None:
        super()._load()
        self._codes = _read_codes(self.path)
        self._check_entries(len(self._codes))

    def _entries_and_codes(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return found, self._codes[found].astype(np.int64)


def set_nprobe(index: Any, nprobe: int, where: Path) -> int:
    """Set how many lists a search visits, on the inverted file within any wrapper; read it back.

    On the OPQ wrapper, where the authors' code sets it, the attribute has no effect. Raises
    UsageError, which names the file ``where``, if there are no lists, or fewer than ``nprobe``.
    """
    inner = faiss.try_extract_index_ivf(index)
    lists = 0 if inner is None else inner.nlist
    if not 1 <= nprobe <= lists:
        raise UsageError(
            f"found {nprobe}, the index has {lists} lists",
            path=where,
            field="nprobe",
            hint="use 1 <= nprobe <= lists, and none for an index without lists",
        )
    inner.nprobe = nprobe
    return get_nprobe(index)


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

    Each item is computed by one thread, so results do not depend on their number. No more items
    are read ahead than there are threads.
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


def _read_index(path: Path, store: TokenStore, meta: IndexMeta) -> Any:
    if not path.is_file():
        raise MissingError("no such file", path=path, hint=AGAIN)
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        message = f"FAISS cannot read it ({_reason(error)})"
        raise FormatError(message, path=path, hint=AGAIN) from None
    dimension = KeyExtractor(store, meta.neighborhood).dimension
    if index.d != dimension:
        raise MismatchError(
            f"its keys have {index.d} dimensions, {meta.neighborhood.context} neighbourhoods of "
            f"this codebook have {dimension}",
            path=path,
            hint="use the context and the tokenizer it was made with",
        )
    return index


def _write_index(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        for number in NO_SPACE:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from None
        raise


def _read_codes(folder: Path) -> np.ndarray:
    """Codes of the published entries: integer [E], memory-mapped."""
    path = folder / PUBLISHED_CODES
    codes = read_npy(path, AGAIN, "ui").squeeze()
    if codes.ndim != 1:
        message = f"holds {codes.dtype} {list(codes.shape)}, expected one code an entry"
        raise FormatError(message, path=path, hint=AGAIN)
    return codes


def _fields(path: Path, names: list[str], entries: int) -> Fields:
    files = describe_files(path, names)
    size = sum(info["bytes"] for info in files.values())
    return {"bytes_per_patch": round(size / max(1, entries), 1), "files": files}


def _reason(error: Exception) -> str:
    """FAISS's message, without the line of C++ it comes from."""
    return re.sub(r"^Error in .*?:\d+: (Error: )?", "", str(error), flags=re.DOTALL).strip()
