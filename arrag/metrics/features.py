"""Features of a folder's or a tar's images, cached by what each image's file holds.

A cache folder belongs to one extractor (weights, layer, preparation) and holds shards:

    NAME-0123456789/manifest.json       the extractor's identity
    NAME-0123456789/<digest>.safetensors  features [n, d], sha256 [n, 32], size [n, 2]

An image is looked up by the SHA-256 of its file, so a second score of the same images runs no
network, and after a change of one image only that one is computed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from arrag.data.sample_dir import read_run
from arrag.data.sources import open_source
from arrag.metrics.extractors import Extractor
from arrag.pipeline.records import write_record
from arrag.utils.device import default_device
from arrag.utils.errors import ArragError
from arrag.utils.files import write_json
from arrag.utils.globs import TARS
from arrag.utils.hashing import images_digest, sha256_json
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import UNREADABLE, open_picture
from arrag.utils.resource_errors import disk_space

SHARD = 1024  # newly computed images that are written together
# On a CPU a large batch only makes the system hand out fresh memory for every layer.
BATCH_ON_CPU, BATCH_ON_GPU = 4, 64
NAMED = 5  # how many offenders a message names
# Formats that other scorers read and this one does not: never passed over in silence.
FOREIGN = {".tif", ".tiff", ".ppm", ".pgm", ".gif", ".npy", ".avif", ".jxl"}


@dataclass(frozen=True)
class ImageList:
    """What is known of a set of images: names, SHA-256 of each file, sizes, and what was left out.

    missing: images that were expected and are not there.
    """

    path: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    sizes: dict[str, int]
    unreadable: tuple[str, ...] = ()
    missing: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @property
    def identity(self) -> str:
        """Hex digest of the images as a set."""
        return images_digest(self.digests)

    def take(self, rows: Sequence[int]) -> ImageList:
        """The list of some of the images; their sizes are not told apart."""
        names, digests = (tuple(v[i] for i in rows) for v in (self.names, self.digests))
        return replace(self, names=names, digests=digests, missing=0)

    def report(self) -> dict[str, Any]:
        """What a score says of its images."""
        return {
            "path": self.path,
            "kind": "images",
            "n": len(self),
            "sha256": self.identity,
            "names_sha256": sha256_json(list(self.names)),
            "sizes": self.sizes,
            "mixed_sizes": len(self.sizes) > 1,
            "duplicates": len(self) - len(set(self.digests)),
            "unreadable": list(self.unreadable),
            "missing": self.missing,
        }


def read_images(source: str | Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes of the file) of a folder's (recursively) or tar's images, in order.

    Raises ArragError for no image, or files in formats that are not read. What cannot be decoded
    is for ``finish`` to judge.
    """
    path = Path(source)
    if not str(source).endswith(TARS) and not path.is_dir():
        raise ArragError(f"{source}: no such folder of images, tar, .npz or .npy; correct the path")
    if path.is_dir():
        foreign = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in FOREIGN)
        if foreign:
            raise ArragError(
                f"{source}: {len(foreign)} files in formats that are not read, such as "
                f"{foreign[0]}; save them as PNG or take them away"
            )
    seen = False
    for name, load in open_source(str(source), None, None):
        payload = load()
        yield name, payload if isinstance(payload, bytes) else _bytes_of(payload)
        seen = True
    if not seen:
        raise ArragError(f"{source}: holds no image (png, jpg, webp, bmp); correct the path")


