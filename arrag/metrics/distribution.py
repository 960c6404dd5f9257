"""FID, KID, CMMD and FWD of a set of images against a reference: one scorer, one shape of result.

A side is a folder or tar of images, or a file of statistics or features. Images become features
(``arrag.metrics.features``), features become one number, and drawing the left side's images again
says how far that number moves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from arrag import __version__
from arrag.data.sample_dir import read_run
from arrag.metrics import kernel
from arrag.metrics.extractors import CLIP_FOLDER, INCEPTION
from arrag.metrics.frechet import Gaussian, frechet_distance, resampled_distances
from arrag.metrics.image_set import Options, Side, check_same_judge, open_sides
from arrag.metrics.resample import RESAMPLES, draw, interval
from arrag.utils.errors import ArragError

METRICS = ("fid", "kid", "cmmd", "fwd")
OFFICIAL = {source.file.partition(".")[0] for source in INCEPTION.values()} | {CLIP_FOLDER}
LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "transformers", "open-clip-torch")
BACKEND_SEED = 0


def score(metric: str, images: str | Path, reference: str | Path, options: Options) -> dict:
    """Distance of ``images`` (generated) from ``reference``; lower is closer.

    Returns ``value`` with its ``interval``, both sides' counts and digests, the judge, the options
    that shaped it, and ``bootstrap`` values that pair this score with others of the same images'
    names (``arrag.metrics.resample.paired_difference``). Raises ArragError for what cannot be
    compared or is not whole.
    """
    if metric == "fwd":
        from arrag.metrics.fwd_score import score_fwd

        return score_fwd(images, reference, options)
    if metric not in METRICS:
        raise ArragError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    sides = open_sides(metric, (images, reference), options)
    check_same_judge(*sides)
    return finish(metric, sides, options, *_MEASURES[metric](*sides, options))


Measure = tuple[float, Callable[[np.ndarray], np.ndarray] | None, dict[str, Any]]


def _fid(first: Side, second: Side, options: Options) -> Measure:
    ours, theirs = first.gaussian, second.gaussian
    for side, gaussian in ((first, ours), (second, theirs)):
        if side.report["n"] is not None and gaussian.rank_deficient:
            refuse_rank_deficient(side, gaussian, options)
    details = {
        "dimensions": ours.dim,
        "rank_deficient": ours.rank_deficient or theirs.rank_deficient,
    }
    if options.backends:
        from arrag.metrics.backends import fid_backends

        details["backends"] = fid_backends(first, second)
    again = None
    if first.features is not None:
        again = lambda weights: resampled_distances(first.features, theirs, weights)  # noqa: E731
    return frechet_distance(ours, theirs), again, details


def refuse_rank_deficient(side: Side, gaussian: Gaussian, options: Options) -> None:
    """ArragError, unless the option allows it: too few images give a value that means little."""
    if not options.allow_rank_deficient:
        raise ArragError(
            f"{side.report['path']}: {side.report['n']} images for {gaussian.dim} features: the "
            "covariance is singular and FID depends on the number of images; give more images, use "
            "an extractor of fewer features, or pass --allow-rank-deficient, which states it in "
            "the score"
        )


def _kid(first: Side, second: Side, options: Options) -> Measure:
    x, y = _features_of(first), _features_of(second)
    details = {"estimator": "unbiased, all pairs", "dimensions": x.shape[1]}
    if options.backends:
        from arrag.metrics.backends import kid_backends

        details["backends"] = kid_backends(x, y, BACKEND_SEED)
    return float(kernel.kid(x, y)[0]), lambda weights: kernel.kid(x, y, weights), details


def _cmmd(first: Side, second: Side, options: Options) -> Measure:
    x, y = _features_of(first), _features_of(second)
    details = {
        "estimator": "biased, with the diagonal, x 1000",
        "bandwidth": kernel.BANDWIDTH,
        "dimensions": x.shape[1],
    }
    return float(kernel.cmmd(x, y)[0]), lambda weights: kernel.cmmd(x, y, weights), details


_MEASURES = {"fid": _fid, "kid": _kid, "cmmd": _cmmd}


def _features_of(side: Side) -> np.ndarray:
    if side.features is None:
        raise ArragError(
            f"{side.report['path']}: holds moments, but this metric needs the features themselves; "
            "give images, or a file of `arrag stats` for this metric"
        )
    return side.features


def finish(
    metric: str,
    sides: tuple[Side, Side],
    options: Options,
    value: float,
    again: Callable[[np.ndarray], np.ndarray] | None,
    details: dict[str, Any],
) -> dict[str, Any]:
    """The score: ``value`` with its interval, and everything that says what was measured.

    ``again`` gives the values of resampled images for weights [R, n]; None leaves no interval.
    """
    first, second = sides
    judge = first.judge or second.judge or {"extractor": "not stated", "extractor_digest": None}
    compat = options.mode if metric in ("fid", "kid") else "official"
    run = read_run(first.report["path"]) if Path(first.report["path"]).is_dir() else None
    resamples = RESAMPLES if options.resamples is None else options.resamples
    bootstrap = None
    if again is not None and resamples and first.report["n"] > 1:
        values = again(draw(first.report["n"], resamples))
        floor = -np.inf if metric == "kid" else 0.0  # the unbiased estimate may be negative
        bootstrap = interval(value, values, first.report.get("names_sha256"), floor)
    result = {
        "metric": metric,
        "label": label(metric, judge, options),
        "compat": compat,
        "value": value,
        "interval": bootstrap.pop("interval") if bootstrap else None,
        "lower_is_better": True,
        "n": first.report["n"],
        "n_images": first.report["n"],
        "n_reference": second.report["n"],
        "images": first.report,
        "reference": second.report,
        "shared_images": shared(first, second),
        "judge": judge,
        "bootstrap": bootstrap,
        "prompt_set_sha256": (run or {}).get("prompt_set_sha256"),
        "run": run,
        "versions": {"arrag": __version__} | {name: version(name) for name in LIBRARIES},
        **details,
    }
    result["warnings"] = warnings_of(result)
    for text in result["warnings"]:
        print(f"arrag: warning: {text}", file=sys.stderr)
    return result


def label(metric: str, judge: dict[str, Any], options: Options) -> str:
    """A column's name: plain only where the extractor's name is the official one's."""
    if metric == "fwd":
        plain = (options.wavelet.lower(), options.level) == ("haar", 4)
        return "FWD" if plain else f"FWD-{options.wavelet.lower()}-{options.level}"
    name = judge["extractor"]
    return metric.upper() if name in OFFICIAL else f"{metric.upper()}-{name}"


def shared(first: Side, second: Side) -> int | None:
    """How many of the first side's images stand, byte for byte, on the second; None: unknown."""
    if first.images is None or second.images is None:
        return None
    theirs = set(second.images.digests)
    return sum(digest in theirs for digest in first.images.digests)


def warnings_of(result: dict[str, Any]) -> list[str]:
    """What a reader of the value must know, as sentences."""
    found = []
    for side in (result["images"], result["reference"]):
        if side.get("unreadable") or side.get("missing"):
            found.append(
                f"{side['path']}: {len(side['unreadable'])} images are damaged and "
                f"{side['missing']} missing; the value is of the other {side['n']}"
            )
        if side.get("mixed_sizes"):
            found.append(f"{side['path']}: images of {len(side['sizes'])} sizes: {side['sizes']}")
        if side.get("stated") is False:
            found.append(f"{side['path']}: nothing says which extractor made these statistics")
    if result.get("rank_deficient"):
        found.append(
            f"no more images than dimensions ({result['n']} and {result['n_reference']} images, "
            f"{result['dimensions']} dimensions): the covariance is singular"
        )
    if result["shared_images"]:
        found.append(f"{result['shared_images']} of {result['n']} images are in the reference too")
    return found
