"""Seconds per generated image, beside transformers' own `generate` in the same run.

    python benchmarks/speed/generation.py --json [--codes DIR --index DIR]
    python benchmarks/speed/generation.py --patches 1000000 --work results/speed

Model load and a warm-up are outside the clock; there is CPU time beside the wall's, for machines
with other work. With a store and an index (the default: where the workflow put them) DAiD and FAiD
(K = 10, two modules, random weights: time does not depend on them) are timed too. ``--patches``
makes a larger database of the micro world first, once, in ``--work`` (a million: three minutes).
Two minutes of one core at micro scale.
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

from arrag.backbones.janus import TEMPLATE
from arrag.config.root import Config, load_config
from arrag.data.encode import encode_source
from arrag.data.prompts import load_geneval_prompts
from arrag.data.token_store import TokenStore
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.methods.faid.adapter import FAiD, FAiDAugmentation, FaidSettings
from arrag.methods.generator import TokenGenerator
from arrag.methods.registry import ArtifactPaths, open_method
from arrag.pipeline.layout import MICRO_ASSETS, Layout
from arrag.retrieval.index import build_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer

ALONE = "transformers generate"
HOP = 1
BARS = {  # (batch, method): what, the least times faster than ALONE, or the most times vanilla
    (1, "vanilla"): ("times_faster", 2.0),
    (16, "vanilla"): ("times_faster", 6.0),
    (8, "daid"): ("times_vanilla", 1.1),
    (8, "faid"): ("times_vanilla", 1.4),
}


def ours(sampler: TokenGenerator, prompts: list[str], augment, seed: int = 0) -> None:
    """One batch through our loop."""
    settings = sampler.settings
    count = sampler.backbone.grid[0] * sampler.backbone.grid[1]
    decode_raster(
        sampler.backbone,
        prompts,
        np.stack([seeded_uniforms(seed, prompt, 0, count) for prompt in prompts]),
        guidance_scale=settings.guidance_scale,
        temperature=settings.temperature,
        augmentation=augment,
    )


def with_adapter(sampler: TokenGenerator) -> Callable[[list[str], int], None]:
    """One batch through our loop with a FAiD adapter attached for its length."""
    backbone = sampler.backbone
    settings = FaidSettings(context=backbone.context)
    adapter = FAiD(backbone.hidden_size, len(backbone.decoder_layers), settings).to(
        backbone.model.dtype
    )
    augment = FAiDAugmentation(adapter, sampler.augmentation.index)

    def run(prompts: list[str], seed: int) -> None:
        with adapter.attached(backbone):
            ours(sampler, prompts, augment, seed)

    return run


def upstream(sampler: TokenGenerator, prompts: list[str]) -> None:
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


def database(config: Config, patches: int, work: Path) -> tuple[Path, Path]:
    """Store and index of at least so many patches of the micro world, kept in ``work``."""
    checkpoint = config.generator_of("vanilla")[1].checkpoint
    neighborhood = Neighborhood("causal", HOP)
    inside = int(neighborhood.valid_positions(*load_tokenizer(checkpoint).grid).sum())
    images = -(-patches // inside)
    codes, index = work / f"codes-{images}", work / f"index-{images}"
    encode_source("micro:database", checkpoint, codes, limit=images, assets=MICRO_ASSETS)
    if not (index / "meta.json").is_file():
        nprobe = config.index.nprobe
        store = TokenStore.open(codes)
        build_index(store, index, neighborhood=neighborhood, mode="ivf", nprobe=nprobe)
    return codes, index


def timed(runs: dict, texts: list[str], batch: int, repeats: int) -> list[dict]:
    """A row a method: medians of seconds an image, of the clock and of the processors."""
    prompts = texts[-batch:]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):  # in turn, so that a drift of the machine is shared
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(prompts, repeat)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if repeat:
                seconds[name].append((wall / batch, cpu / batch))
    rows = []
    for name, values in seconds.items():
        wall, cpu = (statistics.median(part) for part in zip(*values, strict=True))
        row = {"batch": batch, "method": name}
        rows.append(row | {"seconds_per_image": wall, "cpu_seconds_per_image": cpu})
    return rows


def compared(rows: list[dict]) -> list[dict]:
    """The rows with their ratios to ``generate`` at batch 1, to vanilla at their own, and bars."""
    alone = next(row for row in rows if row["method"] == ALONE)  # of the smallest batch
    for row in rows:
        batch = row["batch"]
        same = next(r for r in rows if r["batch"] == batch and r["method"] == "vanilla")
        for clock in ("", "cpu_"):
            field = f"{clock}seconds_per_image"
            row[f"{clock}times_faster"] = round(alone[field] / row[field], 2)
            row[f"{clock}times_vanilla"] = round(row[field] / same[field], 2)
        if bar := BARS.get((batch, row["method"])):
            row["bar"] = f"{bar[0]} {bar[1]}"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="config/micro.yaml")
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--patches", type=int, help="make a database of at least so many")
    parser.add_argument("--work", type=Path, default=Path("results/speed"), help="where")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    config = load_config(args.config)
    layout = Layout(config)
    codes, index = args.codes or layout.codes("daid"), args.index or layout.index("daid")
    if args.patches:
        codes, index = database(config, args.patches, args.work)
    retrieves = (index / "meta.json").is_file()
    paths = ArtifactPaths(codes, index)
    sampler = open_method(config, "daid" if retrieves else "vanilla", paths)
    runs = {
        ALONE: lambda prompts, seed: upstream(sampler, prompts),
        "vanilla": lambda prompts, seed: ours(sampler, prompts, None, seed),
    }
    result = {"threads": torch.get_num_threads(), "dtype": sampler.settings.dtype}
    if retrieves:
        runs["daid"] = lambda prompts, seed: ours(sampler, prompts, sampler.augmentation, seed)
        runs["faid"] = with_adapter(sampler)
        result["patches"] = sampler.augmentation.index.meta.entries
    texts = [prompt["prompt"] for prompt in load_geneval_prompts(config.benchmark().prompts)]
    rows = [row for n in sorted(args.batches) for row in timed(runs, texts, n, args.repeats)]
    result["rows"] = compared(rows)
    if args.json:
        print(json.dumps(result))
        return
    print("  ".join(f"{name} {value}" for name, value in result.items() if name != "rows"))
    print("  ".join(rows[0]))
    for row in rows:
        values = (f"{v:.4f}" if isinstance(v, float) else f"{v}" for v in row.values())
        print("  ".join(values))


if __name__ == "__main__":
    main()
