"""Seconds per image (Table 4): the clock, the best batch size, and overheads with intervals.

All rows are timed in one run, in turn: what drifts on a machine (its clock rate, other users) then
hits all of them alike, and an overhead is a ratio within a round.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from arrag.backbones.janus import TEMPLATE
from arrag.config.grids import Timing
from arrag.config.root import Config
from arrag.methods.generator import ImageGenerator, TokenGenerator
from arrag.methods.sample_folder import package_versions
from arrag.metrics.bootstrap import LEVEL, Estimate
from arrag.utils.errors import ResourceError
from arrag.utils.hashing import sha256_json
from arrag.utils.resource_errors import is_out_of_memory

Generate = Callable[[Sequence[str]], Any]
"""Generates one image for each of some prompts, from texts to pixels."""
FASTER = 0.97
"""A batch size is faster if it takes at most this share of the time per image."""
UPSTREAM = "upstream"
UPSTREAM_LABEL = "transformers generate"


class BatchSearch(NamedTuple):
    """The batch size with the least time per image.

    Attributes:
        best: Images at a time.
        tried: Seconds per image of each batch size.
        end: Why no larger one was tried.
    """

    best: int
    tried: dict[int, float]
    end: str


def seconds_of(generate: Generate, prompts: Sequence[str], batch: int = 0) -> float:
    """Seconds that generating all prompts takes, ``batch`` at a time (0: all at once)."""
    step = batch or len(prompts)
    _synchronize()
    start = time.perf_counter()
    for first in range(0, len(prompts), step):
        generate(prompts[first : first + step])
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best_batch(generate: Generate, prompts: Sequence[str], most: int) -> BatchSearch:
    """Double the batch size until an image gets no faster, memory ends, or ``most`` is reached.

    The prompts are repeated where a batch holds more.

    Raises:
        ResourceError: Not even one image fits into memory.
    """
    tried: dict[int, float] = {}
    batch, end = 1, f"the largest tried, {most}"
    while batch <= most:
        some = [prompts[i % len(prompts)] for i in range(batch)]
        try:
            generate(some[: min(batch, 2)])  # what a new shape sets up is outside the clock
            took = seconds_of(generate, some) / batch
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
        raise ResourceError(
            "there is no memory for one image",
            field="timing",
            hint="time fewer rows with --methods, or choose a smaller dtype",
        )
    return BatchSearch(min(tried, key=lambda size: (tried[size], size)), tried, end)


def time_rows(
    rows: Mapping[str, Generate],
    prompts: Sequence[str],
    batches: Mapping[str, int],
    rounds: int,
    desc: str | None = None,
) -> dict[str, list[float]]:
    """Time rows in turn: each round times every row once and begins with another one.

    Args:
        rows: What each row generates with.
        prompts: The prompts of a round, the same for all rows.
        batches: Batch size of each row.
        rounds: Number of rounds, after a warm-up of one batch.
        desc: Title of a progress bar; None shows none.

    Returns:
        Seconds of each round, by row.
    """
    names, seconds = list(rows), {name: [] for name in rows}
    with tqdm(total=len(names) * (rounds + 1), desc=desc, unit="row", disable=desc is None) as bar:
        for name in names:
            rows[name](prompts[: batches[name]])
            bar.update()
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(seconds_of(rows[name], prompts, batches[name]))
                bar.update()
    return seconds


def overhead(seconds: Sequence[float], base: Sequence[float]) -> Estimate:
    """Percent that a row takes longer than ``base``, both float [rounds], paired by round."""
    ratios = np.asarray(seconds, np.float64) / np.asarray(base, np.float64)
    return Estimate(*(100 * (ratio - 1) for ratio in typical(ratios)))


def typical(values: Sequence[float]) -> Estimate:
    """Geometric mean of positive numbers, with Student's 95 % interval for their logarithms.

    Times and their ratios are never negative, and neither is this interval. A single number has
    no interval (NaN).
    """
    logs = np.log(np.asarray(values, np.float64))
    middle, n = float(logs.mean()), len(logs)
    if n < 2:
        return Estimate(math.exp(middle), math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.5 + LEVEL / 2, n - 1) * logs.std(ddof=1) / math.sqrt(n))
    return Estimate(*(math.exp(x) for x in (middle, middle - half, middle + half)))


def time_methods(
    config: Config,
    generators: Mapping[str, ImageGenerator],
    texts: Sequence[str],
    settings: Timing,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Time methods, one image at a time and with their best batch size.

    Behind the bare row of a Janus comes the loop of transformers over the same weights.

    Args:
        config: The configuration.
        generators: The loaded methods, by name.
        texts: The prompts of the benchmark; ``settings.images`` of them are generated, evenly
            spread, repeated where there are fewer.
        settings: Number of images and rounds, and the largest batch size.
        batch_size: Time this one instead of looking for the best.

    Returns:
        The record that Table 4 is made from.
    """
    count, most = len(texts), settings.images
    prompts = [texts[i * count // most % count] for i in range(most)]
    rows, about = _rows(config, generators)
    machine = describe_machine(next(iter(generators.values())).device)  # its load before the timing
    runs = _measure(rows, prompts, settings, batch_size)
    return {
        "kind": "timing",
        "scale": config.scale,
        "weights": settings.weights,
        "benchmark": settings.benchmark or config.main_benchmark,
        "rounds": settings.rounds,
        "prompts_sha256": sha256_json(prompts),
        "machine": machine,
        "versions": package_versions(),
        "order": list(rows),
        "rows": {name: {**about[name], "runs": runs[name]} for name in rows},
    }


def _rows(
    config: Config, generators: Mapping[str, ImageGenerator]
) -> tuple[dict[str, Generate], dict[str, dict[str, Any]]]:
    """How each row generates, and what the record says of it."""
    bare: dict[str, str] = {}  # the first row without augmentation, by generator
    for name in generators:
        if config.method(name).augment is None:
            bare.setdefault(config.generator_of(name)[0], name)
    rows: dict[str, Generate] = {}
    about: dict[str, dict[str, Any]] = {}
    for name, generator in generators.items():
        method, (key, settings) = config.method(name), config.generator_of(name)
        rows[name] = _ours(generator, config.seed)
        about[name] = {
            "generator": key,
            "generator_kind": settings.kind,
            "dtype": getattr(settings, "dtype", None),
            "bare": bare.get(key),
            "parameters": generator.num_parameters,
            "weights": generator.weights,
            "index": generator.index,
            "label": method.label,
            "paper_key": method.paper_key,
        }
        if bare.get(key) == name and settings.kind == "janus":
            theirs = UPSTREAM if UPSTREAM not in rows else f"{UPSTREAM}-{key}"
            rows[theirs] = _upstream(generator)
            about[theirs] = {**about[name], "label": UPSTREAM_LABEL, "paper_key": None}
    return rows, about


def _ours(generator: ImageGenerator, seed: int) -> Generate:
    return lambda prompts: generator.generate(list(prompts), [0] * len(prompts), seed)


def _upstream(generator: TokenGenerator) -> Generate:
    """transformers' loop over a Janus's weights: same guidance, same decoder, full softmax."""
    backbone, guidance = generator.backbone, generator.settings.guidance_scale

    def generate(prompts: Sequence[str]) -> np.ndarray:
        text = backbone.tokenizer(
            [TEMPLATE.format(prompt=prompt) for prompt in prompts],
            return_tensors="pt", padding=True, return_token_type_ids=False,
        ).to(backbone.device)  # fmt: skip
        tokens = backbone.model.generate(
            **text, generation_mode="image", guidance_scale=guidance, do_sample=True, top_k=0
        )
        return generator.image_tokenizer.decode(tokens.view(len(prompts), *backbone.grid))

    return generate


def _measure(
    rows: Mapping[str, Generate], prompts: list[str], settings: Timing, batch_size: int | None
) -> dict[str, dict[str, Any]]:
    """{row: {"one" or "best": batch, images, seconds of each round, ...}}."""

    def timed(prompts: list[str], sizes: dict[str, int], desc: str) -> dict[str, dict[str, Any]]:
        seconds = time_rows(rows, prompts, sizes, settings.rounds, desc)
        return {
            name: {"batch": sizes[name], "images": len(prompts), "seconds": seconds[name]}
            for name in rows
        }

    ones = timed(prompts, dict.fromkeys(rows, 1), "one at a time")
    best: dict[str, dict[str, Any]] = {}
    for name in (bar := tqdm(rows, desc="looking for the best batch", unit="row")):
        bar.set_postfix_str(name)
        if batch_size is None:
            found = best_batch(rows[name], prompts, settings.max_batch)
            best[name] = {"batch": found.best, "tried": found.tried, "end": found.end}
        else:
            best[name] = {"batch": batch_size, "end": "as asked for"}
    sizes = {name: found["batch"] for name, found in best.items()}
    # All rows draw the same prompts in whole batches: sizes are powers of two, or all the same.
    most = max(sizes.values())
    several = [prompts[i % len(prompts)] for i in range(-(-len(prompts) // most) * most)]
    several_timed = timed(several, sizes, "the best batch")
    return {name: {"one": ones[name], "best": best[name] | several_timed[name]} for name in rows}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device that the weights are on, and how busy the machine is."""
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else _processor() or platform.machine()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else None
