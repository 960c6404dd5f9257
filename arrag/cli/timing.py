"""``arrag time``: seconds an image of every row, in one run (Table 4)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.cli.common import command, config_option, count
from arrag.pipeline.records import write_record
from arrag.pipeline.reports import timed_methods

if TYPE_CHECKING:
    from arrag.config.grids import Timing
    from arrag.config.root import Config
    from arrag.methods.generator import ImageGenerator
    from arrag.methods.timing import Draw

UPSTREAM = "upstream"
UPSTREAM_LABEL = "transformers generate"


def add(commands: Any) -> None:
    """Add ``time``."""
    parser = command(
        commands,
        "time",
        "time every row of Table 4 in one run, in turn; nothing else should run meanwhile",
        "arrag time --config config/micro.yaml --out timing.json",
        run_time,
    )
    config_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the measurements")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="rows (default: timing's)")
    parser.add_argument("--images", type=count, help="images a row draws in a round")
    parser.add_argument("--rounds", type=count, help="times that each row is timed")
    parser.add_argument("--max-batch", type=count, help="largest batch that is tried")
    parser.add_argument(
        "--batch-size", type=count, help="time this batch instead of looking for the best"
    )


def add_table4(reports: Any) -> None:
    """Add ``report table4``."""
    parser = command(
        reports,
        "table4",
        "Table 4 (cost) as Markdown, CSV and LaTeX from a timing run",
        "arrag report table4 timing.json --out reports/table4.md",
        run_table4,
    )
    parser.add_argument(
        "timing", nargs="?", type=Path, help="what `arrag time` wrote (where the workflow has it)"
    )
    config_option(parser)
    parser.add_argument("--out", type=Path, default=Path("reports/table4.md"), help="%(default)s")


def run_table4(args: argparse.Namespace) -> dict[str, Any]:
    """Write the table, with the labels that the rows have now."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.report.table4 import write_table4

    config = load_config(args.config)
    path = args.timing or Layout(config).timing(timed_methods(config))
    rows = write_table4(config, args.config, path, args.out)
    return {"table": args.out, "rows": list(rows)}


def run_time(args: argparse.Namespace) -> dict[str, Any]:
    """Load every row, look for their best batches, time them, write the file."""
    from arrag.config.root import load_config
    from arrag.data.prompts import load_prompt_set
    from arrag.methods.runner import package_versions
    from arrag.utils.files import write_json
    from arrag.utils.hashing import sha256_json

    config = load_config(args.config)
    settings = _settings(config, args)
    benchmark = settings.benchmark or config.main_benchmark
    texts = [prompt["prompt"] for prompt in load_prompt_set(config.benchmark(benchmark))]
    prompts = _spread(texts, settings.images)
    methods = settings.methods or timed_methods(config)
    drawers = {name: opened(config, name, args.config) for name in methods}
    rows = _rows(config, drawers)
    draws = {key: row.pop("draw") for key, row in rows.items()}
    machine = _machine(next(iter(drawers.values())))
    runs = _measure(draws, prompts, settings, args.batch_size)
    for key, row in rows.items():
        row["runs"] = runs[key]
    timing = {
        "kind": "timing",
        "scale": config.scale,
        "weights": settings.weights,
        "benchmark": benchmark,
        "rounds": settings.rounds,
        "prompts_sha256": sha256_json(prompts),
        "machine": machine,
        "versions": package_versions(),
        "order": list(rows),
        "rows": rows,
    }
    write_json(args.out, timing)
    write_record(args.out)
    each = {
        key: {name: _mean(run["seconds"]) / run["images"] for name, run in found.items()}
        for key, found in runs.items()
    }
    return {"timing": args.out, "seconds_per_image": each}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _settings(config: Config, args: argparse.Namespace) -> Timing:
    """The configuration's block with what the command line says instead."""
    given = {"methods": args.methods, "images": args.images}
    given |= {"rounds": args.rounds, "max_batch": args.max_batch}
    settings = config.timing.model_copy(update={k: v for k, v in given.items() if v is not None})
    for name in settings.methods or ():
        config.method(name)
    return settings


