"""What every index does alike: read queries, drop repeats, sort, and name itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.data.token_store import TokenStore
from arrag.retrieval.distances import FAR, FIXED_BITS, LARGEST, bound_rows, slack
from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.retrieval.topk import sort_heap
from arrag.utils.errors import ArragError
from arrag.utils.hashing import check_file, index_digest, sha256_file
from arrag.utils.readers import FileName, misfit

Heap = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Distances float32 (fixed point), entries, codes int64, each [Q, k]; see ``empty_heap``."""

ROWS_BYTES = 2**26
"""Of distances kept between searches; more if one search needs more."""
META = {
    "format": int,
    "mode": str,
    "neighborhood": {"context": str, "hop": None, "border": str, "masked_distance": bool},
    "grid": [int],
    "codes": int,
    "images": int,
    "entries": int,
    "border_share": (int, float, None),
    "store_digest": str,
    "tokenizer_digest": str,
}
"""The form of ``meta.json`` in every mode; those with files have FILES besides."""
FILE = {"bytes": int, "sha256": str}
QUERIES_AT_ONCE = 256
"""Bounds the memory of the distance tables: 4 n (V + 1) bytes a query at most."""


@dataclass(frozen=True)
class SearchResult:
    """The k nearest entries of each query, sorted by (distance, entry).

    distances: float32 [..., k], squared L2, +inf in an absent slot; codes: int64 [..., k], the
    patch's own code, -1 if absent; entries: int64 [..., k], ``image * H * W + position``, -1 if
    absent.
    """

    distances: torch.Tensor
    codes: torch.Tensor
    entries: torch.Tensor


