"""The two sides of a distance: which images or stored numbers, and what made features of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arrag.metrics.extractors import Extractor, open_extractor
from arrag.metrics.features import ImageList, extract
from arrag.metrics.frechet import Gaussian, gaussian_of_features, gaussian_of_moments
from arrag.metrics.references import Stored, is_stored, read_stored
from arrag.utils.errors import ArragError

DEFAULT_EXTRACTOR = {"fid": "inception", "kid": "inception", "cmmd": "clip"}


@dataclass(frozen=True)
class Options:
    """How a distance is measured; the command line's options by name.

    extractor: None is the metric's own. mode: how Inception's images are resized. cache: folder of
    features. batch_size: None suits the
    device. expect: number of images a side must have. resamples: None is the metric's default, 0
    gives no interval. backends: also compute the figure with other libraries.
    """

    extractor: str | None = None
    mode: str = "clean"
    cache: str | Path | None = None
    batch_size: int | None = None
    workers: int = 0
    expect: int | None = None
    allow_partial: bool = False
    allow_rank_deficient: bool = False
    resamples: int | None = None
    backends: bool = False
    wavelet: str = "haar"
    level: int = 4
    size: int | None = None


@dataclass
class Side:
    """One set: what a score says of it, its features [n, d] or its moments, and who made them."""

    report: dict[str, Any]
    judge: dict[str, Any] | None
    features: np.ndarray | None = None
    moments: Gaussian | None = None
    images: ImageList | None = None

    @property
    def gaussian(self) -> Gaussian:
        """Moments of the features, or those that were stored."""
        return self.moments if self.features is None else gaussian_of_features(self.features)


def open_sides(
    metric: str, paths: tuple[str | Path, str | Path], options: Options
) -> tuple[Side, Side]:
    """Both sides; the extractor is opened only where there are images, or where one is named."""
    extractor = None
    if options.extractor is not None or not all(map(is_stored, paths)):
        extractor = open_extractor(options.extractor or DEFAULT_EXTRACTOR[metric], options.mode)
    first, second = (open_side(metric, path, extractor, options) for path in paths)
    return first, second


def open_side(metric: str, path: str | Path, extractor: Extractor | None, options: Options) -> Side:
    """Features of a folder or tar, or what a file holds."""
    wanted = None if extractor is None else judge_of(metric, extractor)
    if is_stored(path):
        side = _stored_side(read_stored(path))
        if wanted is not None and side.judge is not None:
            check_same_judge(Side({"path": "--extractor and --mode"}, wanted), side)
        return side
    found, features = extract(
        path,
        extractor,
        options.cache,
        batch_size=options.batch_size,
        workers=options.workers,
        expect=options.expect,
        allow_partial=options.allow_partial,
    )
    if metric == "cmmd":
        features = unit(features)
    return Side(found.report(), wanted, features, images=found)


def judge_of(metric: str, extractor: Extractor) -> dict[str, Any]:
    """What makes two sets of features comparable: the extractor, and CMMD's normalisation."""
    return extractor.identity | {"normalised": metric == "cmmd"}


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 [n, d]. ArragError for a row of zeros."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if not norms.all():
        raise ArragError("a feature vector is zero and has no direction; check the extractor")
    return features / norms


def _stored_side(stored: Stored) -> Side:
    try:
        if stored.features is not None:
            if stored.features.ndim != 2:
                raise ArragError(f"{stored.path}: shape {stored.features.shape}, expected [n, d]")
            return Side(stored.report(), stored.meta.get("judge"), np.asarray(stored.features))
        if stored.mu.ndim != 1:
            raise ArragError(f"{stored.path}: mu has shape {stored.mu.shape}, expected [d]")
        moments = gaussian_of_moments(stored.mu, stored.sigma, stored.n)
        return Side(stored.report(), stored.meta.get("judge"), moments=moments)
    finally:
        stored.close()


def check_same_judge(first: Side, second: Side) -> None:
    """ArragError that names the first field in which two stated judges differ."""
    if first.judge is None or second.judge is None:
        return
    for field in sorted({*first.judge, *second.judge}):
        ours, theirs = first.judge.get(field), second.judge.get(field)
        if ours != theirs:
            raise ArragError(
                f"{second.report['path']}: {field} is {theirs!r}, but {ours!r} for "
                f"{first.report['path']}; make both sides the same way"
            )
