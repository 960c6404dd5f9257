"""Scores of generated images, one file a metric: GenEval, DPG-Bench, FID, KID, CMMD, FWD.

May import ``data``, ``tokenizers``, ``config`` and ``utils``. Start reading in ``base`` (the
interface, the result, the registry) and ``fid`` (a metric in seventy lines); ``distance`` has what
all distances share, ``bootstrap`` the intervals and the paired comparisons. To add a metric, see
docs/how-to/own-metric.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Metric": "base",
    "Score": "base",
    "ScoreOptions": "base",
    "get_metric": "base",
    "load_detector": "base",
    "register_metric": "base",
    "DistanceMetric": "distance",
    "Measurement": "distance",
    "Estimate": "bootstrap",
    "mcnemar": "bootstrap",
    "paired_difference": "bootstrap",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
