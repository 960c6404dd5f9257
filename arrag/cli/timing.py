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
    """Load every row, time them, write the file."""
    from arrag.config.root import load_config
    from arrag.data.prompts import load_prompt_set
    from arrag.methods.timing import time_methods
    from arrag.utils.files import write_json

    config = load_config(args.config)
    settings = _settings(config, args)
    block = config.benchmark(settings.benchmark or config.main_benchmark)
    texts = [prompt["prompt"] for prompt in load_prompt_set(block)]
    methods = settings.methods or timed_methods(config)
    generators = {name: opened(config, name, args.config) for name in methods}
    timing = time_methods(config, generators, texts, settings, args.batch_size)
    write_json(args.out, timing)
    write_record(args.out)
    each = {
        key: {
            name: sum(run["seconds"]) / len(run["seconds"]) / run["images"]
            for name, run in row["runs"].items()
        }
        for key, row in timing["rows"].items()
    }
    return {"timing": args.out, "seconds_per_image": each}


def _settings(config: Config, args: argparse.Namespace) -> Timing:
    """The configuration's block with what the command line says instead."""
    given = {"methods": args.methods, "images": args.images}
    given |= {"rounds": args.rounds, "max_batch": args.max_batch}
    settings = config.timing.model_copy(update={k: v for k, v in given.items() if v is not None})
    for name in settings.methods or ():
        config.method(name)
    return settings


def opened(config: Config, method: str, path: Path) -> Any:
    """A method ready to generate, with what it needs where the workflow has it.

    path: of the configuration, for messages. ArragError if something is not there.
    """
    from arrag.cli.generate import paths_of
    from arrag.methods.registry import open_method

    given = dict.fromkeys(("codes", "index", "image_index", "adapter"))
    args = argparse.Namespace(method=method, config=path, **given)
    return open_method(config, method, paths_of(config, args))
