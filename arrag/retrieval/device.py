"""Search on the device of the codes: distance tables, nearest and merge as tensors there.

What a search returns is what the compiled loops return, bit for bit: distances are the same whole
numbers, and ties go to the lower entry. Only the queries' codes and the k entries found cross over
to the host. Grids stay on the device when they fit into half of its free memory, else they are
sent a chunk at a time; inverted lists that do not fit are searched on the host. All else is bounded
by the chunk. Tensors of the processor work too, which is how this is tested without an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from arrag.retrieval.distances import FIXED_BITS
from arrag.retrieval.keys import key_vectors
from arrag.retrieval.neighborhood import MISSING

if TYPE_CHECKING:
    from arrag.retrieval.base import Heap, PatchIndex

CHUNK = {"cpu": 2**18, "cuda": 2**25}
"""Entries looked at together."""
SHIFT = FIXED_BITS - 30
"""Leaves 30 bits of a sum of distances, so that lower bounds add up in int32."""
Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Distances float32 (fixed point), entries and codes int64, each [Q, R]."""


def device_scan(index: PatchIndex, device: torch.device) -> Callable[[np.ndarray, int], Heap]:
    """What takes the place of ``index._scan`` for queries on a device."""
    mode = index.meta["mode"]
    if mode in ("exact", "hamming"):
        return GridScan(index, device).scan
    if mode == "ivf":
        size = index.lists.nbytes + 8 * len(index.ids) + index._centroids.nbytes
        return ListScan(index, device).scan if _fits(size, device) else index._scan
    return index._scan  # FAISS's own


