"""The two sets of images that a distance compares: what is known of them, and their features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arrag.data.questions import listed
from arrag.data.sample_dir import read_run
from arrag.data.sources import TARS, open_source
from arrag.metrics.base import ScoreOptions
from arrag.metrics.frechet import Gaussian, gaussian_of_features, gaussian_of_moments
from arrag.metrics.reference_stats import ReferenceFile
from arrag.utils.errors import FormatError, MismatchError, MissingError
from arrag.utils.hashing import images_digest, sha256_json
from arrag.utils.readers import open_picture

# Formats that other scorers read and this one does not: refused, never skipped silently.
UNSUPPORTED = {".tif", ".tiff", ".ppm", ".pgm", ".gif", ".npy", ".avif", ".jxl"}
PARTIAL_HINT = "make them again, or pass --allow-partial, which states it in the score"


@dataclass(frozen=True)
class ImageList:
    """A set of images by file.

    Attributes:
        path: The folder or tar.
        names: Names of the readable images, in order.
        digests: SHA-256 of each of their files.
        sizes: Number of images of each size, ``{"WIDTHxHEIGHT": n}``.
        unreadable: Names of the damaged images.
        missing: Number of images that were expected and are absent.
    """

    path: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    sizes: dict[str, int]
    unreadable: tuple[str, ...] = ()
    missing: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int]) -> ImageList:
        """The list of some of the images; sizes are those of the whole set."""
        names, digests = (tuple(v[i] for i in rows) for v in (self.names, self.digests))
        return replace(self, names=names, digests=digests, missing=0)

    def report(self) -> dict[str, Any]:
        """What a score states about its images."""
        return {
            "path": self.path,
            "kind": "images",
            "n": len(self),
            "sha256": images_digest(self.digests),
            "names_sha256": sha256_json(list(self.names)),
            "sizes": self.sizes,
            "mixed_sizes": len(self.sizes) > 1,
            "duplicates": len(self) - len(set(self.digests)),
            "unreadable": list(self.unreadable),
            "missing": self.missing,
        }


def read_images(source: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes of the file) of a folder's (recursively) or tar's images, in order.

    Damaged images are yielded too; ``list_images`` refuses or counts them.

    Raises:
        MissingError: There is no such folder or tar, or no image in it.
        FormatError: The folder holds images in formats that are not read.
    """
    path = Path(source)
    if not str(source).endswith(TARS) and not path.is_dir():
        message = "no such folder of images, tar, .npz or .npy"
        raise MissingError(message, path=source, hint="correct the path")
    if path.is_dir():
        found = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in UNSUPPORTED)
        if found:
            raise FormatError(
                f"{len(found)} files in formats that are not read, such as {found[0]}",
                path=source,
                hint="save them as PNG or take them away",
            )
    empty = True
    for name, load in open_source(str(source), None, None):
        payload = load()
        if not isinstance(payload, bytes):
            try:  # a pipe or an unreadable file counts as a damaged image
                payload = payload.read_bytes() if payload.is_file() else b""
            except OSError:
                payload = b""
        yield name, payload
        empty = False
    if empty:
        message = "holds no image (png, jpg, webp, bmp)"
        raise MissingError(message, path=source, hint="correct the path")


def open_image(data: bytes) -> Image.Image:
    """The image in RGB, as the official scorers open it. Raises one of ``UNREADABLE``."""
    with open_picture(data) as picture:
        return picture.convert("RGB")


