"""Retrieval for training, done once: the nearest patches of every position of every pair.

Shards (:mod:`arrag.training.shards`) of uint16 [n, N, K]: codes, nearest first; ABSENT if there are
fewer. An image never retrieves itself: the database's images of the same name or with the same
codes are left out.

Keys are of the finished image. For a raster generator this is what decoding finds: the neighbours
in its context precede the position, and are all decoded. For a masked one (full context) it is not:
here all neighbours count, also those masked in a training step, as in the authors' code (the paper
would retrieve anew for each mask), while decoding retrieves by the neighbours decoded so far. In
training the patches are thus nearer, and carry information about masked neighbours. Appendix B.2
narrows the gap by retrieving in the second half of the steps only, when most tokens are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.data.store_format import MAX_CODES
from arrag.data.token_store import TokenStore
from arrag.retrieval.base import PatchIndex
from arrag.training.pairs import Pairs
from arrag.training.shards import Shards, write_shards
from arrag.utils.errors import MismatchError, UsageError
from arrag.utils.shards import JobPart

FORMAT = 1
ABSENT = MAX_CODES
SHARD_IMAGES = 256
BATCH = 8
SLACK = 8
"""Patches fetched beyond k at first, to make up for those of the image itself."""


def retrieve_neighbours(
    pairs: Pairs,
    index: PatchIndex,
    out: str | Path,
    k: int,
    *,
    shard_images: int = SHARD_IMAGES,
    part: JobPart | None = None,
) -> dict[str, Any]:
    """Write the ``k`` nearest patches of every position of all pairs; continues after a kill.

    ``part`` and the returned manifest are as of :func:`arrag.training.shards.write_shards`.

    Raises:
        MismatchError: The tokenizers differ, or the folder was begun with other settings.
        UsageError: The index's entries cannot be traced to images, or it has fewer than ``k``.
    """
    ours, theirs = pairs.store.tokenizer_digest, index.store.tokenizer_digest
    if ours != theirs:
        found = f"its tokenizer is {ours}, the database's {theirs}"
        hint = "encode both with the generator's tokenizer"
        raise MismatchError(found, path=pairs.path, hint=hint)
    if index.meta.mode == "official":
        message = "is 'official', whose entries name no image, so that an image could find itself"
        raise UsageError(message, field="index: mode", hint="build an index over your own store")
    if not 1 <= k <= index.meta.entries:
        found = f"is {k}, expected 1 to {index.meta.entries}, the entries of the index"
        raise UsageError(found, field="-k")
    header = {
        "format": FORMAT,
        "pairs_digest": pairs.digest,
        "index_digest": index.digest,
        "database_digest": index.store.digest,
        "k": k,
        "positions": pairs.store.grid[0] * pairs.store.grid[1],
    }
    # Reads the whole database, which a last job after all parts need not.
    own = cache(lambda: own_images(pairs.store, index.store))

    def rows_of(images: np.ndarray) -> np.ndarray:
        return nearest_others(index, pairs.store.grids(images), [own()(i) for i in images], k)

    sizes = dict(rows_in_shard=shard_images, rows_at_once=BATCH)
    return write_shards(out, header, len(pairs.store), rows_of, **sizes, what="retrieve", part=part)


def nearest_others(
    index: PatchIndex, grids: np.ndarray, own: Sequence[np.ndarray], k: int
) -> np.ndarray:
    """Find the k nearest patches of every position that are not of the image itself.

    Args:
        index: Over the database.
        grids: Codes of the images, [B, H, W].
        own: For each image, the database's images to leave out.
        k: Patches a position.

    Returns:
        Codes uint16 [B, N, k], ABSENT where fewer were found: what a search of the database without
        those images would find (of an index with lists: in the lists that it visits).
    """
    codes = torch.from_numpy(grids.astype(np.int64))
    known = torch.ones_like(codes, dtype=torch.bool)  # what is not a neighbour is not looked at
    size = codes.shape[1] * codes.shape[2]
    positions, entries = torch.arange(size), index.meta.entries
    # No more of an entry's rivals can be the image's own than it has patches.
    enough = min(k + size * max((len(o) for o in own), default=0), entries)
    fetch = min(k + SLACK, enough)
    while True:
        found = index.search(codes, known, positions, fetch)
        entry, code = found.entries.numpy(), found.codes.numpy()  # [B, N, fetch]
        image = np.where(entry < 0, -1, entry // size)
        keep = np.stack([~np.isin(i, o) for i, o in zip(image, own, strict=True)]) & (entry >= 0)
        short = (keep.sum(-1) < k) & (entry[..., -1] >= 0)
        if fetch == enough or not short.any():
            break
        fetch = min(4 * fetch, enough)
    order = np.argsort(~keep, axis=-1, kind="stable")  # those kept first, in their order
    code = np.take_along_axis(np.where(keep, code, ABSENT), order, -1)[..., :k]
    missing = k - code.shape[-1]
    return np.pad(code, ((0, 0), (0, 0), (0, missing)), constant_values=ABSENT).astype(np.uint16)


def own_images(pairs: TokenStore, database: TokenStore) -> Callable[[int], np.ndarray]:
    """Return a function from a pair to the numbers of the database's images that equal its own."""
    names = {pairs.keys(i): i for i in range(len(pairs))}
    grids: dict[bytes, list[int]] = {}
    for i in range(len(pairs)):
        grids.setdefault(pairs.grids(np.array([i]))[0].tobytes(), []).append(i)
    found: dict[int, set[int]] = {}
    number = 0
    for shard in database.shards:
        for grid in shard:
            same = set(grids.get(grid.tobytes(), ()))
            if (named := names.get(database.keys(number))) is not None:
                same.add(named)
            for pair in same:
                found.setdefault(pair, set()).add(number)
            number += 1
    return lambda pair: np.array(sorted(found.get(pair, ())), np.int64)


class Neighbours:
    """Finished retrieval of some pairs.

    Raises:
        MissingError: It is not finished.
        MismatchError: It is of other pairs or of another index, or has fewer than ``k`` patches.
    """

    def __init__(self, path: str | Path, pairs: Pairs, k: int, index_digest: str) -> None:
        again = "run `arrag train neighbours` again with these pairs and this index"
        expected = {"format": FORMAT, "pairs_digest": pairs.digest, "index_digest": index_digest}
        self._shards = Shards(path, expected, again)
        self.manifest = self._shards.manifest
        if (found := self.manifest["k"]) < k:
            hint = f"run `arrag train neighbours` again with -k {k}, or train with fewer"
            message = f"is {found}, but {k} patches of a position are needed"
            raise MismatchError(message, path=path, field="k", hint=hint)

    def codes(self, images: np.ndarray, k: int) -> torch.Tensor:
        """The first k patches of some pairs: int64 [B, N, k], -1 where absent."""
        codes = self._shards.rows(images)[..., :k].astype(np.int64)
        return torch.from_numpy(np.where(codes == ABSENT, -1, codes))
