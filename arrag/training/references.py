"""Retrieval for RA-CM3's training, done once: the image that each training caption retrieves.

Paper appendix B.1. The caption's CLIP feature retrieves by cosine similarity. A training image
never retrieves itself: images of the same name or with the same codes are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.data.clip import OpenClip
from arrag.retrieval.image_index import ImageIndex
from arrag.training.pairs import Pairs
from arrag.training.shards import Shards, write_shards
from arrag.utils.errors import MissingError
from arrag.utils.hashing import sha256_json

FORMAT = 1
CAPTIONS_AT_ONCE = 1024
FETCH = 8
"""Images fetched for a caption, of which the first that is not the training image is taken."""


def retrieve_references(
    pairs: Pairs, index: ImageIndex, clip: OpenClip, out: str | Path
) -> dict[str, Any]:
    """Write the database's image that each pair's caption retrieves: shards of int64 [n].

    Continues after a kill.

    Raises:
        MissingError: Every image that a caption retrieves is its own.
    """
    store = index.store

    def first_other(images: np.ndarray, grid: np.ndarray) -> int:
        images = images[images >= 0]
        for image, other in zip(images, store.grids(images), strict=True):
            if not np.array_equal(other, grid):
                return int(image)
        message = "has no other image than the training image for some caption"
        raise MissingError(message, path=store.path, hint="use a larger database")

    def rows_of(numbers: np.ndarray) -> np.ndarray:
        texts = torch.cat([clip.encode_texts([pairs.captions[i]]) for i in numbers])
        own = [pairs.store.keys(i) for i in numbers]
        found = index.search(texts, min(FETCH, len(store)), own=own)[1].numpy()  # [n, FETCH]
        return np.array([*map(first_other, found, pairs.store.grids(numbers))], np.int64)

    sizes = dict(rows_in_shard=CAPTIONS_AT_ONCE, rows_at_once=CAPTIONS_AT_ONCE)
    header, total = _header(pairs, index), len(pairs.store)
    return write_shards(out, header, total, rows_of, **sizes, what="references")


def _header(pairs: Pairs, index: ImageIndex) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "pairs_digest": pairs.digest,
        "database_digest": index.store.digest,
        "clip_digest": index.meta.model_digest,
    }


class References:
    """Finished references of some pairs.

    Attributes:
        digest: Of the pairs, the database and the model that they were retrieved with.

    Raises:
        MissingError: They are not finished.
        MismatchError: They are of other pairs, another database or another model.
    """

    def __init__(self, path: str | Path, pairs: Pairs, index: ImageIndex) -> None:
        header = _header(pairs, index)
        again = "run `arrag train references` again with these pairs and this image index"
        self._shards = Shards(path, header, again)
        self._store = index.store
        self.digest = sha256_json(header)

    def codes(self, pairs: np.ndarray) -> torch.Tensor:
        """Codes of the reference of some pairs: int64 [B, N]."""
        grids = self._store.grids(self._shards.rows(pairs))
        return torch.from_numpy(grids.astype(np.int64)).flatten(1)
