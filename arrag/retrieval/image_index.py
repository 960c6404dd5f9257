"""Whole images by what they show: CLIP features of a store's images, exact cosine top-k.

For baselines that retrieve images instead of patches: RA-CM3 (a text's feature against images'
features, spec: top-1, never the training image itself), ImageRAG, RDM. A directory:

    features.f32   float32 [n, d], unit rows, memory-mapped; row i is image i of the store
    meta.json      the model, the store and the file it belongs to
    done.json      how far a build has come; it stays
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from arrag.data.clip import OpenClip
from arrag.data.images import Decoded, decode_all
from arrag.data.sources import Items, open_source
from arrag.data.token_store import TokenStore
from arrag.retrieval.base import check_files, describe_files
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json
from arrag.utils.outputs import atomic_path
from arrag.utils.resource_errors import disk_space

FORMAT = 1
FEATURES, META = "features.f32", "meta.json"
BLOCK_ROWS = 4096
ROUGH = 1e-5
"""More than float32 rounding changes a cosine."""


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

    source, limit, assets: see ``open_source``; several sources in the order of the store. Each
    image is scaled and cropped as for the tokenizer, at the model's size. Goes on after a kill
    behind the last whole shard of the store; until all is done the features lie in a hidden folder
    beside ``out``, and what was at ``out`` stays. How often it was killed changes nothing. Returns
    the meta data. Raises ArragError if the source lacks an image of the store, or one cannot be
    read.
    """
    sources = [source] if isinstance(source, str) else source
    source = ", ".join(sources)
    opened = chain.from_iterable(open_source(one, limit, assets) for one in sources)
    items = _stored(opened, store, source)
    with disk_space(out):
        work = _Features(Path(out), store, clip, batch_size)
        images = decode_all(islice(items, work.done, None), clip.image_size, workers=workers)
        about = {"desc": f"features of {source}", "unit": "image"}
        with tqdm(total=len(store), initial=work.done, **about) as bar:
            for stop in store.starts[1:].tolist():
                while work.done < stop:  # no batch spans two shards: rounding depends on the batch
                    batch = list(islice(images, min(batch_size, stop - work.done)))
                    work.add(clip.encode_images([_pixels(image) for image in batch]))
                    bar.update(len(batch))
                work.keep()
        meta = {
            "format": FORMAT,
            "images": len(store),
            "dimension": work.dimension,
            "model": clip.name,
            "model_digest": clip.digest,
            "store_digest": store.digest,
        }
        return work.finish(meta)


class _Features:
    """Features written so far, in a hidden folder: what is listed in ``done.json`` counts."""

    def __init__(self, out: Path, store: TokenStore, clip: OpenClip, batch_size: int) -> None:
        self.out, self.path = out, out.parent / f".{out.name}.building"
        self._of = [FORMAT, store.digest, store.starts.tolist(), clip.digest, batch_size]
        self.done, self.dimension = 0, 0
        unfinished = (self.out / "done.json").is_file() and not (self.out / META).exists()
        if unfinished and not self.path.exists():
            os.replace(self.out, self.path)  # Snakemake deletes the meta.json of a killed job
        if (self.path / "done.json").is_file():
            state = read_json(
                self.path / "done.json", {"of": list, "images": int, "dimension": int}
            )
            if state["of"] == self._of:
                self.done, self.dimension = state["images"], state["dimension"]
        if not self.done and self.path.exists():
            shutil.rmtree(self.path)  # of another store or model, or before its first shard
        self.path.mkdir(parents=True, exist_ok=True)
        if self.done:
            os.truncate(self.path / FEATURES, 4 * self.done * self.dimension)

    def add(self, features: torch.Tensor) -> None:
        """Append float [n, d]."""
        with open(self.path / FEATURES, "ab") as file:
            file.write(features.cpu().float().numpy().tobytes())
        self.done, self.dimension = self.done + len(features), features.shape[1]

    def keep(self) -> None:
        """What was added so far need not be made again."""
        state = {"of": self._of, "images": self.done, "dimension": self.dimension}
        write_json(self.path / "done.json", state)

    def finish(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Move the folder to its place; an earlier one there is replaced."""
        meta["files"] = describe_files(self.path, [FEATURES])
        write_json(self.path / META, meta)
        with atomic_path(self.out) as path:
            os.replace(self.path, path)
        return meta


class ImageIndex:
    """Exact search among the images of a store by the cosine of their features.

    Raises ArragError for another store or model (naming both digests), or a truncated file.
    """

    def __init__(self, path: str | Path, store: TokenStore, model_digest: str) -> None:
        path = Path(path)
        self.path, self.store, self.meta = path, store, read_json(path / META, {})
        for field, ours in {
            "format": FORMAT,
            "store_digest": store.digest,
            "model_digest": model_digest,
        }.items():
            if self.meta.get(field) != ours:
                raise ArragError(
                    f"{path / META}: {field} is {self.meta.get(field)}, but {ours} is in "
                    "use; build the image index again from that store and model"
                )
        check_files(path, self.meta)
        shape = (self.meta.get("images"), self.meta.get("dimension"))
        size = (path / FEATURES).stat().st_size if (path / FEATURES).is_file() else None
        if shape[0] != len(store) or type(shape[1]) is not int or size != 4 * shape[0] * shape[1]:
            raise ArragError(
                f"{path / FEATURES}: {size} bytes are no {shape[0]} x {shape[1]} features of the "
                f"{len(store)} images of {store.path}; build the image index again"
            )
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
