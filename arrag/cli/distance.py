"""``arrag score fid|kid|cmmd|fwd`` and ``stats``: sets of images against a reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count
from arrag.pipeline.provenance import write_score_record
from arrag.pipeline.records import record_of, write_record

FEATURES = Path("results/features")
HELP = {
    "fid": "Fréchet distance of image features (clean-fid; FID with Inception's weights)",
    "kid": "kernel distance of image features, unbiased also for few images",
    "cmmd": "maximum mean discrepancy of CLIP features",
    "fwd": "Fréchet distance of wavelet packets; needs no network",
}
EXTRACTOR = (
    "inception, clip, mobilenetv2:WIDTH, a TorchScript file (.pt), pytorch-fid's weights (.pth), "
    "or the folder of a CLIP (the metric's own)"
)


def add_scores(scores: Any) -> None:
    """Add ``fid``, ``kid``, ``cmmd`` and ``fwd`` to ``arrag score``."""
    for metric, help in HELP.items():
        parser = command(
            scores,
            metric,
            help,
            f"arrag score {metric} results/samples/daid reference.npz --out {metric}.json",
            run_score,
        )
        parser.set_defaults(metric=metric)
        parser.add_argument("images", type=Path, help="folder, tar, .npz or .npy: the generated")
        parser.add_argument("reference", type=Path, help="folder, tar, .npz or .npy: the reference")
        parser.add_argument("--out", type=Path, help="JSON file of the score")
        _settings(parser, metric)
        parser.add_argument(
            "--resamples",
            type=whole,
            help="draws of the images for the interval; 0: none (200; fwd: 100 if small, else 0)",
        )
        parser.add_argument(
            "--allow-rank-deficient",
            action="store_true",
            help="go on with no more images than features; the score states it",
        )
        if metric in ("fid", "kid"):
            parser.add_argument(
                "--backends",
                action="store_true",
                help="also compute the figure with clean-fid's and torchmetrics' formulas",
            )

    parser = command(
        scores,
        "distance",
        "a distance of your own, or any other by its name",
        "arrag score distance mean_color results/samples/daid reference --module my_metrics",
        run_score,
    )
    parser.add_argument("metric", metavar="NAME", help="the registered name")
    parser.add_argument("images", type=Path, help="folder, tar, .npz or .npy: the generated")
    parser.add_argument("reference", type=Path, help="folder, tar, .npz or .npy: the reference")
    parser.add_argument("--module", help="dotted name of the module that registers the metric")
    parser.add_argument("--settings", default="{}", help="the metric's settings as JSON")
    parser.add_argument("--out", type=Path, help="JSON file of the score")
    _run_options(parser, cached=True)
    parser.add_argument("--resamples", type=whole, help="draws for the interval; 0: none (200)")


def add(commands: Any) -> None:
    """Add ``stats``."""
    parser = command(
        commands,
        "stats",
        "write statistics of reference images, so that they are computed once",
        "arrag stats mjhq30k_imgs --metric fid --out reference.npz",
        run_stats,
    )
    parser.add_argument("images", type=Path, help="folder or tar of images")
    parser.add_argument("--metric", choices=tuple(HELP), default="fid", help="%(default)s")
    parser.add_argument(
        "--out", type=Path, required=True, help=".npz file; with --mjhq a folder of them"
    )
    parser.add_argument(
        "--mjhq",
        type=Path,
        metavar="META",
        help="MJHQ-30K's meta_data.json: statistics of all and of every category",
    )
    _settings(parser, None)


def _settings(parser: argparse.ArgumentParser, metric: str | None) -> None:
    """What shapes features; ``metric`` None: of any metric."""
    if metric != "fwd":
        parser.add_argument("--extractor", help=EXTRACTOR)
        parser.add_argument(
            "--mode",
            choices=("clean", "legacy_pytorch"),
            default="clean",
            help="how images are resized for Inception and MobileNetV2 (%(default)s)",
        )
    if metric in ("fwd", None):
        parser.add_argument("--wavelet", default="haar", help="PyWavelets' name (%(default)s)")
        parser.add_argument("--level", type=count, default=4, help="depth (%(default)s)")
        parser.add_argument(
            "--size", type=count, help="resize to N x N pixels first (the images' own size)"
        )
    _run_options(parser, cached=metric != "fwd")


def _run_options(parser: argparse.ArgumentParser, cached: bool) -> None:
    """What does not change what is measured."""
    if cached:
        parser.add_argument(
            "--features", type=Path, default=FEATURES, help="cached features (%(default)s)"
        )
        parser.add_argument("--no-cache", action="store_true", help="neither read nor write it")
        parser.add_argument("--batch-size", type=count, help="images at a time (4; 64 on a GPU)")
        parser.add_argument("--workers", type=whole, default=0, help="threads that decode images")
    parser.add_argument("--expect", type=count, help="number of images a folder must hold")
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="go on without damaged or missing images; the score states them",
    )


def whole(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number of at least 0")
    return int(text)


def _open_metric(args: argparse.Namespace) -> Any:
    """The metric with the settings of the command line; what is not given is the default."""
    from pydantic import TypeAdapter, ValidationError

    from arrag.metrics.base import get_metric
    from arrag.utils.errors import UsageError

    metric = get_metric(args.metric, getattr(args, "module", None))
    if hasattr(args, "settings"):
        try:
            return metric(TypeAdapter(metric.Settings).validate_json(args.settings))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(["--settings", *map(str, first["loc"])])
            hint = f"known: {', '.join(metric.Settings.model_fields) or 'none'}"
            raise UsageError(first["msg"], field=field, hint=hint) from None
    given = {name: getattr(args, name, None) for name in metric.Settings.model_fields}
    return metric(metric.Settings(**{k: v for k, v in given.items() if v is not None}))


def _options(args: argparse.Namespace) -> Any:
    """The command line as ``arrag.metrics.base.ScoreOptions``."""
    from dataclasses import fields

    from arrag.metrics.base import ScoreOptions

    given = {f.name: getattr(args, f.name) for f in fields(ScoreOptions) if hasattr(args, f.name)}
    cache = None if getattr(args, "no_cache", False) else getattr(args, "features", None)
    return ScoreOptions(**given | {"cache": cache})


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


def run_score(args: argparse.Namespace) -> dict[str, Any]:
    """Score; the resampled values are in the file alone."""
    from arrag.utils.errors import ArragError

    options = _options(args)
    try:
        with _recorded_features(options.cache):
            result = _open_metric(args).score(args.images, args.reference, options).to_json()
    except ArragError as error:  # errors of numbers do not name the files
        if any(str(path) in str(error) for path in (args.images, args.reference)):
            raise
        raise ArragError(f"{args.images}, {args.reference}: {error}") from None
    if args.out is not None:
        write_score_record(args.out, result, None, {"extractor": getattr(args, "extractor", None)})
    shown = dict(result)
    if shown["bootstrap"]:
        shown["bootstrap"] = {k: v for k, v in shown["bootstrap"].items() if k != "values"}
    return shown


def run_stats(args: argparse.Namespace) -> dict[str, Any]:
    """Write statistics; returns what they say of themselves."""
    metric, options = _open_metric(args), _options(args)
    with _recorded_features(options.cache):
        if args.mjhq is not None:
            return {
                "stats": metric.write_mjhq_statistics(args.images, args.mjhq, args.out, options)
            }
        about = metric.write_statistics(args.images, args.out, options)
    write_record(args.out)
    return {"stats": args.out, **about}
