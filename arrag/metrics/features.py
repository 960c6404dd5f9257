"""Features of a folder's or a tar's images, cached by the content of each image file.

A cache folder belongs to one extractor (weights, layer, preprocessing) and holds shards:

    NAME-0123456789/manifest.json       the extractor's identity
    NAME-0123456789/<digest>.safetensors  features [n, d], sha256 [n, 32], size [n, 2]

An image is looked up by the SHA-256 of its file, so a second score of the same images runs no
network, and after a change of one image only that one is computed.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from arrag.metrics.image_set import ImageList, list_images, open_image, read_images
from arrag.metrics.types import Extractor
from arrag.utils.device import default_device
from arrag.utils.errors import FormatError
from arrag.utils.hashing import sha256_json
from arrag.utils.readers import UNREADABLE
from arrag.utils.shards import ShardWriter

SHARD = 1024  # newly computed images that are written together
# On a CPU a large batch only makes the system hand out fresh memory for every layer.
BATCH_ON_CPU, BATCH_ON_GPU = 4, 64


class CachedFeature(NamedTuple):
    """Features float32 [d] of one image, and its (width, height)."""

    feature: np.ndarray
    size: tuple[int, int]


class FeatureCache:
    """Features by image digest for one extractor; ``folder`` None keeps them in memory only."""

    def __init__(self, folder: str | Path | None, extractor: Extractor) -> None:
        self.known: dict[str, CachedFeature] = {}
        self._writer: ShardWriter | None = None
        if folder is not None:
            name = extractor.name.replace("/", "-")
            self._writer = ShardWriter(
                Path(folder) / f"{name}-{extractor.key[:10]}",
                extractor.identity,
                own=("*.safetensors",),
                partial="manifest.json",
                final="complete.json",  # never written: a cache only grows
            )
            for shard in self._writer.shards():
                self._read(shard)

    def _read(self, shard: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            held = load_file(shard)
            rows = zip(held["sha256"], held["features"], held["size"].tolist(), strict=True)
            for digest, feature, (width, height) in rows:
                self.known[digest.tobytes().hex()] = CachedFeature(feature, (width, height))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            hint = "delete it and run again"
            raise FormatError(f"damaged ({error})", path=shard, hint=hint) from None

    def add(self, new: dict[str, CachedFeature]) -> None:
        """Remember features and, with a folder, write them as one shard."""
        self.known |= new
        if self._writer is None or not new:
            return
        from safetensors.numpy import save_file

        tensors = {
            "features": np.stack([row.feature for row in new.values()]),
            "sha256": np.array([list(bytes.fromhex(digest)) for digest in new], np.uint8),
            "size": np.array([row.size for row in new.values()], np.int32),
        }
        shard = self._writer.folder / f"{sha256_json(list(new))[:16]}.safetensors"
        self._writer.write(shard, partial(save_file, tensors))


def extract(
    source: str | Path,
    extractor: Extractor,
    cache: str | Path | None = None,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    expect: int | None = None,
    allow_partial: bool = False,
) -> tuple[ImageList, np.ndarray]:
    """Extract the features of all images of a folder or tar.

    A killed run continues after its last shard.

    Args:
        source: The folder or tar.
        extractor: The network.
        cache: Folder of feature caches, or None.
        batch_size: Images at a time; None chooses by the device.
        workers: Threads that decode and resize.
        expect: Number of images that there must be.
        allow_partial: Accept missing and damaged images.

    Returns:
        The images, and their features, float32 [n, d], in order.

    Raises:
        ArragError: See ``arrag.metrics.image_set.read_images`` and ``list_images``.
    """
    held = FeatureCache(cache, extractor)
    queue = _Queue(held, extractor, batch_size, workers)
    named: list[tuple[str, str]] = []
    with queue, tqdm(desc=f"{extractor.name} of {source}", unit="image") as progress:
        for name, data in read_images(source):
            digest = hashlib.sha256(data).hexdigest()
            named.append((name, digest))
            if digest not in held.known and digest not in queue:
                queue.add(digest, data)
            progress.update()
    unreadable = [name for name, digest in named if digest in queue.unreadable]
    images = [(n, d, held.known[d].size) for n, d in named if d not in queue.unreadable]
    found = list_images(source, images, unreadable, expect, allow_partial)
    return found, np.stack([held.known[digest].feature for digest in found.digests])


class _Queue:
    """Images that wait for the network, in batches; features go to the cache by the shard."""

    def __init__(
        self, cache: FeatureCache, extractor: Extractor, batch_size: int | None, workers: int
    ) -> None:
        self.cache, self.extractor, self.batch_size = cache, extractor, batch_size
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.waiting: dict[str, bytes] = {}
        self.done: dict[str, CachedFeature] = {}
        self.unreadable: set[str] = set()

    def __enter__(self) -> _Queue:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._run()
        self._write()
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def __contains__(self, digest: str) -> bool:
        return digest in self.waiting or digest in self.done or digest in self.unreadable

    def add(self, digest: str, data: bytes) -> None:
        if self.batch_size is None:
            self.batch_size = BATCH_ON_GPU if default_device() == "cuda" else BATCH_ON_CPU
        self.waiting[digest] = data
        if len(self.waiting) >= self.batch_size:
            self._run()
        if len(self.done) >= SHARD:
            self._write()

    def _run(self) -> None:
        run = self.pool.map if self.pool else map
        batch = dict(zip(self.waiting, run(self._prepare, self.waiting.values()), strict=True))
        self.waiting = {}
        self.unreadable |= {digest for digest, made in batch.items() if made is None}
        batch = {digest: made for digest, made in batch.items() if made is not None}
        if batch:
            features = self.extractor([pixels for pixels, _ in batch.values()])
            for (digest, (_, size)), feature in zip(batch.items(), features, strict=True):
                self.done[digest] = CachedFeature(feature, size)

    def _prepare(self, data: bytes) -> tuple[np.ndarray, tuple[int, int]] | None:
        try:
            image = open_image(data)
        except UNREADABLE:
            return None
        return self.extractor.preprocess(image), image.size

    def _write(self) -> None:
        self.cache.add(self.done)
        self.done = {}
