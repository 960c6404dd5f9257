"""The exact scan of a codebook of +1 and -1: XOR and popcount over the grids.

Two vectors of signs differ by 2 wherever their bits do, so a squared L2 distance is four times a
Hamming distance. A missing neighbour is the zero vector, at distance d from every code.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from arrag.data.store_format import check_codes
from arrag.data.token_store import TokenStore
from arrag.retrieval.distances import Heap, empty_heap, replace_worst
from arrag.retrieval.neighborhood import MISSING, Neighborhood

NO_ENTRY = 2**30
"""Added to the distance of places that are no entries."""
BLOCK_BYTES = 256 * 1024
"""Of grids scanned for all queries before the next are read: fits the second-level cache."""


def has_signs_only(codebook: np.ndarray) -> bool:
    """Whether all numbers of float32 [V, d] are +1 or -1, and a code fits 64 bits."""
    return codebook.shape[1] <= 64 and bool((np.abs(codebook) == 1).all())


class SignScan:
    """Search of a store whose codebook holds only signs.

    A key is packed into W words of 64 bits, 64 // d neighbours in each. A mask has all d bits of
    the neighbours that are known.
    """

    def __init__(self, store: TokenStore, neighborhood: Neighborhood, scale: float) -> None:
        self.store, self.neighborhood, self.scale = store, neighborhood, scale
        d = self._dimension = store.codebook.shape[1]
        self._bits = np.zeros(len(store.codebook) + 1, np.uint64)  # the last: a missing neighbour
        self._bits[:-1] = (store.codebook > 0) @ (1 << np.arange(d, dtype=np.uint64))
        slots = np.arange(len(neighborhood.offsets))
        self._shifts = np.stack([slots // (64 // d), slots % (64 // d) * d], axis=1)  # [n, 2]
        (height, width), margin = store.grid, neighborhood.radius
        inside = neighborhood.valid_positions(height, width).numpy()
        places = np.flatnonzero(np.pad(inside, margin))  # [E], in a grid with a margin
        self._area = int(places[0]), int(places[-1]) + 1, margin
        self._entries = places - places[0]
        self._steps = np.array(neighborhood.offsets) @ (width + 2 * margin, 1)  # [n]
        around = neighborhood.neighbor_index(height, width)[inside.reshape(-1)]  # [E, n]
        self._on_grid = self._masks(around != MISSING).T  # [W, E]
        self._block = max(1, BLOCK_BYTES // (2 * height * width))
        self._checked: set[int] = set()

    def scan(self, keys: np.ndarray, k: int) -> Heap:
        """As ``PatchIndex._scan``."""
        queries, heap = self._queries(keys), empty_heap(len(keys), k)
        for number, (grids, start) in enumerate(
            zip(self.store.shards, self.store.starts, strict=False)
        ):
            if number not in self._checked:  # the kernel does not check
                check_codes(grids, len(self.store.codebook), self.store.path)
                self._checked.add(number)
            for m in range(0, len(grids), self._block):
                _scan_signs(
                    np.asarray(grids[m : m + self._block]),
                    int(start) + m,
                    self._area,
                    self._steps,
                    self._shifts,
                    self._bits,
                    queries,
                    heap,
                )
        return heap[0] * np.float32(self.scale), *heap[1:]

    def _queries(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words and masks uint64 [Q, W], and corrections int32 [Q, R] over a run of R places.

        The bits of an entry's missing neighbour are zeros, so the scan takes it to differ by the
        query's ones: a correction replaces four times that by d, and adds d where the query alone
        misses a neighbour.
        """
        known = keys != MISSING  # [Q, n]
        words = self._packed(np.where(known, self._bits[keys], 0).astype(np.uint64))
        masks = self._masks(known)
        off_grid = masks[..., None] & ~self._on_grid  # [Q, W, E]
        corrections = np.bitwise_count(off_grid).sum(axis=1, dtype=np.int32)
        corrections -= 4 * np.bitwise_count(words[..., None] & off_grid).sum(axis=1, dtype=np.int32)
        if not self.neighborhood.masked_distance:
            unknown = ~masks[..., None] & self._on_grid
            corrections += np.bitwise_count(unknown).sum(axis=1, dtype=np.int32)
        run = np.full((len(keys), self._area[1] - self._area[0]), NO_ENTRY, np.int32)
        run[:, self._entries] = corrections
        return words, masks, run

    def _masks(self, known: np.ndarray) -> np.ndarray:
        return self._packed(np.where(known, np.uint64((1 << self._dimension) - 1), np.uint64(0)))

    def _packed(self, fields: np.ndarray) -> np.ndarray:
        """A field of d bits a neighbour -> words: uint64 [Q, n] -> [Q, W]."""
        words = np.zeros((len(fields), int(self._shifts[-1, 0]) + 1), np.uint64)
        for slot, (word, shift) in enumerate(self._shifts):
            words[:, word] |= fields[:, slot] << np.uint64(shift)
        return words


@intrinsic
def _popcount(typing_context, word):
    """Bits set in a uint64; numba has no function for it."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(nogil=True)
def _pack_keys(keys, image, first, steps, shifts):
    """Fill uint64 [W, R] with the keys of a run of places of a flat grid with a margin."""
    keys[:] = np.uint64(0)
    for i in range(len(steps)):
        word, shift = keys[shifts[i, 0]], np.uint64(shifts[i, 1])
        here = image[first + steps[i] : first + steps[i] + len(word)]
        for e in range(np.uint64(len(word))):
            word[e] |= here[e] << shift


@njit(nogil=True)
def _measure(sums, keys, words, masks, corrections):
    """Fill int32 [R] with squared distances of keys uint64 [W, R] to a query; return the least."""
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
    """Scan some images for all queries.

    Args:
        grids: uint16 [m, H, W], images ``start`` and following.
        start: Number of the first image.
        area: First and last place of the run that holds all entries, in a flat grid with a margin,
            and the margin.
        steps: int64 [n], to the neighbours there.
        shifts: int64 [n, 2], word and first bit of each neighbour.
        bits: uint64 [V + 1], signs of a code.
        queries: From ``SignScan._queries``.
        heap: See ``Heap``, here of distances that are not scaled; updated.
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
                if sums[e] < NO_ENTRY and np.float32(sums[e]) < distances[q, 0]:
                    row, column = (first + e) // wide - margin, (first + e) % wide - margin
                    entry = ((start + m) * height + row) * width + column
                    code = np.int64(grids[m, row, column])
                    distance = np.float32(sums[e])
                    replace_worst(distances[q], entries[q], codes[q], distance, entry, code)
