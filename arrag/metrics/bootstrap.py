"""Uncertainty of benchmark scores: a stratified paired bootstrap, and McNemar's exact test.

The sampling unit is the prompt: its images are averaged first, so that images of one prompt are
never treated as independent by the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from arrag.utils.errors import ArragError

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
OVERALL = "overall"
ROUNDING = 1e-12  # a bound this close to 0 is 0: means of means carry float64 noise


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


def resample_indices(
    tags: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, np.ndarray]:
    """Prompts drawn with replacement within each task: {tag: int64 [resamples, n of the task]}.

    The numbers index the whole prompt list; tasks come in order of first appearance.
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
    """Mean of every task and ``overall`` = mean of the task means, with 95 % intervals.

    ``values`` holds one number a prompt: its mean score, or the difference of two methods (which
    makes the bootstrap a paired one). The same seed draws the same prompts for every call.
    ``weights`` are the prompts' numbers of images where they differ: a task's mean is then over
    its images, as the official GenEval summary has it.
    """
    per_prompt = np.asarray(values, dtype=np.float64)
    drawn = resample_indices(tags, resamples, seed)
    labels = np.asarray(tags)
    if weights is None:
        points = {tag: per_prompt[labels == tag].mean() for tag in drawn}
        spread = {tag: per_prompt[indices].mean(1) for tag, indices in drawn.items()}  # [R]
    else:
        images = np.asarray(weights, dtype=np.float64)
        hits = per_prompt * images
        points = {tag: hits[labels == tag].sum() / images[labels == tag].sum() for tag in drawn}
        spread = {tag: hits[i].sum(1) / images[i].sum(1) for tag, i in drawn.items()}
    points[OVERALL] = np.mean(list(points.values()))
    spread[OVERALL] = np.mean(list(spread.values()), axis=0)
    tail = 50 * (1 - LEVEL)
    estimates = {}
    for name, resampled in spread.items():
        low, high = np.percentile(resampled, [tail, 100 - tail])
        estimates[name] = Estimate(float(points[name]), float(low), float(high))
    return estimates


def bootstrap_shares(
    totals: np.ndarray, counts: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Estimate]:
    """sum(totals) / sum(counts) of K groups to which prompts add unequally many scores.

    ``totals`` and ``counts`` are [K, n], a column a prompt; every count of a group may be 0 but
    not all. Prompts are drawn with replacement, the same ones as ``bootstrap`` draws for one
    stratum; draws in which a group has no score are left out of its interval.
    """
    groups, n = totals.shape
    sums = np.concatenate([totals, counts]).astype(np.float64)  # [2K, n]
    drawn = resample_indices([OVERALL] * n, resamples, seed)[OVERALL]  # [R, n]
    spread = np.stack([np.bincount(draw, minlength=n) @ sums.T for draw in drawn])  # [R, 2K]
    tail = 50 * (1 - LEVEL)
    estimates = []
    for k in range(groups):
        top, below = spread[:, k], spread[:, groups + k]
        low, high = np.percentile(top[below > 0] / below[below > 0], [tail, 100 - tail])
        point = float(sums[k].sum() / sums[groups + k].sum())
        estimates.append(Estimate(point, float(low), float(high)))
    return estimates


def paired_difference(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Estimate]:
    """First minus second of two scores over the same prompts: {task or "overall": Estimate}.

    Raises ArragError when the two were not scored on the same prompt set by the same judge.
    """
    check_comparable(first, second)
    tags = [row["tag"] for row in first["per_prompt"]]
    values = [
        a["mean"] - b["mean"]
        for a, b in zip(first["per_prompt"], second["per_prompt"], strict=True)
    ]
    return bootstrap(tags, values)


def mcnemar(first: dict[str, Any], second: dict[str, Any]) -> McNemar:
    """McNemar's exact test on per-image verdicts paired by (prompt index, sample index).

    Two-sided binomial test of the discordant pairs against 1/2; p = 1 when there are none.
    """
    check_comparable(first, second)
    if any("verdicts" not in row for row in first["per_prompt"]):
        raise ArragError(
            f"McNemar's test needs a verdict an image; metric {first['metric']} has shares instead"
        )
    ours = "".join(row["verdicts"] for row in first["per_prompt"])
    theirs = "".join(row["verdicts"] for row in second["per_prompt"])
    if len(ours) != len(theirs):
        raise ArragError(
            f"the two scores hold {len(ours)} and {len(theirs)} images; "
            "generate both with the same images_per_prompt"
        )
    from scipy.stats import binomtest  # a second to import, which most commands need not wait for

    only_first = sum(a > b for a, b in zip(ours, theirs, strict=True))
    only_second = sum(a < b for a, b in zip(ours, theirs, strict=True))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def check_comparable(first: dict[str, Any], second: dict[str, Any]) -> None:
    """ArragError unless both scores share metric, prompt set, judge and rules."""
    for field in ("metric", "prompt_set_sha256", "judge", "compat", "dependency"):
        if first.get(field) != second.get(field):
            raise ArragError(
                f"scores cannot be compared: field {field} is {first.get(field)!r} in one and "
                f"{second.get(field)!r} in the other; score both with the same prompts and judge"
            )
    if _prompts(first) != _prompts(second):
        raise ArragError(
            "scores cannot be compared: field per_prompt names other prompts in one than in the "
            "other (a partial run, or dropped prompts); score both on the same prompts"
        )


def _prompts(score: dict[str, Any]) -> list[Any]:
    return [(row["tag"], row.get("item_id")) for row in score["per_prompt"]]
