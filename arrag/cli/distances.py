"""``arrag score fid|kid|cmmd|fwd|distance`` and ``arrag fid-stats``: images against a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import App, Parameter

from arrag.cli.common import Count, Whole, given, options_of
from arrag.config.benchmarks import CmmdSettings, FidSettings, FwdSettings
from arrag.pipeline.layout import RESULTS
from arrag.pipeline.provenance import write_score_record
from arrag.pipeline.records import record_of, write_record
from arrag.utils.errors import UsageError


@Parameter(name="*")
@dataclass(frozen=True)
class Computing:
    """How a distance is computed."""

    features: Path = RESULTS / "features"
    "Folder of cached features."
    no_cache: bool = False
    "Neither read nor write cached features."
    batch_size: Count | None = None
    "Images at a time; chosen by the device if not given."
    workers: Whole = 0
    "Threads that decode images."
    expect: Count | None = None
    "Number of images that each folder must contain."
    allow_partial: bool = False
    "Leave out damaged and missing images; the score states them."
    resamples: Whole | None = None
    "Bootstrap resamples for the interval; 0 is none."
    backends: bool = False
    "FID and KID: also compute the value with clean-fid's and torchmetrics' formulas."


DISTANCES = {
    "fid": (FidSettings, "Fréchet distance of image features (FID with Inception's weights)."),
    "kid": (FidSettings, "Kernel distance of image features, unbiased also for few images."),
    "cmmd": (CmmdSettings, "Maximum mean discrepancy of CLIP features."),
    "fwd": (FwdSettings, "Fréchet distance of wavelet packets; needs no network."),
}
DISTANCE_HELP = """{summary}

Example: arrag score {name} results/samples/mjhq/daid-0123456789 reference.npz --out {name}.json

Args:
    images: Folder, tar, .npz or .npy: the generated images.
    reference: Folder, tar, .npz or .npy: the reference.
    out: JSON file of the score.
"""


def _distance_command(name: str, model: Any, summary: str) -> Callable[..., dict[str, Any]]:
    """Return the command of a distance; its settings are the fields of ``model``."""

    def score(
        images: Path,
        reference: Path,
        /,
        *,
        settings: Any = None,
        computing: Computing | None = None,
        out: Path | None = None,
    ) -> dict[str, Any]:
        return _distance(name, images, reference, given(settings), computing, out)

    score.__name__, score.__doc__ = name, DISTANCE_HELP.format(name=name, summary=summary)
    score.__annotations__["settings"] = options_of(model)
    return score


def add_distances(app: App) -> None:
    """Add a command for each distance to the group ``score``, and one for any other metric."""
    for name, (model, summary) in DISTANCES.items():
        app.command(_distance_command(name, model, summary), name=name)
    app.command(distance)


def distance(
    metric: str,
    images: Path,
    reference: Path,
    /,
    *,
    module: str | None = None,
    settings: str = "{}",
    computing: Computing | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """A distance of your own, or any other by its name.

    Example: arrag score distance mean_color generated reference --module my_metrics

    Args:
        metric: The registered name.
        images: Folder, tar, .npz or .npy: the generated images.
        reference: Folder, tar, .npz or .npy: the reference.
        module: Dotted name of the module that registers the metric.
        settings: The metric's settings as JSON.
        out: JSON file of the score.
    """
    from pydantic import TypeAdapter, ValidationError

    from arrag.metrics.base import get_metric

    model = getattr(get_metric(metric, module), "Settings", None)
    if model is None:
        hint = f"use `arrag score {metric}`"
        raise UsageError(f"{metric} compares no two sets of images", field="METRIC", hint=hint)
    try:
        chosen = TypeAdapter(model).validate_json(settings).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        hint = f"known: {', '.join(model.model_fields) or 'none'}"
        raise UsageError(first["msg"], field="--settings", hint=hint) from None
    return _distance(metric, images, reference, chosen, computing, out)


def fid_stats(
    images: Path,
    /,
    *,
    out: Path,
    metric: Literal["fid", "kid", "cmmd", "fwd"] = "fid",
    mjhq: Path | None = None,
    extractor: str | None = None,
    mode: Literal["clean", "legacy_pytorch"] | None = None,
    wavelet: str | None = None,
    level: Count | None = None,
    size: Count | None = None,
    computing: Computing | None = None,
) -> dict[str, Any]:
    """Write statistics of reference images, so that they are computed once.

    Example: arrag fid-stats mjhq30k_imgs --metric fid --out reference.npz

    Args:
        images: Folder or tar of images.
        out: An .npz file; with --mjhq a folder of them.
        metric: Which metric's statistics.
        mjhq: MJHQ-30K's meta_data.json: statistics of all images and of every category.
        extractor: As for the metric.
        mode: As for the metric.
        wavelet: As for the metric.
        level: As for the metric.
        size: As for the metric.
    """
    from arrag.metrics.base import get_metric

    named = {"extractor": extractor, "mode": mode, "wavelet": wavelet, "level": level, "size": size}
    chosen = get_metric(metric)
    settings = {name: value for name, value in named.items() if value is not None}
    if unknown := [name for name in settings if name not in chosen.Settings.model_fields]:
        raise UsageError(f"not for {metric}", field=f"--{unknown[0]}", hint="leave it out")
    settings, options = chosen.Settings(**settings), _options(computing, None)
    with _recorded_features(options.cache):
        if mjhq is not None:
            written = chosen(settings).write_mjhq_statistics(images, mjhq, out, options)
            about = {"stats": written}
        else:
            about = {"stats": out, **chosen(settings).write_statistics(images, out, options)}
    write_record(out)
    return about


def _distance(
    name: str,
    images: Path,
    reference: Path,
    settings: dict[str, Any],
    computing: Computing | None,
    out: Path | None,
) -> dict[str, Any]:
    """Score; the resampled values are in the file alone."""
    from arrag.metrics.base import get_metric
    from arrag.utils.errors import ArragError

    metric, options = get_metric(name), _options(computing, out)
    try:
        with _recorded_features(options.cache):
            chosen = metric(metric.Settings(**settings))
            score = chosen.score(images, reference, options).to_json()
    except ArragError as error:  # errors of numbers do not name the files
        if any(str(path) in str(error) for path in (images, reference)):
            raise
        raise ArragError(error, path=f"{images}, {reference}") from None
    if out is not None:
        write_score_record(out, score, None, {"extractor": settings.get("extractor")})
    if score["bootstrap"]:
        score["bootstrap"] = {k: v for k, v in score["bootstrap"].items() if k != "values"}
    return score


def _options(computing: Computing | None, out: Path | None) -> Any:
    from arrag.metrics.base import ScoreOptions

    how = vars(computing or Computing())
    cache = None if how["no_cache"] else how["features"]
    rest = {k: v for k, v in how.items() if k not in ("features", "no_cache")}
    return ScoreOptions(out=out, cache=cache, **rest)


@contextmanager
def _recorded_features(cache: Path | None) -> Iterator[None]:
    """Write the records of the cached features that the block adds."""
    try:
        yield
    finally:
        for file in [] if cache is None else sorted(cache.glob("*/*")):
            cached = file.suffix == ".safetensors" or file.name == "manifest.json"
            if cached and not record_of(file).is_file():
                write_record(file)