class PatchIndex(ABC):
    """Nearest patches by squared L2 between their neighbourhoods (paper section 3.1).

    A row of a result depends on that row's query alone, never on the rest of the batch.
    """

    def __init__(self, store: TokenStore, meta: dict[str, Any]) -> None:
        self.store, self.meta = store, meta
        self.neighborhood = Neighborhood(**meta["neighborhood"])
        self.digest = index_digest(meta)
        self._on_device: dict[torch.device, Callable[[np.ndarray, int], Heap]] = {}
        self._inside = self.neighborhood.valid_positions(*store.grid).flatten()  # bool [N]
        codes = len(store.codebook)
        self._vectors = np.zeros((store.codebook.shape[1], codes + 1))  # float64 [d, V + 1]
        self._vectors[:, :codes] = store.codebook.T
        self._points = np.float32(self._vectors.T)  # float32 [V + 1, d], as the codebook's are
        self._columns = self._ordered()  # codes as they follow each other in rows, int64 [W]
        self._lines = np.ascontiguousarray(self._points[self._columns].T)  # float32 [d, W]
        self._row_of = np.full(codes + 2, -1)  # int64, see _rows
        self._row_store = self._empty_rows(ROWS_BYTES // (2 * len(self._columns)))
        self._kept = 0  # rows of it
        n = len(self.neighborhood.offsets)
        # |a - b|² <= 4 max|e|². A power of two, so that scaling rounds nothing.
        bound = max(4.0 * n * float((self._vectors**2).sum(axis=0).max()), 1e-30)
        self._scale = 2.0 ** np.floor(FIXED_BITS - 1 - np.log2(bound))
        # Bounds per unit of distance; and how much larger rounding may make a sum of them.
        self._error = 1.0 + 4.0 * slack(len(self._vectors))
        self._unit = np.float32(LARGEST // n * n / (bound * self._error))

    def search(
        self,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
        k: int,
    ) -> SearchResult:
        """Search for the surroundings of some positions.

        codes: integer [B, H, W]; known: bool [B, H, W]; positions: integer [P], flat. Returns
        [B, P, k] on the device of ``codes``. Every slot is absent where the border rule leaves the
        position out. Raises ArragError for another grid, a code outside the codebook, or
        k outside [1, entries].
        """
        if tuple(codes.shape[1:]) != self.store.grid or known.shape != codes.shape:
            raise ArragError(
                f"index of {self.store.path}: its grid is {list(self.store.grid)}, the query has "
                f"codes {list(codes.shape)} and known {list(known.shape)}; "
                "use a database made with the generator's tokenizer"
            )
        around = self.neighborhood.gather(codes, known, positions)  # [B, P, n]
        inside = self._inside[positions.cpu()]  # [P]
        found = self.search_keys(around[:, inside.to(around.device)].flatten(0, 1), k)
        shape = (*around.shape[:2], k)

        def spread(values: torch.Tensor, absent: float) -> torch.Tensor:
            full = values.new_full(shape, absent)
            full[:, inside] = values.view(shape[0], -1, k)
            return full.to(codes.device)

        return SearchResult(
            spread(found.distances, torch.inf), spread(found.codes, -1), spread(found.entries, -1)
        )

    def search_keys(self, neighbours: torch.Tensor, k: int) -> SearchResult:
        """Search for given neighbours: integer [Q, n], MISSING if unknown -> [Q, k] on the CPU.

        Codes on a GPU are searched there (``arrag.retrieval.device``), with the same result.
        With ``masked_distance`` a query that knows no neighbour is at distance zero of everything,
        which says nothing: all its slots are absent. Errors as in ``search``.
        """
        keys = self._checked(np.asarray(neighbours.cpu(), dtype=np.int64), k)
        scan = self._scan_on(neighbours.device)
        # Flat regions make many queries equal: search each once.
        rows: dict[bytes, int] = {}
        inverse = [rows.setdefault(key.tobytes(), len(rows)) for key in keys]
        distinct = np.frombuffer(b"".join(rows), np.int64).reshape(len(rows), keys.shape[1])
        heap = empty_heap(len(distinct), k)
        asks = np.ones(len(distinct), bool)
        if self.neighborhood.masked_distance:
            asks = (distinct != MISSING).any(axis=1)
        asking = np.flatnonzero(asks)
        for start in range(0, len(asking), QUERIES_AT_ONCE):
            some = asking[start : start + QUERIES_AT_ONCE]
            for whole, part in zip(heap, scan(distinct[some], k), strict=True):
                whole[some] = part
        sort_heap(heap)
        distances, entries, codes = (torch.from_numpy(part[inverse]) for part in heap)
        return SearchResult(distances / self._scale, codes, entries)

    def _scan_on(self, device: torch.device) -> Callable[[np.ndarray, int], Heap]:
        """``_scan``, or what takes its place on a GPU; what that holds there is sent once."""
        if device.type != "cuda":
            return self._scan
        if device not in self._on_device:
            from arrag.retrieval.device import device_scan

            self._on_device[device] = device_scan(self, device)
        return self._on_device[device]

    def info(self) -> dict[str, Any]:
        """What the index holds: ``meta.json`` and its digest."""
        return {**self.meta, "digest": self.digest}

    @abstractmethod
    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        """Nearest entries of distinct queries: int64 [Q, n] -> three [Q, k], in any order."""

    def _ordered(self) -> np.ndarray:
        """All codes and V in the order of rows: int64 [W], may hold some again."""
        return np.arange(len(self._points))

    def _empty_rows(self, count: int) -> np.ndarray:
        return np.empty((count, len(self._columns)), np.uint16)

    def _rows(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What scans read of queries int64 [Q, n], MISSING if unknown.

        Returns bounds of the distances from some codes to all codes, uint16 [R, W], in the order
        of ``_ordered``; which row each neighbour has, int64 [Q, n]; its code, V if missing, V + 1
        if it does not count. Rows are kept for later calls: a generated token is a neighbour of
        several positions.
        """
        codes = len(self.store.codebook)
        missing = codes + 1 if self.neighborhood.masked_distance else codes
        keys = np.where(keys == MISSING, missing, keys)
        new = np.unique(keys[self._row_of[keys] < 0])
        if self._kept + len(new) > len(self._row_store):
            self._row_of[:], self._kept = -1, 0
            new = np.unique(keys)
            if len(new) > len(self._row_store):
                self._row_store = self._empty_rows(len(new))
        end = self._kept + len(new)
        bound_rows(self._lines, self._points, new, self._unit, self._row_store[self._kept : end])
        self._row_of[new] = np.arange(self._kept, end)
        self._kept = end
        return self._row_store, self._row_of[keys], keys

    def _checked(self, keys: np.ndarray, k: int) -> np.ndarray:
        entries = self.meta["entries"]
        if not 1 <= k <= entries:
            raise ArragError(
                f"index of {self.store.path}: k is {k}, it holds {entries} entries; "
                "use 1 <= k <= entries or a larger database"
            )
        codes = len(self.store.codebook)
        if keys.size and (keys.max() >= codes or keys.min() < MISSING):
            raise ArragError(
                f"index of {self.store.path}: its codebook has {codes} codes, the query holds "
                f"{keys.max() if keys.max() >= codes else keys.min()}; "
                "use a database made with the generator's tokenizer"
            )
        return keys


def empty_heap(queries: int, k: int) -> Heap:
    """A heap of absent slots: anything real is nearer."""
    shape = (queries, k)
    return (
        np.full(shape, FAR),
        np.full(shape, -1, np.int64),
        np.full(shape, -1, np.int64),
    )


def describe_files(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sizes and digests of an index's files, for ``meta.json``."""
    return {
        name: {"bytes": (path / name).stat().st_size, "sha256": sha256_file(path / name)}
        for name in names
    }


def check_files(path: Path, meta: dict[str, Any], digests: bool = False) -> None:
    """Raise ArragError unless the files have the size (and SHA-256) ``meta.json`` says."""
    files = meta.get("files", {})
    form = {"files": dict.fromkeys(files, FILE) if isinstance(files, dict) else {}}
    if problem := misfit({"files": files, "names": list(files)}, {**form, "names": [FileName]}):
        raise ArragError(f"{path / 'meta.json'}: {problem}; build the index again")
    for name, about in files.items():
        check_file(
            path / name,
            says="meta.json",
            remedy="build the index again",
            size=about["bytes"],
            sha256=about["sha256"] if digests else None,
        )
