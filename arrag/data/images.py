"""Images of a source: decoded to square pixels in worker processes, and fingerprinted."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Thread

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

from arrag.utils.errors import ResourceError
from arrag.utils.readers import UNREADABLE, open_picture, short_message

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
AHEAD = 16
"""Images queued for each worker: bounds memory, hides waiting."""


@dataclass(frozen=True)
class MicroScene:
    """A scene of the micro world, not rendered yet."""

    assets: str
    split: str
    number: int


Payload = Path | bytes | MicroScene


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an image and its copies.

    Attributes:
        sha256: Hex SHA-256 of the image's size and RGB pixels, whatever the file format.
        phash: 64-bit perceptual hash.
    """

    sha256: str
    phash: int


@dataclass(frozen=True)
class Decoded:
    """A decoded image, or why it cannot be read.

    Attributes:
        key: Its key in the source.
        pixels: uint8 [S, S, 3]; None if the image cannot be read.
        fingerprint: Of the whole image, before it is resized and cropped; None if not asked for.
        problem: Why the image cannot be read.
    """

    key: str
    pixels: np.ndarray | None = None
    fingerprint: Fingerprint | None = None
    problem: str | None = None


def decode(key: str, payload: Payload, size: int, fingerprints: bool = False) -> Decoded:
    """Read one image as ``size`` x ``size`` pixels."""
    try:
        image = open_rgb(payload)
        return Decoded(key, square(image, size), fingerprint(image) if fingerprints else None)
    except UnidentifiedImageError:  # its message holds a path, or an address in memory
        return Decoded(key, problem="not an image of a known format")
    except UNREADABLE as error:
        return Decoded(key, problem=f"{type(error).__name__}: {short_message(error)}")


def open_rgb(payload: Payload) -> Image.Image:
    """The whole image, in RGB."""
    if isinstance(payload, MicroScene):
        world = _world(payload.assets, payload.split)
        return Image.fromarray(world.scene(payload.number).image)
    with open_picture(payload) as image:
        return image.convert("RGB")


def square(image: Image.Image, size: int) -> np.ndarray:
    """Scale the shorter side to ``size`` (bicubic) and crop the middle: uint8 [S, S, 3].

    Raises:
        ValueError: The image is so narrow that, scaled, it would be larger than any that is read.
    """
    scale = size / min(image.size)
    fitted = [max(size, round(side * scale)) for side in image.size]
    if fitted[0] * fitted[1] > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels: too narrow to be scaled")
    image = image.resize(fitted, Image.Resampling.BICUBIC)
    left, top = (fitted[0] - size) // 2, (fitted[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def fingerprint(image: Image.Image) -> Fingerprint:
    """Compute the fingerprint of an RGB image."""
    pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return Fingerprint(pixels, perceptual_hash(image))


def perceptual_hash(image: Image.Image) -> int:
    """Compute the 64-bit pHash: the signs of the low DCT coefficients of a 32 x 32 thumbnail.

    It survives another file format, JPEG compression and resizing, but not cropping or rotation.
    """
    bits = imagehash.phash(image).hash.reshape(-1)  # bool [64]
    return int.from_bytes(np.packbits(bits).tobytes())


def decode_all(
    items: Iterable[tuple[str, Callable[[], Payload]]],
    size: int,
    *,
    fingerprints: bool = False,
    workers: int = 0,
) -> Iterator[Decoded]:
    """Decode the items of a source (see ``open_source``), in their order.

    Args:
        items: Keys, and functions that load them.
        size: Pixels a side.
        fingerprints: Whether to compute them.
        workers: Processes; 0: in this one.

    Raises:
        ResourceError: A worker process died, which does not say at which image.
    """
    work = partial(decode, size=size, fingerprints=fingerprints)
    if workers == 0:
        yield from (work(key, load()) for key, load in items)
        return
    # Not forked: the threads of torch, already running here, would not be in the copy.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_follow_the_parent
    )
    waiting: deque[Future[Decoded]] = deque()
    try:
        for key, load in items:
            waiting.append(pool.submit(work, key, load()))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ResourceError(
            "a process that decodes images was killed, for lack of memory or by a damaged image",
            hint="lower --workers (resources.encode_workers of a configuration) or give more "
            "memory; the same command continues after the last whole shard, and without --workers "
            "says at which image",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_the_parent() -> None:
    """Leave interrupts to it, and end with it: nothing else ends a worker after a kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@lru_cache(maxsize=1)
def _world(assets: str, split: str):
    from arrag.data.micro.world import World

    return World(assets, split)
