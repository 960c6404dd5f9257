"""Intervals of distances between sets, by drawing the generated images again.

The reference stays as it is: it is common to all rows of a table. A set of distinct images and a
resample of it differ in more than chance: repeats shrink what the resample covers, so every
resampled distance is too large by about the same amount. The interval is therefore the resampled
values' 95 % range moved so that their mean lies on the value; the amount moved is stated as
``bias``. FID has a bias of its own (upwards, about 1/n), which no resampling removes: compare only
equal numbers of images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arrag.metrics.bootstrap import LEVEL, Estimate
from arrag.utils.errors import ArragError

RESAMPLES = 200
SEED = 0
METHOD = "bootstrap over images, reference fixed, centred percentiles"


def draw(n: int, resamples: int, seed: int = SEED) -> np.ndarray:
    """How often each of n images is drawn: float64 [R, n]; the same for the same n and seed."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def interval(
    value: float, resampled: np.ndarray, names: str | None, floor: float = -np.inf
) -> dict[str, Any]:
    """The interval and what pairing needs.

    names: digest of the images' names. floor: what the value can never be below.
    """
    low, high = _percentiles(resampled - resampled.mean())
    return {
        "interval": [min(value, max(value + low, floor)), value + high],
        "method": METHOD,
        "resamples": len(resampled),
        "seed": SEED,
        "bias": float(resampled.mean() - value),
        "names_sha256": names,
        "values": [float(v) for v in resampled],
    }


def paired_difference(first: dict[str, Any], second: dict[str, Any]) -> Estimate:
    """First minus second of two scores, with a 95 % interval over images drawn together.

    Both scores drew the same places of their lists, and equal lists of names mean equal prompts.
    Raises ArragError when the two were not measured alike: metric, judge, reference, names.
    """
    fields = (
        ("metric", lambda s: s["metric"]),
        ("compat", lambda s: s["compat"]),
        ("judge", lambda s: s["judge"]),
        ("reference", lambda s: s["reference"]["sha256"]),
        ("number of images", lambda s: s["n"]),
        ("names of images", lambda s: (s["bootstrap"] or {}).get("names_sha256")),
        ("resamples", lambda s: (s["bootstrap"] or {}).get("resamples")),
    )
    for name, of in fields:
        if of(first) != of(second):
            raise ArragError(
                f"scores cannot be compared: {name} is {of(first)!r} in one and {of(second)!r} in "
                "the other; score both against the same reference with the same options"
            )
    if first["bootstrap"] is None:
        raise ArragError("the scores hold no resampled values; score again with --resamples")
    value = first["value"] - second["value"]
    spread = np.subtract(first["bootstrap"]["values"], second["bootstrap"]["values"])
    low, high = _percentiles(spread - spread.mean())
    return Estimate(value, value + low, value + high)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
