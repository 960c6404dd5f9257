"""Whole images by their content: CLIP features of a store's images, exact cosine top-k.

For the baselines that retrieve images instead of patches: RA-CM3 (a text's feature against the
images', spec: top-1, never the training image itself), ImageRAG, RDM. A folder::

    features.f32       float32 [n, d], unit rows, memory-mapped; row i is image i of the store
    meta.json          the model, the store and the file it belongs to
    meta.partial.json  what a build was begun with
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from tqdm import tqdm

from arrag.data.clip import OpenClip
from arrag.data.images import Decoded, decode_all
from arrag.data.sources import Items, open_source
from arrag.data.token_store import TokenStore
from arrag.retrieval.meta import (
    META,
    REBUILD,
    FileInfo,
    check_files,
    check_identity,
    describe_files,
)
from arrag.utils.errors import FormatError, MismatchError, UsageError
from arrag.utils.files import read_model
from arrag.utils.outputs import atomic_path
from arrag.utils.resource_errors import disk_space
from arrag.utils.shards import FileName, ShardWriter

FORMAT = 1
FEATURES, PARTIAL = "features.f32", "meta.partial.json"
BLOCK_ROWS = 4096
ROUGH = 1e-5
"""More than float32 rounding changes a cosine."""


class ImageIndexMeta(BaseModel):
    """``meta.json`` of an image index."""

    format: Literal[1]
    images: NonNegativeInt
    dimension: PositiveInt
    model: str
    model_digest: str
    store_digest: str
    files: dict[FileName, FileInfo]


def build_image_index(
    store: TokenStore,
    source: str | Sequence[str],
    clip: OpenClip,
    out: str | Path,
    *,
    limit: int | None = None,
    assets: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> dict[str, Any]:
    """Write the features of a store's images, read from the source that they were encoded from.

    Each image is scaled and cropped as for the tokenizer, at the model's size. A killed build
    continues after the last whole shard of the store, with the same result. Its files are in a
    hidden folder next to ``out``, which keeps its contents until the build is complete.

    Args:
        store: The token store.
        source, limit, assets: See ``open_source``; several sources in the order of the store.
        clip: The model.
        out: Folder to write.
        batch_size: Images encoded together; rounding depends on it.
        workers: Further processes that decode images.

    Returns:
        The contents of ``meta.json``.

    Raises:
        MismatchError: The source lacks an image of the store.
        FormatError: An image cannot be read any more.
    """
    sources, out = [source] if isinstance(source, str) else source, Path(out)
    source = ", ".join(sources)
    work = out.parent / f".{out.name}.building"
    if (out / PARTIAL).is_file() and not (out / META).exists() and not work.exists():
        os.replace(out, work)  # Snakemake deletes the meta.json of a job whose end it missed
    bounds = store.starts.tolist()
    identity = {"format": FORMAT, "store": store.digest, "shards": bounds, "clip": clip.digest}
    writer = ShardWriter(
        work,
        identity | {"batch_size": batch_size},
        own=(FEATURES, "features-*.npy"),
        partial=PARTIAL,
        final=META,
        restart=True,
    )
    parts = [work / f"features-{i:05d}.npy" for i in range(len(bounds) - 1)]
    if not (work / FEATURES).is_file():
        done = sum(part.is_file() for part in parts)  # they are written in order
        opened = chain.from_iterable(open_source(one, limit, assets) for one in sources)
        items = islice(_stored(opened, store, source), bounds[done], None)
        images = decode_all(items, clip.image_size, workers=workers)
        with tqdm(
            total=len(store), initial=bounds[done], desc=f"features of {source}", unit="image"
        ) as bar:
            for part, (start, stop) in list(zip(parts, pairwise(bounds), strict=True))[done:]:
                features = []
                # No batch spans two shards: rounding depends on the batch.
                for first in range(start, stop, batch_size):
                    batch = list(islice(images, min(batch_size, stop - first)))
                    found = clip.encode_images([_pixels(image) for image in batch])
                    features.append(found.cpu().float().numpy())
                    bar.update(len(batch))
                writer.write(part, lambda to, rows=features: np.save(to, np.concatenate(rows)))
        writer.write(work / FEATURES, lambda to: _join(parts, to))
    for part in parts:
        part.unlink(missing_ok=True)
    size = (work / FEATURES).stat().st_size
    meta = {
        "format": FORMAT,
        "images": len(store),
        "dimension": size // 4 // len(store),
        "model": clip.name,
        "model_digest": clip.digest,
        "store_digest": store.digest,
        "files": describe_files(work, [FEATURES]),
    }
    writer.finish(meta)
    with disk_space(out), atomic_path(out) as path:
        os.replace(work, path)
    return meta


def _join(parts: Sequence[Path], to: Path) -> None:
    with open(to, "wb") as file:
        for part in parts:
            np.load(part).tofile(file)


def _stored(items: Items, store: TokenStore, source: str) -> Items:
    """Those items of a source that the store holds, in its order."""
    found = 0
    for key, load in items:
        if found < len(store) and key == store.keys(found):
            found += 1
            yield key, load
    if found < len(store):
        raise MismatchError(
            f"{source} has no image {store.keys(found)!r}, which is image {found} of the store",
            path=store.path,
            hint="give the source that the store was encoded from",
        )


def _pixels(image: Decoded) -> np.ndarray:
    if image.pixels is None:
        raise FormatError(
            f"cannot be read any more ({image.problem}), but the store holds it",
            path=image.key,
            hint="restore the image",
        )
    return image.pixels


class ImageIndex:
    """Exact search among the images of a store by the cosine of their features.

    Args:
        path: Folder of the index.
        store: The store it was built from.
        model_digest: Of the CLIP model that encodes the queries.

    Raises:
        MismatchError: It was built from another store or with another model.
        FormatError: A file is damaged.
    """

    def __init__(self, path: str | Path, store: TokenStore, model_digest: str) -> None:
        path = Path(path)
        self.path, self.store = path, store
        self.meta = read_model(path / META, ImageIndexMeta, REBUILD)
        expected = {"store_digest": store.digest, "model_digest": model_digest}
        check_identity(path, self.meta, expected, "that store and model")
        check_files(path, self.meta.files)
        shape = (self.meta.images, self.meta.dimension)
        size = (path / FEATURES).stat().st_size if (path / FEATURES).is_file() else None
        if shape[0] != len(store) or size != 4 * shape[0] * shape[1]:
            raise FormatError(
                f"{size} bytes are no {shape[0]} x {shape[1]} features of the {len(store)} images "
                f"of {store.path}",
                path=path / FEATURES,
                hint=REBUILD,
            )
        self.features = np.memmap(path / FEATURES, np.float32, "r", shape=shape)  # [n, d]

    def search(
        self, queries: torch.Tensor, k: int, own: Sequence[str | None] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k images most similar to each query. A row does not depend on the other rows.

        Args:
            queries: [Q, d], features of images or texts, of any length but 0.
            k: How many images.
            own: For each query the key of the images to leave out, since a training image must not
                retrieve itself; None, or a key that the store lacks, leaves nothing out.

        Returns:
            Cosines float32 [Q, k] and images int64 [Q, k], sorted by (cosine downwards, image);
            -inf and -1 where fewer are left.

        Raises:
            UsageError: ``k`` is not in [1, images], or a query is zero or not finite.
            MismatchError: Queries of another dimension.
        """
        vectors = self._checked(queries, k)
        nothing = np.empty(0, np.int64)
        best = [(np.full(k, -np.inf, np.float32), np.full(k, -1)) for _ in vectors]
        banned = [self._rows.get(key, nothing) for key in own or [None] * len(vectors)]
        for start in range(0, len(self.features), BLOCK_ROWS):
            block = np.asarray(self.features[start : start + BLOCK_ROWS])
            for q, vector in enumerate(vectors):
                # One vector at a time: a matrix product would round by the size of the batch.
                rough = block @ vector
                here = banned[q][(banned[q] >= start) & (banned[q] < start + len(block))]
                rough[here - start] = -np.inf
                best[q] = _merged(best[q], block, rough, vector, start, k)
        cosines = np.array([values for values, _ in best], np.float32).reshape(-1, k)
        images = np.array([numbers for _, numbers in best], np.int64).reshape(-1, k)
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
            raise UsageError(
                f"found {k}, the image index {self.path} holds {images} images",
                field="k",
                hint="use 1 <= k <= images, or a larger database",
            )
        vectors = queries.detach().cpu().double().numpy()
        if vectors.ndim != 2 or vectors.shape[1] != dimension:
            raise MismatchError(
                f"the queries are {list(vectors.shape)}, the features have {dimension} dimensions",
                path=self.path,
                hint=f"use the model it was made with ({self.meta.model})",
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        valid = np.isfinite(lengths) & (lengths > 0)
        if not valid.all():
            raise UsageError(
                f"query {int(valid.argmin())} of the image index {self.path} is zero or not finite",
                hint="check what computed it",
            )
        return (vectors / lengths).astype(np.float32)


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
    least = best[0][-1] - ROUGH
    if k < len(rough):
        least = max(least, np.partition(rough, -k)[-k] - ROUGH)
    found = np.flatnonzero((rough >= least) & (rough > -np.inf))
    exact = (block[found].astype(np.float64) * vector).sum(axis=1).astype(np.float32)
    values = np.concatenate([best[0], exact])
    images = np.concatenate([best[1], start + found])
    order = np.lexsort((images, -values))[:k]
    return values[order], images[order]