class _Scan:
    """Distance tables on a device; see ``PatchIndex._scan`` for ``scan``."""

    def __init__(self, index: PatchIndex, device: torch.device) -> None:
        self.index, self.device = index, device
        self.chunk = CHUNK.get(device.type, CHUNK["cuda"])
        self._vectors = torch.from_numpy(index._vectors).to(device)  # float64 [d, V + 1]

    def scan(self, keys: np.ndarray, k: int) -> Heap:
        """Nearest entries of distinct queries: int64 [Q, n] -> three [Q, k], farthest first."""
        found = self._nearest(keys, k)
        short = k - found[0].shape[1]
        absent = (torch.inf, -1, -1)
        padded = (torch.nn.functional.pad(f, (0, short), value=a) for f, a in zip(found, absent))  # noqa: B905
        return tuple(part.flip(1).cpu().numpy() for part in padded)

    def _nearest(self, keys: np.ndarray, k: int) -> Found:
        raise NotImplementedError

    def _tables(self, keys: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances of the codes in use to all, int64 [U, V + 1], and their rows, int64 [Q, n].

        The order of the sums and the rounding are those of the compiled loops.
        """
        none = self._vectors.shape[1]  # V + 1 stands for a neighbour that does not count
        missing = none if self.index.neighborhood.masked_distance else none - 1
        codes, rows = np.unique(np.where(keys == MISSING, missing, keys), return_inverse=True)
        used = torch.from_numpy(codes).to(self.device)
        centres = self._vectors[:, used.clamp(max=none - 1)]  # [d, U]
        total = torch.zeros(len(used), none, dtype=torch.float64, device=self.device)
        for line, centre in zip(self._vectors, centres, strict=True):
            step = line - centre[:, None]
            total += step * step
        tables = torch.round(total * self.index._scale).long()
        tables[used == none] = 0
        return tables, torch.from_numpy(rows.reshape(keys.shape)).to(self.device)


class GridScan(_Scan):
    """Every entry of the store: lower bounds for all, distances for those that may get in.

    resident: keep the grids on the device; by default if they fit. compiled: fuse the bounds into
    one kernel by ``torch.compile``.
    """

    def __init__(
        self,
        index: PatchIndex,
        device: torch.device,
        resident: bool | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(index, device)
        store = index.store
        self._size = store.grid[0] * store.grid[1]
        self._positions = index._inside.nonzero()[:, 0].to(device)  # int64 [E]
        around = index.neighborhood.neighbor_index(*store.grid)[index._inside.numpy()]  # [E, n]
        around = np.where(around == MISSING, self._size, around)  # the extra last column
        self._sources = torch.from_numpy(around.T.copy()).to(device)  # int64 [n, E]
        self._images = max(1, self.chunk // len(self._positions))
        self._piece = max(1, self.chunk // 8)  # entries measured together
        self._bounds = torch.compile(_bounds, dynamic=True) if compiled else _bounds
        if resident is None:
            resident = _fits(2 * len(store) * (self._size + 1), device)
        self._grids = list(self._sent()) if resident else None

    def _nearest(self, keys: np.ndarray, k: int) -> Found:
        tables, rows = self._tables(keys)
        lower = (tables >> SHIFT).int()  # [U, V + 1]
        found = [_nothing(self.device) for _ in keys]
        worst = [torch.inf] * len(keys)  # on the host
        for first, grids in self._sent() if self._grids is None else self._grids:
            for q, row in enumerate(rows):
                if worst[q] == 0:
                    continue  # k entries at distance zero: later ones lose every tie
                bounds = self._bounds(grids, self._sources, lower[row])
                for slots in _promising(bounds, worst[q], k, len(row)).split(self._piece):
                    candidates = self._measured(slots, first, grids, tables, row)
                    near = candidates[0] < worst[q]  # entries ascend: on a tie the one held stays
                    new = tuple(part[near][None] for part in candidates)
                    found[q] = nearest(tuple(map(_joined, found[q], new)), k)
                    worst[q] = float(found[q][0][0, -1]) if found[q][0].shape[1] == k else torch.inf
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def _measured(
        self,
        slots: torch.Tensor,
        first: int,
        grids: torch.Tensor,
        tables: torch.Tensor,
        row: torch.Tensor,
    ) -> Found:
        """Distances of some entries of a chunk to a query; slots: int64 [R], image * E + entry."""
        images = slots // len(self._positions)
        which = slots - images * len(self._positions)
        distances = torch.zeros(len(slots), dtype=torch.int64, device=self.device)
        for table, source in zip(tables[row], self._sources, strict=True):
            distances += table[_unsigned(grids[images, source[which]])]
        positions = self._positions[which]
        entries = (first + images) * self._size + positions
        return distances.float(), entries, _unsigned(grids[images, positions]).long()

    def _sent(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first image, grids [m, N + 1] on the device): uint16 as int16, V in the last column."""
        store = self.index.store
        for shard, start in zip(store.shards, store.starts, strict=False):
            for m in range(0, len(shard), self._images):
                grids = np.asarray(shard[m : m + self._images]).reshape(-1, self._size)
                grids = np.pad(grids, ((0, 0), (0, 1)), constant_values=len(store.codebook))
                yield int(start) + m, torch.from_numpy(grids.view(np.int16)).to(self.device)


class ListScan(_Scan):
    """The lists of an ``ivf`` index, held on the device."""

    def __init__(self, index: PatchIndex, device: torch.device) -> None:
        super().__init__(index, device)
        self._lists = _moved(index.lists.view(np.int16), torch.int16, device)  # [E, n + 1]
        self._ids = _moved(index.ids, torch.int64, device)
        self._offsets = torch.from_numpy(np.array(index.offsets)).to(device)
        self._centroids = torch.from_numpy(index._centroids).to(device)  # float32 [n * d, nlist]

    def _nearest(self, keys: np.ndarray, k: int) -> Found:
        tables, rows = self._tables(keys)
        probes = self._probes(keys)  # [Q, nprobe]
        starts, stops = self._offsets[probes], self._offsets[probes + 1]
        ends = (stops - starts).cumsum(1)  # [Q, nprobe], in the row of all probed entries
        ahead = starts - ends + (stops - starts)  # from that row to the lists
        found = tuple(part.expand(len(keys), -1) for part in _nothing(self.device))
        longest, step = int(ends[:, -1].max()), max(1, self.chunk // len(keys))
        for begin in range(0, longest, step):
            slots = torch.arange(begin, min(longest, begin + step), device=self.device)
            slots = slots.repeat(len(keys), 1)  # [Q, S]
            here = torch.searchsorted(ends, slots, right=True).clamp(max=probes.shape[1] - 1)
            real = slots < ends[:, -1:]
            lines = torch.where(real, ahead.gather(1, here) + slots, 0)
            held = _unsigned(self._lists[lines])  # [Q, S, n + 1]
            distances = torch.zeros(lines.shape, dtype=torch.int64, device=self.device)
            for i, row in enumerate(rows.T):
                distances += tables[row[:, None], held[..., i]]
            new = (
                distances.float().masked_fill(~real, torch.inf),
                self._ids[lines].masked_fill(~real, -1),
                held[..., -1].long().masked_fill(~real, -1),
            )
            found = nearest(tuple(map(_joined, found, new)), k)
        return found

    def _probes(self, keys: np.ndarray) -> torch.Tensor:
        """Nearest lists, int64 [Q, nprobe]; the order of the sums is that of the compiled loop."""
        book, neighborhood = self.index.store.codebook, self.index.neighborhood
        vectors = torch.from_numpy(key_vectors(book, keys)).to(self.device)  # [Q, n * d]
        counts = (keys != MISSING) | (not neighborhood.masked_distance)
        counts = torch.from_numpy(np.repeat(counts, book.shape[1], axis=1)).to(vectors)
        total = vectors.new_zeros(len(keys), self._centroids.shape[1])  # [Q, nlist]
        for line, centre, count in zip(self._centroids, vectors.T, counts.T, strict=True):
            step = line - centre[:, None]
            total += step * step * count[:, None]
        return total.argsort(dim=1, stable=True)[:, : self.index.nprobe]


def nearest(found: Found, k: int) -> Found:
    """The k least of each row by (distance, entry), in that order; all of them if they are fewer.

    Two passes: the k-th least distance, then all that are no farther, which may be more than k.
    """
    distances = found[0]
    if distances.shape[1] > k:
        worst = distances.topk(k, dim=1, largest=False).values[:, -1:]
        wide = int((distances <= worst).sum(1).max())
        at = distances.topk(wide, dim=1, largest=False).indices
        found = tuple(part.gather(1, at) for part in found)
    for by in (1, 0):  # stable: entries first, then distances
        order = found[by].argsort(dim=1, stable=True)
        found = tuple(part.gather(1, order) for part in found)
    return tuple(part[:, :k] for part in found)


def _bounds(grids: torch.Tensor, sources: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """Lower bounds of the distances: int32 [m, E].

    grids: int16 [m, N + 1]; sources: int64 [n, E]; lower: int32 [n, V + 1].
    """
    sums = lower[0][_unsigned(grids[:, sources[0]])]
    for i in range(1, len(sources)):
        sums = sums + lower[i][_unsigned(grids[:, sources[i]])]
    return sums


def _promising(bounds: torch.Tensor, worst: float, k: int, n: int) -> torch.Tensor:
    """Numbers of the entries that may be among the k nearest, ascending: int64 [R].

    A sum of n bounds is less than n below the distance in units of 2^SHIFT; a distance that is
    rounded to the k-th least may be larger by a part in 2^23.
    """
    bounds = bounds.flatten()
    if worst < torch.inf:  # to get in takes a distance of less
        limit = (int(worst) - 1) >> SHIFT
    elif len(bounds) > k:
        limit = int(bounds.topk(k, largest=False).values[-1]) + n
        limit += (limit >> 22) + 1
    else:
        limit = 2**31 - 1
    return (bounds <= limit).nonzero()[:, 0]


def _unsigned(codes: torch.Tensor) -> torch.Tensor:
    """uint16 that was taken for int16 -> int32."""
    return codes.int() & 0xFFFF


def _moved(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A memory-mapped array on a device, read and sent in parts."""
    moved = torch.empty(array.shape, dtype=dtype, device=device)
    for start in range(0, len(array), CHUNK["cuda"]):
        part = np.array(array[start : start + CHUNK["cuda"]])
        moved[start : start + len(part)] = torch.from_numpy(part)
    return moved


def _joined(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.cat([one, other], dim=1)


def _nothing(device: torch.device) -> Found:
    none = torch.empty(1, 0, dtype=torch.int64, device=device)
    return none.float(), none, none


def _fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes take no more than half of what is free on the device."""
    return device.type == "cuda" and 2 * size <= torch.cuda.mem_get_info(device)[0]
