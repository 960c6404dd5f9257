"""Seconds an image (Table 4): the clock, the best batch, and overheads with intervals.

All rows are timed in one run, in turn: what drifts on a machine (its clock rate, other users) then
hits all of them alike, and an overhead is a ratio within a round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from arrag.metrics.bootstrap import LEVEL, Estimate
from arrag.utils.errors import ArragError
from arrag.utils.resource_errors import is_out_of_memory

Draw = Callable[[Sequence[str]], Any]
"""Draws one image for each of some prompts, from texts to pixels."""
FASTER = 0.97  # a batch counts as faster when it takes at most this share of the time an image


class Batches(NamedTuple):
    """best: images at a time; tried: {images at a time: seconds an image}; end: why no larger."""

    best: int
    tried: dict[int, float]
    end: str


def seconds_of(draw: Draw, prompts: Sequence[str], batch: int = 0) -> float:
    """Seconds that drawing all prompts takes, ``batch`` at a time (0: all at once)."""
    step = batch or len(prompts)
    _wait()
    begun = time.perf_counter()
    for start in range(0, len(prompts), step):
        draw(prompts[start : start + step])
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best_batch(draw: Draw, prompts: Sequence[str], most: int) -> Batches:
    """Double the batch until an image gets no faster, memory ends, or ``most`` is reached.

    The prompts are repeated where a batch holds more. Raises ArragError when not even one image
    fits into memory.
    """
    tried: dict[int, float] = {}
    batch, end = 1, f"the largest tried, {most}"
    while batch <= most:
        some = [prompts[i % len(prompts)] for i in range(batch)]
        try:
            draw(some[: min(batch, 2)])  # what a new shape sets up is outside the clock
            took = seconds_of(draw, some) / batch
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            end = f"no memory for {batch}"
            break
        slower = bool(tried) and took > FASTER * min(tried.values())
        tried[batch] = took
        if slower:
            end = f"{batch} is no faster"
            break
        batch *= 2
    if not tried:
        raise ArragError(
            "timing: there is no memory for one image; name fewer rows with --methods, or choose "
            "a smaller dtype"
        )
    return Batches(min(tried, key=lambda size: (tried[size], size)), tried, end)


def time_rows(
    rows: Mapping[str, Draw],
    prompts: Sequence[str],
    batches: Mapping[str, int],
    rounds: int,
    told: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds that each row takes for the same prompts, a number a round: {row: [rounds]}.

    A warm-up of a batch comes first. Each round times every row once and begins with another one.
    ``told`` is called with a row's name before it is timed.
    """
    names = list(rows)
    for name in names:
        told(name)
        rows[name](prompts[: batches[name]])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            told(name)
            seconds[name].append(seconds_of(rows[name], prompts, batches[name]))
    return seconds


def overhead(seconds: Sequence[float], base: Sequence[float]) -> Estimate:
    """Percent that a row takes longer than ``base``, both float [rounds], paired by round."""
    ratios = np.asarray(seconds, np.float64) / np.asarray(base, np.float64)
    return Estimate(*(100 * (ratio - 1) for ratio in typical(ratios)))


def typical(values: Sequence[float]) -> Estimate:
    """Geometric mean of some positive numbers, with Student's 95 % interval for logarithms.

    Times and their ratios are never negative, and neither is this interval. A single number has
    none (NaN).
    """
    logs = np.log(np.asarray(values, np.float64))
    middle, n = float(logs.mean()), len(logs)
    if n < 2:
        return Estimate(math.exp(middle), math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.5 + LEVEL / 2, n - 1) * logs.std(ddof=1) / math.sqrt(n))
    return Estimate(*(math.exp(x) for x in (middle, middle - half, middle + half)))
