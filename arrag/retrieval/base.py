"""The interface of every patch index: what all modes share, and what a search returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from arrag.data.token_store import TokenStore
from arrag.retrieval.distances import (
    FIXED_BITS,
    MAX_BOUND,
    Heap,
    bound_rows,
    empty_heap,
    rounding_margin,
    sort_heap,
)
from arrag.retrieval.meta import REBUILD, IndexMeta, check_files
from arrag.retrieval.neighborhood import MISSING
from arrag.utils.errors import MismatchError, UsageError
from arrag.utils.hashing import index_digest

ROW_CACHE_BYTES = 2**26
"""Of rows of bounds kept between searches; more if one search needs more."""
QUERIES_AT_ONCE = 256
"""Limits the memory of the rows of bounds."""


Fields = dict[str, Any]
"""Fields of ``meta.json``."""


@dataclass(frozen=True)
class SearchResult:
    """The k nearest entries of each query, sorted by (distance, entry).

    Attributes:
        distances: float32 [..., k], squared L2; +inf in an absent slot.
        codes: int64 [..., k], the patch's own code; -1 if absent.
        entries: int64 [..., k], ``image * H * W + position``; -1 if absent.
    """

    distances: torch.Tensor
    codes: torch.Tensor
    entries: torch.Tensor


@dataclass(frozen=True)
class BuildOptions:
    """What a mode may need to be built.

    Attributes:
        nlist: Number of inverted lists; None chooses it by the number of entries.
        nprobe: Lists that a search visits, unless it says otherwise.
        seed: Of the clustering.
        published: Folder of the authors' files, for mode official.
        progress: Whether to show progress bars.
    """

    nlist: int | None = None
    nprobe: int = 32
    seed: int = 0
    published: Path | None = None
    progress: bool = True


class PatchIndex(ABC):
    """Nearest patches by squared L2 between their neighbourhoods (paper section 3.1).

    A row of a result depends on that row's query alone, never on the rest of the batch. A mode is
    a subclass: ``build`` writes its files, ``_load`` reads them, ``_scan`` searches.

    Args:
        store: The token store that was indexed.
        meta: The description of the index.
        path: The folder of the index; modes without files need none.
        nprobe: Lists to visit instead of ``meta.nprobe``, for modes that have lists.
    """

    masks: ClassVar[bool] = True
    """Whether the mode can leave unknown neighbours out of a distance."""

    def __init__(
        self, store: TokenStore, meta: IndexMeta, path: Path = Path(), nprobe: int | None = None
    ) -> None:
        self.store, self.meta, self.path = store, meta, path
        self.nprobe = meta.nprobe if nprobe is None else nprobe
        self.neighborhood = meta.neighborhood
        self.digest = index_digest(meta.document())
        check_files(path, meta.files)
        self._device_scans: dict[torch.device, Callable[[np.ndarray, int], Heap]] = {}
        self.inside = self.neighborhood.valid_positions(*store.grid).flatten()  # bool [N]
        codes, n = len(store.codebook), len(self.neighborhood.offsets)
        # The last vector, zero, is that of a missing neighbour.
        self.points = np.vstack([store.codebook, np.zeros_like(store.codebook[:1])])  # [V + 1, d]
        vectors = np.ascontiguousarray(self.points.T, np.float64)  # [d, V + 1]
        self._longest = float((vectors**2).sum(axis=0).max())
        # |a - b|² <= 4 max|e|². A power of two, so that scaling rounds nothing.
        bound = max(4.0 * n * self._longest, 1e-30)
        self.scale = 2.0 ** np.floor(FIXED_BITS - 1 - np.log2(bound))
        # Bounds per unit of distance; and how much larger rounding may make a sum of them.
        self._error = 1.0 + 4.0 * rounding_margin(self.points.shape[1])
        self._unit = np.float32(MAX_BOUND // n * n / (bound * self._error))
        self._columns = self._column_order()  # int64 [W]
        self._lines = np.ascontiguousarray(self.points[self._columns].T)  # float32 [d, W]
        self._row_of = np.full(codes + 2, -1)  # by code, see _rows
        rows = ROW_CACHE_BYTES // (2 * len(self._columns))
        self._row_cache = np.empty((rows, len(self._columns)), np.uint16)
        self._cached = 0  # rows of it that are filled
        self._load()

    @classmethod
    def build(cls, store: TokenStore, path: Path, meta: IndexMeta, options: BuildOptions) -> Fields:
        """Write the files of the mode into ``path``; return the further fields of its meta data."""
        return {}

    @abstractmethod
    def _load(self) -> None:
        """Open the files of the mode, and check ``nprobe``."""

    def extend(self, store: TokenStore, path: Path, *, progress: bool) -> Fields:
        """Write the files of an index over ``store``, which begins with this index's images.

        Returns:
            The further fields of its meta data.
        """
        raise UsageError(
            f"an index of mode {self.meta.mode} cannot be extended", path=self.path, hint=REBUILD
        )

    def check_contents(self) -> None:  # noqa: B027 (most modes have nothing to check)
        """Raise FormatError if a file holds codes or entries that the store does not have."""

    def search(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor, k: int
    ) -> SearchResult:
        """Search for the neighbourhoods of some positions.

        Args:
            codes: integer [B, H, W].
            known: bool [B, H, W], which codes are generated.
            positions: integer [P], flat in raster order.
            k: How many entries to return.

        Returns:
            [B, P, k] on the device of ``codes``. All slots of a position that the border rule
            leaves out are absent.

        Raises:
            MismatchError: The grid is not that of the store, or a code is not in its codebook.
            UsageError: ``k`` is not in [1, entries].
        """
        if tuple(codes.shape[1:]) != self.store.grid or known.shape != codes.shape:
            raise self._mismatch(
                f"the query has codes {list(codes.shape)} and known {list(known.shape)}, the grid "
                f"of the store is {list(self.store.grid)}"
            )
        neighbors = self.neighborhood.gather(codes, known, positions)  # [B, P, n]
        inside = self.inside[positions.cpu()]  # [P]
        found = self.search_keys(neighbors[:, inside.to(neighbors.device)].flatten(0, 1), k)
        shape = (*neighbors.shape[:2], k)

        def spread(values: torch.Tensor, absent: float) -> torch.Tensor:
            full = values.new_full(shape, absent)
            full[:, inside] = values.view(shape[0], -1, k)
            return full.to(codes.device)

        return SearchResult(
            spread(found.distances, torch.inf), spread(found.codes, -1), spread(found.entries, -1)
        )

    def search_keys(self, neighbors: torch.Tensor, k: int) -> SearchResult:
        """Search for given neighbours: integer [Q, n], MISSING if unknown -> [Q, k] on the CPU.

        Keys on a GPU are searched there, with the same result. With ``masked_distance`` a query
        that knows no neighbour is at distance zero of everything: all its slots are absent.
        Raises as ``search`` does.
        """
        keys = np.asarray(neighbors.cpu(), dtype=np.int64)
        self._check_keys(keys, k)
        scan = self._scan_on(neighbors.device)
        # Flat regions make many queries equal: search each once.
        rows: dict[bytes, int] = {}
        inverse = [rows.setdefault(key.tobytes(), len(rows)) for key in keys]
        distinct = np.frombuffer(b"".join(rows), np.int64).reshape(len(rows), keys.shape[1])
        heap = empty_heap(len(distinct), k)
        asking = np.arange(len(distinct))
        if self.neighborhood.masked_distance:
            asking = asking[(distinct != MISSING).any(axis=1)]
        for start in range(0, len(asking), QUERIES_AT_ONCE):
            some = asking[start : start + QUERIES_AT_ONCE]
            for whole, part in zip(heap, scan(distinct[some], k), strict=True):
                whole[some] = part
        distances, entries, codes = (torch.from_numpy(part[inverse]) for part in sort_heap(heap))
        return SearchResult(distances / self.scale, codes, entries)

    def info(self) -> dict[str, Any]:
        """What the index holds: ``meta.json`` and its digest."""
        return {**self.meta.document(), "digest": self.digest}

    @abstractmethod
    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        """Nearest entries of distinct queries: int64 [Q, n] -> [Q, k], in any order."""

    def _scan_for(self, device: torch.device) -> Callable[[np.ndarray, int], Heap]:
        """What replaces ``_scan`` for keys on a GPU."""
        return self._scan

    def _scan_on(self, device: torch.device) -> Callable[[np.ndarray, int], Heap]:
        if device.type != "cuda":
            return self._scan
        if device not in self._device_scans:  # it holds the index on the device
            self._device_scans[device] = self._scan_for(device)
        return self._device_scans[device]

    def _column_order(self) -> np.ndarray:
        """Codes (and V, a missing one) in the order of a row of bounds: int64 [W]."""
        return np.arange(len(self.points))

    def _rows(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tables of bounds for some queries. Rows are kept for later calls.

        Args:
            keys: int64 [Q, n], MISSING if unknown.

        Returns:
            Bounds from some codes to all codes, uint16 [R, W]; the row of each neighbour, int64
            [Q, n]; its code, V if missing, V + 1 if it does not count, int64 [Q, n].
        """
        codes = len(self.store.codebook)
        missing = codes + 1 if self.neighborhood.masked_distance else codes
        keys = np.where(keys == MISSING, missing, keys)
        new = np.unique(keys[self._row_of[keys] < 0])
        if self._cached + len(new) > len(self._row_cache):
            self._row_of[:], self._cached = -1, 0
            new = np.unique(keys)
            if len(new) > len(self._row_cache):
                self._row_cache = np.empty((len(new), len(self._columns)), np.uint16)
        end = self._cached + len(new)
        bound_rows(self._lines, self.points, new, self._unit, self._row_cache[self._cached : end])
        self._row_of[new] = np.arange(self._cached, end)
        self._cached = end
        return self._row_cache, self._row_of[keys], keys

    def _check_keys(self, keys: np.ndarray, k: int) -> None:
        if not 1 <= k <= self.meta.entries:
            raise UsageError(
                f"found {k}, the index of {self.store.path} holds {self.meta.entries} entries",
                field="k",
                hint="use 1 <= k <= entries, or a larger database",
            )
        codes = len(self.store.codebook)
        if (wrong := keys[(keys >= codes) | (keys < MISSING)]).size:
            raise self._mismatch(f"the query holds code {wrong[0]}, the codebook has {codes} codes")

    def _mismatch(self, message: str) -> MismatchError:
        hint = "use a database made with the generator's tokenizer"
        return MismatchError(message, path=self.store.path, hint=hint)
