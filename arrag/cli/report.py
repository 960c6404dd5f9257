"""``arrag report``: what people read, from scores and samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli import figures, grid, page, timing, verdicts
from arrag.cli.common import command, config_option, count, group
from arrag.pipeline.reports import TABLES

TITLES = {
    "table1": "Table 1 (GenEval)",
    "table2": "Table 2 (DPG-Bench)",
    "table3": "Table 3 (CMMD, FID, FWD)",
}


def add(commands: Any) -> None:
    """Add the tables, the figures, the ablations and the contact sheet."""
    reports = group(
        commands, "report", "tables and pictures from scores and samples", "arrag report table1"
    )
    for name, kind in TABLES.items():
        table = command(
            reports,
            name,
            f"{TITLES[name]} as Markdown, CSV and LaTeX from the configuration's scores",
            f"arrag report {name} --config config/micro.yaml --out reports/{name}.md",
            run_table,
        )
        table.set_defaults(table=name)
        table.add_argument(
            "--benchmark", help=f"a {kind} benchmark of the configuration (its first)"
        )
        out = Path(f"reports/{name}.md")
        table.add_argument("--out", type=Path, default=out, help="%(default)s")
        config_option(table)
    gallery = command(
        reports,
        "gallery",
        "a contact sheet: the methods' samples side by side, prompts of every task",
        "arrag report gallery --config config/micro.yaml --out reports/samples.png",
        run_gallery,
    )
    gallery.add_argument(
        "--out", type=Path, default=Path("reports/samples.png"), help="%(default)s"
    )
    gallery.add_argument("--per-task", type=count, default=2, help="prompts a task (%(default)s)")
    gallery.add_argument("--images", type=count, default=4, help="images a prompt (%(default)s)")
    config_option(gallery)
    verdicts.add_verdicts(reports)
    timing.add_table4(reports)
    grid.add_ablation(reports)
    figures.add_figures(reports)
    page.add_page(reports)


def run_table(args: argparse.Namespace) -> dict[str, Any]:
    """Write Table 1, 2 or 3."""
    from arrag.config.root import load_config
    from arrag.report.tables import write_table

    config = load_config(args.config)
    values = write_table(config, args.config, args.table, args.out, args.benchmark)
    return {"table": args.out, "values": values}


def run_gallery(args: argparse.Namespace) -> dict[str, Any]:
    """Write a contact sheet of all methods and the real images."""
    from arrag.config.root import load_config
    from arrag.report.gallery import write_gallery

    shown = write_gallery(load_config(args.config), args.out, args.per_task, args.images)
    return {"sheet": args.out, "prompts": shown}
