"""Whole images by what they show: CLIP features of a store's images, exact cosine top-k.

For baselines that retrieve images instead of patches: RA-CM3 (a text's feature against images'
features, spec: top-1, never the training image itself), ImageRAG, RDM. A directory:

    features.f32   float32 [n, d], unit rows, memory-mapped; row i is image i of the store
    meta.json      the model, the store and the file it belongs to
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from arrag.clip import OpenClip
from arrag.errors import ArragError
from arrag.files import atomic_path, disk_space, read_json, write_json
from arrag.images import Decoded, decode_all
from arrag.index.base import check_files, describe_files
from arrag.sources import Items, open_source
from arrag.store import TokenStore

FORMAT = 1
FEATURES = "features.f32"
BLOCK_ROWS = 4096
ROUGH = 1e-5
"""More than float32 rounding changes a cosine."""


def build_image_index(
    store: TokenStore,
    source: str,
    clip: OpenClip,
    out: str | Path,
    *,
    limit: int | None = None,
    assets: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> dict[str, Any]:
    """Write the features of a store's images, read from the source that they were encoded from.

    source, limit, assets: see ``open_source``. Each image is scaled and cropped as for the
    tokenizer, at the model's size. Returns the meta data; the directory appears whole or not at
    all. Raises ArragError if the source lacks an image of the store, or one cannot be read.
    """
    items = _stored(open_source(source, limit, assets), store, source)
    images = decode_all(items, clip.image_size, workers=workers)
    with atomic_path(out) as path, disk_space(out):
        path.mkdir()
        with (
            open(path / FEATURES, "wb") as file,
            tqdm(desc=f"features of {source}", total=len(store), unit="image") as bar,
        ):
            while batch := list(islice(images, batch_size)):
                features = clip.encode_images([_pixels(image) for image in batch])
                file.write(features.cpu().float().numpy().tobytes())
                bar.update(len(batch))
        meta = {
            "format": FORMAT,
            "images": len(store),
            "dimension": features.shape[1],
            "model": clip.name,
            "model_digest": clip.digest,
            "store_digest": store.digest,
            "files": describe_files(path, [FEATURES]),
        }
        write_json(path / "meta.json", meta)
    return meta


class ImageIndex:
    """Exact search among the images of a store by the cosine of their features.

    Raises ArragError for another store or model (naming both digests), or a truncated file.
    """

    def __init__(self, path: str | Path, store: TokenStore, model_digest: str) -> None:
        path = Path(path)
        self.path, self.store, self.meta = path, store, read_json(path / "meta.json")
        for field, ours in {
            "format": FORMAT,
            "store_digest": store.digest,
            "model_digest": model_digest,
        }.items():
            if self.meta.get(field) != ours:
                raise ArragError(
                    f"{path / 'meta.json'}: {field} is {self.meta.get(field)}, but {ours} is in "
                    "use; build the image index again from that store and model"
                )
        check_files(path, self.meta)
        shape = (self.meta["images"], self.meta["dimension"])
        self.features = np.memmap(path / FEATURES, np.float32, "r", shape=shape)  # [n, d]

    def search(
        self, queries: torch.Tensor, k: int, own: Sequence[str | None] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k images most like each query: cosines float32 [Q, k] and images int64 [Q, k].

        queries: [Q, d], of images or of texts, of any length but 0. own: a key for each query
        whose images are left out (a training image must not retrieve itself); None or a key that
        the store lacks leaves nothing out. Sorted by (cosine downwards, image); -inf and -1 where
        fewer are left. A row does not depend on the other rows. Raises ArragError for k outside
        [1, images], queries of another width, or not finite.
        """
        vectors = self._checked(queries, k)
        best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in vectors]
        banned = [self._rows.get(key, _NONE) for key in own or [None] * len(vectors)]
        for start in range(0, len(self.features), BLOCK_ROWS):
            block = np.asarray(self.features[start : start + BLOCK_ROWS])
            for q, vector in enumerate(vectors):
                # One vector at a time: a matrix product would round by the size of the batch.
                rough = block @ vector
                here = banned[q][(banned[q] >= start) & (banned[q] < start + len(block))]
                rough[here - start] = -np.inf
                best[q] = _merged(best[q], block, rough, vector, start, k)
        cosines = np.full((len(vectors), k), -np.inf, np.float32)
        images = np.full((len(vectors), k), -1, np.int64)
        for q, (values, numbers) in enumerate(best):
            cosines[q, : len(values)], images[q, : len(values)] = values, numbers
        return torch.from_numpy(cosines), torch.from_numpy(images)

    @cached_property
    def _rows(self) -> dict[str | None, np.ndarray]:
        """Images of each key: one, but for stores merged of parts that share keys."""
        rows: dict[str | None, list[int]] = {}
        for image in range(len(self.store)):
            rows.setdefault(self.store.keys(image), []).append(image)
        return {key: np.array(images) for key, images in rows.items()}

    def _checked(self, queries: torch.Tensor, k: int) -> np.ndarray:
        """Unit float32 [Q, d]."""
        images, dimension = self.features.shape
        if not 1 <= k <= images:
            raise ArragError(
                f"image index {self.path}: k is {k}, it holds {images} images; "
                "use 1 <= k <= images or a larger database"
            )
        vectors = queries.detach().cpu().double().numpy()
        if vectors.ndim != 2 or vectors.shape[1] != dimension:
            raise ArragError(
                f"image index {self.path}: queries are {list(vectors.shape)}, features have "
                f"{dimension} dimensions; use the model it was made with ({self.meta['model']})"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        pointing = np.isfinite(lengths) & (lengths > 0)
        if not pointing.all():
            raise ArragError(
                f"image index {self.path}: query {int(pointing.argmin())} has no direction (zero, "
                "or not finite); check what made it"
            )
        return (vectors / lengths).astype(np.float32)


_NONE = np.empty(0, np.int64)


def _merged(
    best: tuple[np.ndarray, np.ndarray],
    block: np.ndarray,
    rough: np.ndarray,
    vector: np.ndarray,
    start: int,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of those held and of a block [rows, d], ties to the lower image.

    rough: cosines [rows] whose rounding depends on a row's place in the block, so that equal images
    would not tie; those that may get in are computed anew in float64.
    """
    least = -np.inf
    if k < len(rough):
        least = np.partition(rough, -k)[-k] - ROUGH
    if len(best[0]) == k:
        least = max(least, best[0][-1] - ROUGH)
    found = np.flatnonzero((rough >= least) & (rough > -np.inf))
    exact = (block[found].astype(np.float64) * vector).sum(axis=1).astype(np.float32)
    values = np.concatenate([best[0], exact])
    images = np.concatenate([best[1], start + found])
    order = np.lexsort((images, -values))[:k]
    return values[order], images[order]


def _stored(items: Items, store: TokenStore, source: str) -> Items:
    """Those items of a source that the store holds, in its order."""
    wanted = 0
    for key, load in items:
        if wanted < len(store) and key == store.keys(wanted):
            wanted += 1
            yield key, load
    if wanted < len(store):
        raise ArragError(
            f"{source}: has no image {store.keys(wanted)!r} where the store {store.path} has its "
            f"image {wanted}; give the source that the store was encoded from"
        )


def _pixels(image: Decoded) -> np.ndarray:
    if image.pixels is None:
        raise ArragError(
            f"{image.key}: cannot be read ({image.problem}), but the store holds it; restore it"
        )
    return image.pixels
