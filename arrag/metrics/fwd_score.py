"""FWD of two sets: folders, tars, arrays of images, or stored moments."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from arrag.metrics.distribution import finish
from arrag.metrics.features import ImageList, open_image, read_images
from arrag.metrics.features import finish as finish_list
from arrag.metrics.fwd import ImagePackets, Packets, StoredPackets, fwd, natural_order
from arrag.metrics.image_set import Options, Side, check_same_judge
from arrag.metrics.pixel_buffer import Pixels, Spool
from arrag.metrics.preprocess import center_square
from arrag.metrics.references import is_stored, read_stored
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_json
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import UNREADABLE
from arrag.utils.resource_errors import disk_space

CHEAP_DIM = 128  # up to so many coefficients a packet, resampling takes seconds
RESAMPLES = 100

Source = ImagePackets | StoredPackets


def score_fwd(images: str | Path, reference: str | Path, options: Options) -> dict[str, Any]:
    """See ``arrag.metrics.distribution.score``.

    Images are taken at their own size, which must be one, unless ``options.size`` gives another.
    Without a number of resamples an interval is made only where it is cheap (small images).
    """
    with ExitStack() as stack:
        first, ours = open_packets(images, options, stack)
        second, theirs = open_packets(reference, options, stack)
        check_same_judge(first, second)
        options = replace(options, resamples=_resamples(ours, options))
        value, resampled = None, None
        if options.resamples:
            from arrag.metrics.resample import draw

            value, resampled = fwd(ours, theirs, draw(ours.n, options.resamples))
        else:
            value, _ = fwd(ours, theirs)
        details = {
            "wavelet": options.wavelet.lower(),
            "level": ours.level,
            "packets": 4**ours.level,
            "dimensions": ours.dim,
            "rank_deficient": any(s.n is not None and s.n <= s.dim for s in (ours, theirs)),
        }
        again = None if resampled is None else lambda weights: resampled
        return finish("fwd", (first, second), options, value, again, details)


def _resamples(ours: Source, options: Options) -> int:
    if options.resamples is None:
        cheap = isinstance(ours, ImagePackets) and ours.dim <= CHEAP_DIM and ours.keeps_features()
        return RESAMPLES if cheap else 0
    if options.resamples and not (isinstance(ours, ImagePackets) and ours.keeps_features()):
        raise ArragError(
            "these packets cannot be resampled: there are only moments, or the features of one row "
            "of packets take more than 512 MiB; pass --resamples 0"
        )
    return options.resamples


def judge(options: Options, shape: tuple[int, int]) -> dict[str, Any]:
    """What makes two sets of packets comparable."""
    transform = {
        "wavelet": options.wavelet.lower(),
        "level": options.level,
        "boundary": "reflect",
        "pixels": list(shape),
        "resize": None if options.size is None else "center-crop bicubic",
    }
    name = f"wavelet packets {options.wavelet.lower()} {options.level}"
    return {"extractor": name, "extractor_digest": sha256_json(transform), **transform}


def open_packets(path: str | Path, options: Options, stack: ExitStack) -> tuple[Side, Source]:
    """One side; temporary files live as long as ``stack``."""
    if not is_stored(path):
        found, spool = spool_images(path, options, stack)
        side = Side(found.report(), judge(options, spool.shape), images=found)
        return side, ImagePackets(spool, _packets(options, spool.shape))
    stored = read_stored(path)
    stack.callback(stored.close)
    if stored.features is None:
        side = Side(stored.report(), stored.meta.get("judge"))
        found = StoredPackets(stored.mu, stored.sigma, stored.n)
        if found.level != options.level:
            raise ArragError(
                f"{path}: packets of level {found.level}, but --level is {options.level}; "
                "give the same level"
            )
        stated = (stored.meta.get("judge") or {}).get("wavelet")
        if stated not in (None, options.wavelet.lower()):
            raise ArragError(
                f"{path}: wavelet is {stated!r}, but --wavelet is {options.wavelet.lower()!r}; "
                "use statistics of the same wavelet"
            )
        return side, found
    pixels = Pixels(stored.features)
    side = Side(stored.report() | {"stated": True}, judge(options, pixels.shape))
    return side, ImagePackets(pixels, _packets(options, pixels.shape))


def _packets(options: Options, shape: tuple[int, int]) -> Packets:
    return Packets(options.wavelet.lower(), options.level, *shape)


def spool_images(source: str | Path, options: Options, stack: ExitStack) -> tuple[ImageList, Spool]:
    """Decode a folder's or tar's images into a spool. ArragError for mixed sizes."""
    spool = stack.enter_context(Spool())
    listed: list[tuple[str, str, tuple[int, int]]] = []
    unreadable = []
    for name, data in tqdm(read_images(source), desc=f"reading {source}", unit="image"):
        try:
            image = open_image(data)
        except UNREADABLE:
            unreadable.append(name)
            continue
        listed.append((name, hashlib.sha256(data).hexdigest(), image.size))
        if options.size is not None:
            size = (options.size,) * 2
            image = center_square(image).resize(size, Image.Resampling.BICUBIC)
        spool.add(f"{source}/{name}", np.asarray(image))
    found = finish_list(source, listed, unreadable, options.expect, options.allow_partial)
    return found, spool


def write_packets(path: str | Path, packets: ImagePackets, meta: dict[str, Any]) -> None:
    """Write ``mu`` [P, d], ``sigma`` [P, d, d], ``n``, ``meta`` for PyTorch-FWD and ourselves.

    The covariances go to disk a row of packets at a time, in upstream's packet order.
    """
    count, dim = 4**packets.level, packets.dim
    place = {at: i for i, at in enumerate(natural_order(packets.level))}
    with (
        disk_space(path),
        tempfile.TemporaryDirectory(prefix="arrag-stats-") as folder,
        atomic_path(path) as partial,
    ):
        arrays = Path(folder)
        sigma = np.lib.format.open_memmap(
            arrays / "sigma.npy", mode="w+", dtype=np.float64, shape=(count, dim, dim)
        )
        mu = np.empty((count, dim))
        for row in tqdm(range(2**packets.level), desc="packets", unit="row"):
            means, covariances = packets.means(row), packets.covariances(row)
            for column in range(2**packets.level):
                index = place[row, column]
                mu[index], sigma[index] = means[column], covariances[column]
        sigma.flush()
        del sigma
        for name, array in (("mu", mu), ("n", packets.n), ("meta", json.dumps(meta))):
            np.save(arrays / f"{name}.npy", np.asarray(array))
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in ("mu", "sigma", "n", "meta"):
                archive.write(arrays / f"{name}.npy", f"{name}.npy")
