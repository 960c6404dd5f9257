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

from arrag.data.store_format import check_codes
from arrag.data.token_store import TokenStore
from arrag.retrieval.base import Heap, PatchIndex, empty_heap
from arrag.retrieval.neighborhood import MISSING
from arrag.retrieval.topk import replace_worst
from arrag.utils.errors import ArragError

OUT_OF_REACH = 2**30
BLOCK_BYTES = 256 * 1024
"""Grids scanned for all queries before the next are read: fits the second-level cache."""


class HammingIndex(PatchIndex):
    """Scan every entry of a store whose codebook holds only +1 and -1."""

    def __init__(self, store: TokenStore, meta: dict[str, Any]) -> None:
        super().__init__(store, meta)
        check_signs(store)
        self._checked_shards: set[int] = set()
        self._dimension = d = store.codebook.shape[1]
        self._bits = np.zeros(len(store.codebook) + 1, np.uint64)  # the last for a missing one
        self._bits[:-1] = (store.codebook > 0) @ (1 << np.arange(d, dtype=np.uint64))
        slots = np.arange(len(self.neighborhood.offsets))
        self._shifts = np.stack([slots // (64 // d), slots % (64 // d) * d], axis=1)  # [n, 2]
        height, width = store.grid
        hop = self.neighborhood.radius
        self._wide = wide = width + 2 * hop  # of a grid with a margin
        inside = np.pad(self._inside.numpy().reshape(height, width), hop).reshape(-1)
        places = np.flatnonzero(inside)
        self._first, self._stop = int(places[0]), int(places[-1]) + 1
        self._entries = places - self._first  # [E], those of the run that are no margin
        steps = np.array(self.neighborhood.offsets)  # [n, 2]
        self._steps = steps[:, 0] * wide + steps[:, 1]
        around = self.neighborhood.neighbor_index(*store.grid)[self._inside.numpy()]  # [E, n]
        self._on_grid = (around != MISSING).astype(np.int32)
        self._block = max(1, BLOCK_BYTES // (2 * height * width))

    def _scan(self, keys: np.ndarray, k: int) -> Heap:
        queries, heap = self._queries(keys), empty_heap(len(keys), k)
        for number, (grids, start) in enumerate(
            zip(self.store.shards, self.store.starts, strict=False)
        ):
            if number not in self._checked_shards:  # the kernel does not look
                check_codes(grids, len(self.store.codebook), f"store {self.store.path}")
                self._checked_shards.add(number)
            for m in range(0, len(grids), self._block):
                _scan_signs(
                    np.asarray(grids[m : m + self._block]),
                    int(start) + m,
                    (self._first, self._stop, self.neighborhood.radius),
                    self._steps,
                    self._shifts,
                    self._bits,
                    queries,
                    heap,
                )
        distances, entries, codes = heap
        return distances * np.float32(self._scale), entries, codes

    def _queries(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [Q, n] -> words, masks uint64 [Q, W] and corrections int32 [Q, R].

        R is a run of positions in a grid with a margin; those of the margin are out of reach.

        The bits of an entry's missing neighbour are zeros, so it is taken to differ by the query's
        ones; a correction replaces four times that by d, and adds d for what the query misses.
        """
        known = keys != MISSING  # [Q, n]
        fields = np.where(known, self._bits[keys], 0).astype(np.uint64)
        masks = np.where(known, np.uint64((1 << self._dimension) - 1), np.uint64(0))
        off_grid = self._dimension - 4 * np.bitwise_count(fields).astype(np.int32)
        corrections = np.where(known, off_grid, 0) @ (1 - self._on_grid).T
        if not self.neighborhood.masked_distance:
            corrections += self._dimension * (~known).astype(np.int32) @ self._on_grid.T
        run = np.full((len(keys), self._stop - self._first), OUT_OF_REACH, np.int32)
        run[:, self._entries] = corrections
        return self._packed(fields), self._packed(masks), run

    def _packed(self, fields: np.ndarray) -> np.ndarray:
        """A field a neighbour -> words: uint64 [Q, n] -> [Q, W]."""
        words = np.zeros((len(fields), int(self._shifts[-1, 0]) + 1), np.uint64)
        for slot, (word, shift) in enumerate(self._shifts):
            words[:, word] |= fields[:, slot] << np.uint64(shift)
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


@njit(nogil=True)
def _pack_keys(keys, image, first, steps, shifts):
    """Bits around a run of positions: keys uint64 [W, R], from a flat grid with a margin."""
    keys[:] = np.uint64(0)
    for i in range(len(steps)):
        word, shift = keys[shifts[i, 0]], np.uint64(shifts[i, 1])
        here = image[first + steps[i] : first + steps[i] + len(word)]
        for e in range(np.uint64(len(word))):
            word[e] |= here[e] << shift


@njit(nogil=True)
def _measure(sums, keys, words, masks, corrections):
    """Squared distances int32 [R] of keys uint64 [W, R] to a query; returns the least."""
    least = np.int32(2**31 - 1)
    for w in range(len(words)):
        for e in range(np.uint64(len(sums))):
            differing = np.int32(_popcount((keys[w, e] ^ words[w]) & masks[w]))
            before = corrections[e] if w == 0 else sums[e]
            sums[e] = before + np.int32(4) * differing
    for e in range(np.uint64(len(sums))):
        least = min(least, sums[e])
    return least


# Not cached: numba would not notice a change of replace_worst, which is in another file.
@njit(nogil=True)
def _scan_signs(grids, start, area, steps, shifts, bits, queries, heap):
    """Exact scan of some images by Hamming distance, all queries at once.

    grids: uint16 [m, H, W], images ``start`` and following. area: first and last place of the run
    that holds all entries, in a flat grid with a margin, and the margin. steps: int64 [n], to a
    neighbour there; shifts: int64 [n, 2], its word and first bit. bits: uint64 [V + 1], signs of a
    code. queries: from ``HammingIndex._queries``. heap: as in ``scan_grids``, not scaled.
    """
    words, masks, corrections = queries
    distances, entries, codes = heap
    images, height, width = grids.shape
    first, stop, margin = area
    wide = width + 2 * margin
    image = np.zeros((height + 2 * margin) * wide, np.uint64)
    sums = np.empty(stop - first, np.int32)
    keys = np.empty((words.shape[1], stop - first), np.uint64)
    for m in range(images):
        for row in range(height):
            for column in range(width):
                image[(row + margin) * wide + column + margin] = bits[grids[m, row, column]]
        _pack_keys(keys, image, first, steps, shifts)
        for q in range(len(words)):
            least = _measure(sums, keys, words[q], masks[q], corrections[q])
            if np.float32(least) >= distances[q, 0]:
                continue
            for e in range(len(sums)):
                # Entries come in ascending order, so on a tie the one already held stays.
                if sums[e] < OUT_OF_REACH and np.float32(sums[e]) < distances[q, 0]:
                    row, column = (first + e) // wide - margin, (first + e) % wide - margin
                    entry = ((start + m) * height + row) * width + column
                    code = np.int64(grids[m, row, column])
                    distance = np.float32(sums[e])
                    replace_worst(distances[q], entries[q], codes[q], distance, entry, code)
