"""Uncertainty of scores: bootstrap intervals, paired differences of two scores, McNemar's test.

Judged benchmarks (GenEval, DPG-Bench) resample prompts within each task. A prompt's images are
averaged first, so the intervals never treat images of one prompt as independent.

Distances between sets (FID, KID, CMMD, FWD) resample the generated images. The reference is common
to all rows of a table and stays fixed. A resample contains repeats and so covers less than the set:
every resampled distance is too large by about the same amount. The interval is the resampled
values' 95 % range, shifted so that their mean is the value; the shift is stored as ``bias``. FID's
own upward bias of about 1/n remains: compare only equal numbers of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from arrag.utils.errors import MismatchError, UsageError

RESAMPLES = 10_000  # of prompts
IMAGE_RESAMPLES = 200  # of images
LEVEL = 0.95
SEED = 0
OVERALL = "overall"
ROUNDING = 1e-12  # a bound this close to 0 is 0: means of means carry float64 noise
METHOD = "bootstrap over images, reference fixed, centred percentiles"


class Estimate(NamedTuple):
    """A value with its percentile interval."""

    value: float
    low: float
    high: float

    def holds(self, number: float) -> bool:
        """Whether ``number`` lies in the closed interval."""
        return self.low - ROUNDING <= number <= self.high + ROUNDING


class McNemar(NamedTuple):
    """Images right only in the first, right only in the second, and the two-sided p-value."""

    only_first: int
    only_second: int
    p: float


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % range of ``values``."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


# -- resampling prompts ------------------------------------------------------------------------


def resample_indices(
    tags: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, np.ndarray]:
    """Indices of prompts drawn with replacement within each task.

    Returns:
        {tag: int64 [resamples, prompts of the task]}, tasks in order of first appearance.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(tags)
    drawn = {}
    for tag in dict.fromkeys(tags):
        members = np.flatnonzero(labels == tag)
        drawn[tag] = members[rng.integers(len(members), size=(resamples, len(members)))]
    return drawn


def bootstrap(
    tags: Sequence[str],
    values: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    weights: Sequence[float] | None = None,
) -> dict[str, Estimate]:
    """Mean of every task and ``overall``, the mean of the task means, with 95 % intervals.

    Args:
        tags: Task of each prompt.
        values: One number a prompt: its mean score, or the difference of two methods (which makes
            the bootstrap a paired one).
        resamples: Number of resamples.
        seed: The same seed draws the same prompts in every call.
        weights: Images of each prompt where they differ. A task's mean is then over its images,
            as in the official GenEval summary.
    """
    per_prompt = np.asarray(values, dtype=np.float64)
    drawn = resample_indices(tags, resamples, seed)
    labels = np.asarray(tags)
    images = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    hits = per_prompt * images
    points = {tag: hits[labels == tag].sum() / images[labels == tag].sum() for tag in drawn}
    spread = {tag: hits[i].sum(1) / images[i].sum(1) for tag, i in drawn.items()}  # [R]
    points[OVERALL] = np.mean(list(points.values()))
    spread[OVERALL] = np.mean(list(spread.values()), axis=0)
    return {name: Estimate(float(points[name]), *percentiles(r)) for name, r in spread.items()}


def bootstrap_shares(
    totals: np.ndarray, counts: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Estimate]:
    """sum(totals) / sum(counts) of K groups to which prompts add unequally many scores.

    Draws the same prompts as ``bootstrap`` does for a single task. Resamples in which a group has
    no score are left out of its interval.

    Args:
        totals: [K, prompts], sums of scores.
        counts: [K, prompts], numbers of scores; not all of a group may be 0.
    """
    groups, n = totals.shape
    sums = np.concatenate([totals, counts]).astype(np.float64)  # [2K, n]
    drawn = resample_indices([OVERALL] * n, resamples, seed)[OVERALL]  # [R, n]
    spread = np.stack([np.bincount(draw, minlength=n) @ sums.T for draw in drawn])  # [R, 2K]
    estimates = []
    for k in range(groups):
        top, below = spread[:, k], spread[:, groups + k]
        point = float(sums[k].sum() / sums[groups + k].sum())
        estimates.append(Estimate(point, *percentiles(top[below > 0] / below[below > 0])))
    return estimates


# -- resampling images -------------------------------------------------------------------------


