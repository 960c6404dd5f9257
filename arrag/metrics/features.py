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

import numpy as np
from tqdm import tqdm

from arrag.metrics.base import DEFAULTS, ScoreOptions
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


Feature = tuple[np.ndarray, tuple[int, int]]  # float32 [d] of an image, its (width, height)


class FeatureCache:
    """Features by image digest for one extractor; computes those of new images in batches.

    A context manager: on leaving, waiting images are computed unless an error is raised, and what
    is computed is written as a shard.

    Args:
        extractor: The network.
        options: ``cache`` (None keeps the features in memory only), ``batch_size``, ``workers``.

    Attributes:
        known: Features by the digest of the image's file.
        unreadable: Digests of the damaged images.
    """

    def __init__(self, extractor: Extractor, options: ScoreOptions = DEFAULTS) -> None:
        self.extractor, self._batch_size = extractor, options.batch_size
        self.known: dict[str, Feature] = {}
        self.unreadable: set[str] = set()
        self._waiting: dict[str, bytes] = {}
        self._unwritten: list[str] = []
        self._pool = ThreadPoolExecutor(options.workers) if options.workers else None
        self._writer: ShardWriter | None = None
        if options.cache is not None:
            name = extractor.name.replace("/", "-")
            self._writer = ShardWriter(
                Path(options.cache) / f"{name}-{extractor.key[:10]}",
                extractor.identity,
                own=("*.safetensors",),
                partial="manifest.json",
                final="complete.json",  # never written: a cache only grows
            )
            for shard in self._writer.shards():
                self._read(shard)

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._compute()
        self._write()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def add(self, digest: str, data: bytes) -> None:
        """Queue an image file for the network unless its features are known."""
        if digest in self.known or digest in self.unreadable:
            return
        if self._batch_size is None:
            self._batch_size = BATCH_ON_GPU if default_device() == "cuda" else BATCH_ON_CPU
        self._waiting[digest] = data
        if len(self._waiting) >= self._batch_size:
            self._compute()
        if len(self._unwritten) >= SHARD:
            self._write()

    def _compute(self) -> None:
        run = self._pool.map if self._pool else map
        batch = dict(zip(self._waiting, run(self._prepare, self._waiting.values()), strict=True))
        self._waiting = {}
        self.unreadable |= {digest for digest, made in batch.items() if made is None}
        batch = {digest: made for digest, made in batch.items() if made is not None}
        if batch:
            features = self.extractor([pixels for pixels, _ in batch.values()])
            for (digest, (_, size)), feature in zip(batch.items(), features, strict=True):
                self.known[digest] = feature, size
            self._unwritten += batch

    def _prepare(self, data: bytes) -> tuple[np.ndarray, tuple[int, int]] | None:
        try:
            image = open_image(data)
        except UNREADABLE:
            return None
        return self.extractor.preprocess(image), image.size

    def _read(self, shard: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            held = load_file(shard)
            rows = zip(held["sha256"], held["features"], held["size"].tolist(), strict=True)
            for digest, feature, (width, height) in rows:
                self.known[digest.tobytes().hex()] = feature, (width, height)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            hint = "delete it and run again"
            raise FormatError(f"damaged ({error})", path=shard, hint=hint) from None

    def _write(self) -> None:
        new, self._unwritten = self._unwritten, []
        if self._writer is None or not new:
            return
        from safetensors.numpy import save_file

        tensors = {
            "features": np.stack([self.known[digest][0] for digest in new]),
            "sha256": np.array([list(bytes.fromhex(digest)) for digest in new], np.uint8),
            "size": np.array([self.known[digest][1] for digest in new], np.int32),
        }
        shard = self._writer.folder / f"{sha256_json(new)[:16]}.safetensors"
        self._writer.write(shard, partial(save_file, tensors))


def extract(
    source: str | Path, extractor: Extractor, options: ScoreOptions = DEFAULTS
) -> tuple[ImageList, np.ndarray]:
    """Extract the features of all images of a folder or tar.

    A killed run continues after its last shard.

    Returns:
        The images, and their features, float32 [n, d], in order.

    Raises:
        ArragError: See ``arrag.metrics.image_set.read_images`` and ``list_images``.
    """
    cache = FeatureCache(extractor, options)
    named: list[tuple[str, str]] = []
    with cache, tqdm(desc=f"{extractor.name} of {source}", unit="image") as progress:
        for name, data in read_images(source):
            digest = hashlib.sha256(data).hexdigest()
            named.append((name, digest))
            cache.add(digest, data)
            progress.update()
    unreadable = [name for name, digest in named if digest in cache.unreadable]
    images = [(n, d, cache.known[d][1]) for n, d in named if d not in cache.unreadable]
    found = list_images(source, images, unreadable, options)
    return found, np.stack([cache.known[digest][0] for digest in found.digests])