def _bytes_of(path: Path) -> bytes:
    """What a file holds; nothing, which is no image, for a pipe or a file that cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def open_image(data: bytes) -> Image.Image:
    """The image in RGB, as the official scorers open it. Raises one of ``UNREADABLE``."""
    with open_picture(data) as picture:
        return picture.convert("RGB")


def finish(
    source: str | Path,
    images: list[tuple[str, str, tuple[int, int]]],
    unreadable: list[str],
    expect: int | None,
    allow_partial: bool,
) -> ImageList:
    """The list of what was read: (name, digest, (width, height)) each, after counting.

    The number expected is ``expect``, else what run.json beside samples says. Raises ArragError
    for damaged or missing images unless ``allow_partial``, and for too many in any case.
    """
    if unreadable and not allow_partial:
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        raise ArragError(
            f"{source}: {len(unreadable)} images are damaged: {', '.join(unreadable[:NAMED])}"
            f"{more}; make them again, or pass --allow-partial, which states it in the score"
        )
    run = read_run(source) if Path(source).is_dir() else None
    if expect is None and run and {"prompts", "images_per_prompt"} <= run.keys():
        expect = run["prompts"] * run["images_per_prompt"]
    found = len(images) + len(unreadable)
    if expect is not None and (found > expect or (found < expect and not allow_partial)):
        raise ArragError(
            f"{source}: {found} images, expected {expect}; make it whole, or pass --allow-partial "
            "if some are missing, which states it in the score"
        )
    if not images:
        raise ArragError(f"{source}: no image of {found} can be read; make them again")
    sizes = Counter(f"{w}x{h}" for _, _, (w, h) in images)
    return ImageList(
        path=str(source),
        names=tuple(name for name, _, _ in images),
        digests=tuple(digest for _, digest, _ in images),
        sizes=dict(sorted(sizes.items())),
        unreadable=tuple(unreadable),
        missing=0 if expect is None else expect - found,
    )


class FeatureCache:
    """Features by image digest for one extractor; ``folder`` None keeps them in memory only."""

    def __init__(self, folder: str | Path | None, extractor: Extractor) -> None:
        self.extractor = extractor
        self.known: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}
        self.folder: Path | None = None
        if folder is not None:
            name = extractor.name.replace("/", "-")
            self.folder = Path(folder) / f"{name}-{extractor.key[:10]}"
            for shard in sorted(self.folder.glob("*.safetensors")):
                self._read(shard)

    def _read(self, shard: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            held = load_file(shard)
            rows = zip(held["sha256"], held["features"], held["size"], strict=True)
            for digest, feature, size in rows:
                self.known[digest.tobytes().hex()] = feature, (int(size[0]), int(size[1]))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ArragError(f"{shard}: damaged ({error}); delete it and run again") from None

    def add(self, digests: list[str], features: np.ndarray, sizes: list[tuple[int, int]]) -> None:
        """Remember features [n, d] and, with a folder, write them as one shard."""
        for digest, feature, size in zip(digests, features, sizes, strict=True):
            self.known[digest] = feature, size
        if self.folder is None:
            return
        from safetensors.numpy import save_file

        if not (self.folder / "manifest.json").is_file():
            write_json(self.folder / "manifest.json", self.extractor.identity)
            write_record(self.folder / "manifest.json")
        shard = self.folder / f"{sha256_json(digests)[:16]}.safetensors"
        hashes = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)
        with disk_space(shard), atomic_path(shard) as path:
            tensors = {
                "features": np.ascontiguousarray(features),
                "sha256": hashes.copy(),
                "size": np.array(sizes, np.int32),
            }
            save_file(tensors, path)
        write_record(shard)


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
    """The images of ``source`` and their features, float32 [n, d], in order.

    cache: folder of feature caches, or None. batch_size: None suits the device. workers: threads
    that decode and resize. The work goes on after a kill where the last shard ended. Raises
    ArragError (see ``finish``).
    """
    held = FeatureCache(cache, extractor)
    todo = _Queue(held, extractor, batch_size, workers)
    listed: list[tuple[str, str]] = []
    unreadable: list[str] = []
    with todo, tqdm(desc=f"{extractor.name} of {source}", unit="image") as progress:
        for name, data in read_images(source):
            digest = hashlib.sha256(data).hexdigest()
            listed.append((name, digest))
            if digest not in held.known and digest not in todo:
                todo.add(digest, data)
            progress.update()
    unreadable = [name for name, digest in listed if digest in todo.unreadable]
    images = [(n, d, held.known[d][1]) for n, d in listed if d not in todo.unreadable]
    found = finish(source, images, unreadable, expect, allow_partial)
    return found, np.stack([held.known[digest][0] for digest in found.digests])


class _Queue:
    """Images that wait for the network, in batches; features go to the cache by the shard."""

    def __init__(
        self, cache: FeatureCache, extractor: Extractor, batch_size: int | None, workers: int
    ) -> None:
        self.cache, self.extractor, self.batch_size = cache, extractor, batch_size
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.waiting: dict[str, bytes] = {}
        self.done: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}
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
                self.done[digest] = feature, size

    def _prepare(self, data: bytes) -> tuple[np.ndarray, tuple[int, int]] | None:
        try:
            image = open_image(data)
        except UNREADABLE:
            return None
        return self.extractor.preparation(image), image.size

    def _write(self) -> None:
        if self.done:
            features = np.stack([feature for feature, _ in self.done.values()])
            self.cache.add(list(self.done), features, [size for _, size in self.done.values()])
        self.done = {}