def image_weights(n: int, resamples: int, seed: int = SEED) -> np.ndarray:
    """How often each of n images is drawn, float64 [R, n]; the same for the same n and seed."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def image_bootstrap(
    value: float, resampled: np.ndarray, names: str | None, floor: float = -np.inf
) -> dict[str, Any]:
    """The interval of a distance, and what a paired comparison needs.

    Args:
        value: The distance.
        resampled: The distances of resamples, [R].
        names: Digest of the images' names.
        floor: Smallest possible value of the distance.
    """
    low, high = percentiles(resampled - resampled.mean())
    return {
        "interval": [min(value, max(value + low, floor)), value + high],
        "method": METHOD,
        "resamples": len(resampled),
        "seed": SEED,
        "bias": float(resampled.mean() - value),
        "names_sha256": names,
        "values": [float(v) for v in resampled],
    }


# -- two scores --------------------------------------------------------------------------------


def paired_difference(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Estimate]:
    """First minus second of two scores of one metric, as their JSON files hold them.

    Judged scores are paired by prompt. Distances are paired by image: both have drawn the same
    positions of their lists, and equal lists of names mean equal prompts.

    Returns:
        {task or "overall": Estimate}; of distances only "overall".

    Raises:
        MismatchError: The two were not scored alike: metric, prompts, judge, reference, names.
        UsageError: A distance was scored without resamples.
    """
    check_comparable(first, second)
    if "per_prompt" in first:
        rows = list(zip(first["per_prompt"], second["per_prompt"], strict=True))
        return bootstrap([a["tag"] for a, _ in rows], [a["mean"] - b["mean"] for a, b in rows])
    if first["bootstrap"] is None:
        hint = "score again with --resamples"
        raise UsageError("the scores hold no resampled values", field="bootstrap", hint=hint)
    value = first["value"] - second["value"]
    spread = np.subtract(first["bootstrap"]["values"], second["bootstrap"]["values"])
    low, high = percentiles(spread - spread.mean())
    return {OVERALL: Estimate(value, value + low, value + high)}


def mcnemar(first: dict[str, Any], second: dict[str, Any]) -> McNemar:
    """McNemar's exact test on per-image verdicts paired by (prompt index, sample index).

    Two-sided binomial test of the discordant pairs against 1/2; p = 1 when there are none.
    """
    check_comparable(first, second)
    if any("verdicts" not in row for row in first.get("per_prompt", [{}])):
        raise UsageError(f"McNemar's test needs a verdict an image; {first['metric']} has shares")
    ours = "".join(row["verdicts"] for row in first["per_prompt"])
    theirs = "".join(row["verdicts"] for row in second["per_prompt"])
    if len(ours) != len(theirs):
        raise MismatchError(
            f"the two scores hold {len(ours)} and {len(theirs)} images",
            hint="generate both with the same images_per_prompt",
        )
    from scipy.stats import binomtest  # slow to import, and few commands need it

    only_first = sum(a > b for a, b in zip(ours, theirs, strict=True))
    only_second = sum(a < b for a, b in zip(ours, theirs, strict=True))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def check_comparable(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Raise MismatchError unless two scores share metric, target, judge and rules."""
    ours, theirs = _comparable_fields(first), _comparable_fields(second)
    for field in ours:
        if ours[field] != theirs.get(field):
            raise MismatchError(
                f"is {_short(ours[field])} in one score and {_short(theirs.get(field))} in the "
                "other, so they cannot be compared",
                field=field,
                hint="score both on the same prompts or reference, with the same judge and options",
            )


def _comparable_fields(score: dict[str, Any]) -> dict[str, Any]:
    if "per_prompt" not in score:
        drawn = score["bootstrap"] or {}
        return {
            "metric": score["metric"],
            "compat": score["compat"],
            "judge": score["judge"],
            "reference": score["reference"]["sha256"],
            "n": score["n"],
            "names_sha256": drawn.get("names_sha256"),
            "resamples": drawn.get("resamples"),
        }
    fields = ("metric", "prompt_set_sha256", "judge", "compat", "dependency")
    # A partial run or a dropped prompt leaves other rows.
    rows = [(row["tag"], row.get("item_id")) for row in score["per_prompt"]]
    return {field: score.get(field) for field in fields} | {"per_prompt": rows}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
