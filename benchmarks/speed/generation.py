"""Seconds per generated image, beside transformers' own `generate` in the same run.

    python benchmarks/speed/generation.py --json [--codes DIR --index DIR]

Model load and a warm-up are outside the clock. With a store and an index (the default: where the
workflow put them) DAiD and FAiD (K = 10, two modules, random weights: time does not depend on
them) are timed too. A minute or two on two cores at micro scale.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from arrag.augment.faid import FAiD, FAiDAugment, FaidSettings
from arrag.backbones.janus import TEMPLATE
from arrag.config import load_config
from arrag.decode import decode_raster, uniforms
from arrag.generate import Sampler
from arrag.layout import Layout
from arrag.methods import Sources
from arrag.metrics.samples import load_prompts


def ours(sampler: Sampler, prompts: list[str], augment) -> None:
    """One batch through our loop."""
    settings = sampler.settings
    count = sampler.backbone.grid[0] * sampler.backbone.grid[1]
    decode_raster(
        sampler.backbone,
        prompts,
        np.stack([uniforms(0, prompt, 0, count) for prompt in prompts]),
        guidance_scale=settings.guidance_scale,
        temperature=settings.temperature,
        augment=augment,
    )


def with_adapter(sampler: Sampler) -> Callable[[list[str]], None]:
    """One batch through our loop with a FAiD adapter attached for its length."""
    backbone = sampler.backbone
    settings = FaidSettings(context=backbone.context)
    adapter = FAiD(backbone.hidden_size, len(backbone.sites), settings).to(backbone.model.dtype)
    augment = FAiDAugment(adapter, sampler.augment.index)

    def run(prompts: list[str]) -> None:
        with adapter.attached(backbone):
            ours(sampler, prompts, augment)

    return run


def upstream(sampler: Sampler, prompts: list[str]) -> None:
    """One batch through transformers' loop (sampling, same guidance, same arithmetic)."""
    backbone = sampler.backbone
    text = backbone.tokenizer(
        [TEMPLATE.format(prompt=prompt) for prompt in prompts],
        return_tensors="pt", padding=True, return_token_type_ids=False,
    )  # fmt: skip
    guidance = sampler.settings.guidance_scale
    backbone.model.generate(
        **text, generation_mode="image", guidance_scale=guidance, do_sample=True, top_k=0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="config/micro.yaml")
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    config = load_config(args.config)
    layout = Layout(config)
    codes, index = args.codes or layout.codes("daid"), args.index or layout.index("daid")
    retrieves = (index / "meta.json").is_file()
    sampler = Sampler(config, "daid" if retrieves else "vanilla", Sources(codes, index))
    runs = {
        "transformers generate": lambda prompts: upstream(sampler, prompts),
        "vanilla": lambda prompts: ours(sampler, prompts, None),
    }
    if retrieves:
        runs["daid"] = lambda prompts: ours(sampler, prompts, sampler.augment)
        runs["faid"] = with_adapter(sampler)
    texts = [prompt["prompt"] for prompt in load_prompts(config.benchmark().prompts)]
    result = {"threads": torch.get_num_threads(), "dtype": sampler.settings.dtype, "rows": []}
    for batch in args.batches:
        prompts = texts[-batch:]
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(args.repeats + 1):  # in turn, so that a drift of the machine is shared
            for name, run in runs.items():
                begun = time.perf_counter()
                run(prompts)
                if repeat:
                    seconds[name].append((time.perf_counter() - begun) / batch)
        base = statistics.median(seconds["transformers generate"])
        for name, values in seconds.items():
            median = statistics.median(values)
            row = {"batch": batch, "method": name, "seconds_per_image": round(median, 4)}
            row["times_faster_than_transformers"] = round(base / median, 2)
            row["times_vanilla"] = round(median / statistics.median(seconds["vanilla"]), 2)
            result["rows"].append(row)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['threads']} threads, {result['dtype']}")
    for row in result["rows"]:
        print("  ".join(f"{value}" for value in row.values()))


if __name__ == "__main__":
    main()
