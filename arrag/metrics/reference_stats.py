"""Reference statistics as files: of one set of images, or of MJHQ-30K, all and by category."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arrag import __version__
from arrag.data import mjhq
from arrag.metrics.extractors import Extractor, open_extractor
from arrag.metrics.features import extract
from arrag.metrics.image_set import DEFAULT_EXTRACTOR, Options, judge_of, open_side, unit
from arrag.metrics.references import write_features, write_moments


def write_statistics(
    metric: str, source: str | Path, out: str | Path, options: Options
) -> dict[str, Any]:
    """Write ``out`` (.npz) for ``metric``: moments for fid and fwd, features for kid and cmmd.

    Returns what the file says of itself. Raises ArragError as scoring does.
    """
    if metric == "fwd":
        return _write_fwd(source, out, options)
    extractor = open_extractor(options.extractor or DEFAULT_EXTRACTOR[metric], options.mode)
    side = open_side(metric, source, extractor, options)
    return _write(metric, extractor, side.features, side.report, out)


def _write(
    metric: str, extractor: Extractor, features: np.ndarray, report: dict[str, Any], out: str | Path
) -> dict[str, Any]:
    meta = _meta(metric, judge_of(metric, extractor), report)
    if metric != "fid":
        write_features(out, features, meta)
        return meta
    x = features.astype(np.float64)
    # Not by way of a factor: what other programs read here is the covariance itself.
    write_moments(out, x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)), len(x), meta)
    return meta


def _write_fwd(source: str | Path, out: str | Path, options: Options) -> dict[str, Any]:
    from arrag.metrics.fwd_score import open_packets, write_packets

    with ExitStack() as stack:
        side, packets = open_packets(source, options, stack)
        meta = _meta("fwd", side.judge, side.report)
        write_packets(out, packets, meta)
    return meta


def _meta(metric: str, judge: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    return {"metric": metric, "judge": judge, "images": report, "versions": {"arrag": __version__}}


def write_mjhq(
    metric: str, root: str | Path, meta: str | Path, out: str | Path, options: Options
) -> dict[str, Any]:
    """Write ``out``/all.npz and ``out``/CATEGORY.npz of MJHQ-30K's images for fid, kid or cmmd.

    Every image goes through the network once. Returns {file: number of images}.
    """
    entries = mjhq.load_mjhq(meta)
    missing = mjhq.check_images(root, entries, options.allow_partial)
    extractor = open_extractor(options.extractor or DEFAULT_EXTRACTOR[metric], options.mode)
    found, features = extract(
        root,
        extractor,
        options.cache,
        batch_size=options.batch_size,
        workers=options.workers,
        allow_partial=options.allow_partial,
    )
    if metric == "cmmd":
        features = unit(features)
    found = replace(found, missing=missing)
    labels = np.array([Path(name).parts[0] for name in found.names])
    written = {}
    for name in (mjhq.OVERALL, *mjhq.categories(entries)):
        rows = np.flatnonzero(labels == name) if name != mjhq.OVERALL else np.arange(len(found))
        if len(rows) < 2:
            continue
        report = found.take(rows).report() if name != mjhq.OVERALL else found.report()
        path = Path(out) / f"{name}.npz"
        _write(metric, extractor, features[rows], report, path)
        written[str(path)] = len(rows)
    return written
