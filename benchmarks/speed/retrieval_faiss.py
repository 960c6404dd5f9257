"""FAISS's indexes for `retrieval.py`: the same keys, and where it can be the very same lists."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import torch

from arrag.data.token_store import TokenStore
from arrag.retrieval.ivf import IvfIndex
from arrag.retrieval.keys import KeyExtractor, key_vectors
from arrag.retrieval.neighborhood import Neighborhood

K = 50
SAMPLE = 100_000
"""Keys that quantisers are trained on."""


class Baseline:
    """A FAISS index whose numbers are entries, ``image * H * W + position``."""

    def __init__(self, store: TokenStore, index: faiss.Index, name: str, size: int) -> None:
        self.index, self.name, self.size, self._book = index, name, size, store.codebook
        self._flat = np.concatenate([np.asarray(shard) for shard in store.shards]).reshape(-1)
        self._neighborhood = Neighborhood("causal")

    def search(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes of neighbours int64 [Q, n] -> distances and entries [Q, K]."""
        return self.index.search(key_vectors(self._book, keys), K)

    def scan(self, keys: np.ndarray) -> Callable[[], object]:
        """The scan alone, with the lists to probe at hand."""
        inner = faiss.extract_index_ivf(self.index)
        vectors = key_vectors(self._book, keys)
        if isinstance(self.index, faiss.IndexPreTransform):
            vectors = self.index.chain.at(0).apply(vectors)
        distances, lists = inner.quantizer.search(vectors, inner.nprobe)
        return lambda: inner.search_preassigned(vectors, K, lists, distances)

    def step(self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor):
        """What ``PatchIndex.search`` does: distances and codes [B, 1, K]."""
        keys = self._neighborhood.gather(codes, known, positions)[:, 0].numpy()
        distances, entries = self.search(keys)
        found = torch.from_numpy(self.codes(entries))
        return torch.from_numpy(distances)[:, None], found[:, None]

    def codes(self, entries: np.ndarray) -> np.ndarray:
        """The patches' own codes, int64, -1 if absent."""
        return np.where(entries < 0, -1, self._flat[np.maximum(entries, 0)].astype(np.int64))


def flat_index(store: TokenStore, neighborhood: Neighborhood) -> faiss.Index:
    """All keys as vectors."""
    extractor = KeyExtractor(store, neighborhood)
    index = faiss.IndexIDMap(faiss.IndexFlatL2(extractor.dimension))
    _fill(index, extractor)
    return index


def inverted(store: TokenStore, ivf: IvfIndex, kind: str, size: int) -> Baseline:
    """IVFFlat or IVFPQ 8x8 with the centroids, the lists and the nprobe of an ``ivf`` index."""
    extractor = KeyExtractor(store, ivf.neighborhood)
    quantizer = faiss.IndexFlatL2(extractor.dimension)
    quantizer.add(np.ascontiguousarray(ivf._centroids.T))
    dimension, lists = extractor.dimension, ivf.meta.nlist
    if kind == "IVFFlat":
        index = faiss.IndexIVFFlat(quantizer, dimension, lists)
        index.is_trained = True
    else:
        index = faiss.IndexIVFPQ(quantizer, dimension, lists, 8, 8)
        index.train(extractor.vectors(extractor.sample(min(SAMPLE, ivf.meta.entries), 0)))
    index.own_fields = False
    n = ivf.lists.codes.shape[1] - 1
    for number in range(lists):
        rows = slice(ivf.lists.offsets[number], ivf.lists.offsets[number + 1])
        ids = np.asarray(ivf.lists.ids[rows], np.int64)
        if len(ids):
            vectors = key_vectors(store.codebook, ivf.lists.codes[rows, :n].astype(np.int64))
            arrays = vectors, ids, np.full(len(ids), number)
            index.add_core(len(ids), *map(faiss.swig_ptr, arrays))
    index.nprobe = ivf.nprobe
    found = Baseline(store, index, f"faiss {kind}", size)
    found.quantizer = quantizer  # FAISS holds a bare pointer
    return found


def official(store: TokenStore, neighborhood: Neighborhood, nlist: int) -> Baseline:
    """The kind of index that the authors published, at the nprobe that their code really runs."""
    extractor = KeyExtractor(store, neighborhood)
    entries = len(store) * len(extractor.positions)
    lists = max(1, min(800, nlist))
    index = faiss.index_factory(extractor.dimension, f"OPQ8_{extractor.dimension},IVF{lists},PQ8")
    index.train(extractor.vectors(extractor.sample(min(SAMPLE, entries), 0)))
    _fill(index, extractor)
    faiss.extract_index_ivf(index).nprobe = 1
    return Baseline(store, index, "faiss OPQ, IVFPQ 8x8, nprobe 1", 8 + 8)


def _fill(index: faiss.Index, extractor: KeyExtractor) -> None:
    for image, grids in extractor.chunks():
        images = np.arange(image, image + len(grids))
        entries = (images[:, None] * extractor.size + extractor.positions).reshape(-1)
        index.add_with_ids(extractor.vectors(extractor.keys(grids)), entries)