def list_images(
    source: str | Path,
    images: list[tuple[str, str, tuple[int, int]]],
    unreadable: list[str],
    options: ScoreOptions,
) -> ImageList:
    """Check that a set is complete and list it.

    Args:
        source: The folder or tar.
        images: (name, SHA-256, (width, height)) of each readable image.
        unreadable: Names of the damaged images.
        options: ``allow_partial``, and ``expect``, which run.json of samples gives if it is None.

    Raises:
        FormatError: Images are damaged.
        MismatchError: There are fewer images than expected, or more.
    """
    expect, allow_partial = options.expect, options.allow_partial
    if unreadable and not allow_partial:
        raise FormatError(f"damaged images: {listed(unreadable)}", path=source, hint=PARTIAL_HINT)
    run = read_run(source) if Path(source).is_dir() else None
    if expect is None and run and {"prompts", "images_per_prompt"} <= run.keys():
        expect = run["prompts"] * run["images_per_prompt"]
    found = len(images) + len(unreadable)
    if expect is not None and (found > expect or (found < expect and not allow_partial)):
        raise MismatchError(f"{found} images, expected {expect}", path=source, hint=PARTIAL_HINT)
    if not images:
        message = f"no image of {found} can be read"
        raise FormatError(message, path=source, hint="make them again")
    sizes = Counter(f"{w}x{h}" for _, _, (w, h) in images)
    return ImageList(
        path=str(source),
        names=tuple(name for name, _, _ in images),
        digests=tuple(digest for _, digest, _ in images),
        sizes=dict(sorted(sizes.items())),
        unreadable=tuple(unreadable),
        missing=0 if expect is None else expect - found,
    )


@dataclass
class ImageSet:
    """One set of a comparison.

    Attributes:
        report: What a score states about the set: ``path``, ``kind``, ``n``, ``sha256``, ...
        judge: The extractor or transform; None where a file does not say.
        features: [n, d], or None where only moments are known.
        moments: Mean and covariance read from a file.
        images: The images themselves; None where a file of statistics was read.
    """

    report: dict[str, Any]
    judge: dict[str, Any] | None
    features: np.ndarray | None = None
    moments: Gaussian | None = None
    images: ImageList | None = None

    @property
    def path(self) -> str:
        """The folder, tar or file."""
        return self.report["path"]

    @property
    def gaussian(self) -> Gaussian:
        """Moments of the features, or those that were stored."""
        return self.moments if self.features is None else gaussian_of_features(self.features)

    def require_features(self) -> np.ndarray:
        """The features [n, d]. Raises MissingError where only moments are known."""
        if self.features is None:
            raise MissingError(
                "holds moments, but this metric needs the features",
                path=self.path,
                hint="give images, or a file of `arrag fid-stats` for this metric",
            )
        return self.features


def stored_image_set(stored: ReferenceFile) -> ImageSet:
    """The set that a file of features or moments describes."""
    report, judge = stored.report(), stored.meta.get("judge")
    with closing(stored):
        array, ndim = (stored.mu, 1) if stored.features is None else (stored.features, 2)
        if array.ndim != ndim:
            message = f"an array of shape {array.shape}, expected features [n, d] or a mean [d]"
            raise FormatError(message, path=stored.path)
        if stored.features is not None:
            return ImageSet(report, judge, np.asarray(stored.features))
        moments = gaussian_of_moments(stored.mu, stored.sigma, stored.n)
        return ImageSet(report, judge, moments=moments)


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Rows [n, d] scaled to length 1. Raises FormatError for a row of zeros."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if not norms.all():
        raise FormatError("a feature vector is zero", hint="check the weights of the extractor")
    return features / norms


def check_same_judge(first: ImageSet, second: ImageSet) -> None:
    """Raise MismatchError, naming the first differing field, unless both have the same judge."""
    if first.judge is None or second.judge is None:
        return
    for field in sorted({*first.judge, *second.judge}):
        ours, theirs = first.judge.get(field), second.judge.get(field)
        if ours != theirs:
            raise MismatchError(
                f"is {theirs!r}, but {ours!r} for {first.path}",
                path=second.path,
                field=field,
                hint="make both sets the same way",
            )


def count_shared(first: ImageSet, second: ImageSet) -> int | None:
    """Number of the first set's images that are in the second byte for byte; None if unknown."""
    if first.images is None or second.images is None:
        return None
    theirs = set(second.images.digests)
    return sum(digest in theirs for digest in first.images.digests)
