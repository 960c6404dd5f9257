"""Exact search for codes of ±1 (MAGVIT-v2's, in Show-o): XOR and popcount over the grids.

Two vectors of signs differ by 2 wherever their bits do, so a squared L2 distance is four times a
Hamming distance; a missing neighbour is the zero vector, at distance d from every code. Needs the
store and ``meta.json`` only, and returns what mode ``exact`` returns, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from arrag.errors import ArragError
from arrag.index.base import Heap, PatchIndex, empty_heap
from arrag.index.exact import BLOCK_BYTES
from arrag.index.kernels import replace_worst
from arrag.neighborhood import MISSING
from arrag.store import TokenStore


class HammingIndex(PatchIndex):
    """Scan every entry of a store whose codebook holds only +1 and -1."""

    def __init__(self, store: TokenStore, meta: dict[str, Any]) -> None:
        super().__init__(store, meta)
        check_signs(store)
        self._dimension = d = store.codebook.shape[1]
        self._bits = np.zeros(len(store.codebook) + 1, np.uint64)  # the last for a missing one
        self._bits[:-1] = (store.codebook > 0) @ (1 << np.arange(d, dtype=np.uint64))
        slots = np.arange(len(self.neighborhood.offsets))
        self._shifts = np.stack([slots // (64 // d), slots % (64 // d) * d], axis=1)  # [n, 2]
        size = store.grid[0] * store.grid[1]
        positions = np.flatnonzero(self._inside.numpy())  # [E]
        around = self.neighborhood.sources(*store.grid)[positions]  # [E, n]
        # Positions whose neighbourhoods leave the grid alike share a mask.
        self._on_grid, group = np.unique(around != MISSING, axis=0, return_inverse=True)  # [P, n]
        order = np.argsort(group.reshape(-1), kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(group.reshape(-1)))])
        self._positions, around = positions[order], around[order]
        self._sources = np.where(around == MISSING, size, around).T.astype(np.uint32, order="C")
        self._grids = [np.asarray(shard).reshape(len(shard), size) for shard in store.shards]
        self._block = max(1, BLOCK_BYTES // (2 * size))

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        queries, heap = self._queries(keys), empty_heap(len(keys), k)
        for grids, start in zip(self._grids, self.store.starts, strict=False):
            for m in range(0, len(grids), self._block):
                _scan_signs(
                    grids[m : m + self._block],
                    int(start) + m,
                    self._sources,
                    self._positions,
                    self._starts,
                    self._bits,
                    self._shifts,
                    queries,
                    heap,
                )
        distances, entries, codes = heap
        return distances * np.float32(self._scale), entries, codes

    def _queries(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [Q, n] -> words uint64 [Q, W], masks uint64 [Q, P, W], constants float32 [Q, P]."""
        known = keys != MISSING  # [Q, n]
        both = known[:, None] & self._on_grid  # [Q, P, n]
        field = np.uint64((1 << self._dimension) - 1)
        words = self._packed(np.where(known, self._bits[keys], 0).astype(np.uint64))
        one_sided = known[:, None] & ~self._on_grid
        if not self.neighborhood.masked_distance:
            one_sided |= ~known[:, None] & self._on_grid
        constants = (self._dimension * one_sided.sum(axis=2)).astype(np.float32)
        return words, self._packed(both * field), constants

    def _packed(self, fields: np.ndarray) -> np.ndarray:
        """A field a neighbour -> words: uint64 [..., n] -> [..., W]."""
        words = np.zeros((*fields.shape[:-1], int(self._shifts[-1, 0]) + 1), np.uint64)
        for slot, (word, shift) in enumerate(self._shifts):
            words[..., word] |= fields[..., slot] << np.uint64(shift)
        return words


def check_signs(store: TokenStore) -> None:
    """Raise ArragError unless the codebook holds only +1 and -1, in 64 dimensions at most."""
    book = store.codebook
    odd = book[np.abs(book) != 1]
    if odd.size or book.shape[1] > 64:
        found = f"{odd[0]}" if odd.size else f"{book.shape[1]} dimensions"
        raise ArragError(
            f"index of {store.path}: mode hamming needs codes of +1 and -1 in 64 dimensions at "
            f"most, the codebook holds {found}; use mode exact or ivf"
        )


@intrinsic
def _popcount(typing_context, word):
    """Bits set in a uint64; numba has no function of its own for it."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


# Not cached: numba would not notice a change of replace_worst, which is in another file.
@njit(nogil=True)
def _scan_signs(grids, first, sources, positions, starts, bits, shifts, queries, heap):
    """Exact scan of some images by Hamming distance, all queries at once.

    grids: uint16 [m, N], images ``first`` and following. sources: uint32 [n, E], N off the grid;
    positions: int64 [E]; both sorted by what is off the grid, group p at ``starts[p:p + 2]``.
    bits: uint64 [V + 1], signs of a code, 0 for a missing one. shifts: int64 [n, 2], word and first
    bit of a neighbour. queries: (words uint64 [q, W], masks uint64 [q, P, W], constants float32
    [q, P]); a squared distance is the constant + 4 times the bits that differ under the mask.
    heap: as in ``scan_grids``, distances not scaled.
    """
    words, masks, constants = queries
    distances, entries, codes = heap
    images, size = grids.shape
    image = np.empty(size + 1, np.uint64)
    image[size] = 0
    keys = np.empty((words.shape[1], len(positions)), np.uint64)
    sums = np.empty(len(positions), np.uint64)
    for m in range(images):
        for j in range(size):
            image[j] = bits[grids[m, j]]
        keys[:] = np.uint64(0)
        for i in range(len(sources)):
            word, shift = keys[shifts[i, 0]], np.uint64(shifts[i, 1])
            for e in range(np.uint64(len(sums))):
                word[e] |= image[sources[i, e]] << shift
        for q in range(len(words)):
            for p in range(len(starts) - 1):
                here = slice(starts[p], starts[p + 1])
                _add_differing_bits(sums[here], keys[:, here], words[q], masks[q, p])
                for e in range(starts[p], starts[p + 1]):
                    distance = constants[q, p] + np.float32(4) * np.float32(sums[e])
                    if distance > distances[q, 0]:
                        continue
                    entry = (first + m) * size + positions[e]
                    if distance < distances[q, 0] or entry < entries[q, 0]:
                        code = np.int64(grids[m, positions[e]])
                        replace_worst(distances[q], entries[q], codes[q], distance, entry, code)


@njit(nogil=True)
def _add_differing_bits(sums, keys, words, masks):
    """Hamming distances to keys uint64 [W, E] under a mask."""
    for w in range(len(words)):
        for e in range(np.uint64(len(sums))):
            differing = _popcount((keys[w, e] ^ words[w]) & masks[w])
            sums[e] = differing if w == 0 else sums[e] + differing