def _spread(texts: list[str], images: int) -> list[str]:
    """``images`` prompts, evenly over the list; repeated where it is shorter."""
    return [texts[i * len(texts) // images % len(texts)] for i in range(images)]


def opened(config: Config, method: str, path: Path) -> Any:
    """A method ready to draw, with what it needs where the workflow has it.

    path: of the configuration, for messages. ArragError if something is not there.
    """
    from arrag.cli.generate import sources_of
    from arrag.methods.generator import open_method

    given = dict.fromkeys(("codes", "index", "image_index", "adapter"))
    args = argparse.Namespace(method=method, config=path, **given)
    return open_method(config, method, sources_of(config, args))


def _rows(config: Config, drawers: dict[str, ImageGenerator]) -> dict[str, dict[str, Any]]:
    """What the file says of each row, and how it draws; upstream's loop behind its bare row."""
    rows: dict[str, dict[str, Any]] = {}
    bare: dict[str, str] = {}
    for key in drawers:
        generator = config.generator_of(key)[0]
        if config.method(key).augment is None:
            bare.setdefault(generator, key)
    for key, drawer in drawers.items():
        method, (generator, settings) = config.method(key), config.generator_of(key)
        about = {
            "generator": generator,
            "generator_kind": settings.kind,
            "dtype": getattr(settings, "dtype", None),
            "bare": bare.get(generator),
        }
        found = {"parameters": drawer.parameters, "weights": drawer.weights, "index": drawer.index}
        label = {"label": method.label, "paper_key": method.paper_key}
        rows[key] = {"draw": _ours(drawer, config.seed), **about, **found, **label}
        if bare.get(generator) == key and settings.kind == "janus":
            label = {"label": UPSTREAM_LABEL, "paper_key": None}
            name = UPSTREAM if UPSTREAM not in rows else f"{UPSTREAM}-{generator}"
            rows[name] = {"draw": upstream(drawer), **about, **found, **label}
    return rows


def _ours(drawer: ImageGenerator, seed: int) -> Draw:
    return lambda prompts: drawer.generate(list(prompts), [0] * len(prompts), seed)


def upstream(drawer: Any) -> Draw:
    """transformers' loop over a Janus's weights: same guidance, same decoder, full softmax."""
    from arrag.backbones.janus import TEMPLATE

    backbone = drawer.backbone

    def draw(prompts: Any) -> Any:
        text = backbone.tokenizer(
            [TEMPLATE.format(prompt=prompt) for prompt in prompts],
            return_tensors="pt", padding=True, return_token_type_ids=False,
        ).to(backbone.device)  # fmt: skip
        guidance = drawer.settings.guidance_scale
        tokens = backbone.model.generate(
            **text, generation_mode="image", guidance_scale=guidance, do_sample=True, top_k=0
        )
        return drawer.tokenizer.decode(tokens.view(len(prompts), *backbone.grid))

    return draw


def _measure(
    draws: dict[str, Draw], prompts: list[str], settings: Timing, batch: int | None
) -> dict[str, dict[str, Any]]:
    """{row: {"one" or "best": batch, images, seconds a round, ...}}."""
    from tqdm import tqdm

    from arrag.methods.timing import best_batch

    ones = _in_turn(draws, prompts, dict.fromkeys(draws, 1), settings.rounds, "one at a time")
    best: dict[str, dict[str, Any]] = {}
    for key in (bar := tqdm(draws, desc="looking for the best batch", unit="row")):
        bar.set_postfix_str(key)
        if batch is None:
            found = best_batch(draws[key], prompts, settings.max_batch)
            best[key] = {"batch": found.best, "tried": found.tried, "end": found.end}
        else:
            best[key] = {"batch": batch, "end": "as asked for"}
    sizes = {key: found["batch"] for key, found in best.items()}
    # All rows draw the same prompts in whole batches: sizes are powers of two, or all the same.
    most = max(sizes.values())
    several = [prompts[i % len(prompts)] for i in range(-(-len(prompts) // most) * most)]
    found = _in_turn(draws, several, sizes, settings.rounds, "the best batch")
    return {key: {"one": ones[key], "best": best[key] | found[key]} for key in draws}


def _in_turn(
    draws: dict[str, Draw], prompts: list[str], batches: dict[str, int], rounds: int, what: str
) -> dict[str, dict[str, Any]]:
    """{row: its batch, the images of a round, and seconds a round}."""
    from tqdm import tqdm

    from arrag.methods.timing import time_rows

    with tqdm(total=len(draws) * (rounds + 1), desc=what, unit="row") as bar:
        seconds = time_rows(draws, prompts, batches, rounds, lambda name: bar.update())
    return {
        key: {"batch": batches[key], "images": len(prompts), "seconds": values}
        for key, values in seconds.items()
    }


def _machine(drawer: ImageGenerator) -> dict[str, Any]:
    """Where the weights are, which is where this runs, and how busy it was."""
    import os
    import platform

    import torch

    backbone = getattr(drawer, "backbone", None)
    device = getattr(backbone, "device", None) or torch.device(getattr(drawer, "device", "cpu"))
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
