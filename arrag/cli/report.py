"""``arrag report``: what people read, from scores and samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli import figures, grid, page, timing, verdicts
from arrag.cli.common import command, config_option, count, group
from arrag.pipeline.records import write_record
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
        table.set_defaults(kind=kind)
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
    """The configuration's methods that the table has, then the ceilings."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.report.made_of import record_table
    from arrag.report.rows import read_scores, table_rows
    from arrag.report.tables import write_table
    from arrag.utils.errors import ArragError

    config = load_config(args.config)
    benchmark = args.benchmark or config.benchmark_of_kind(args.kind)
    if benchmark is None or config.benchmark(benchmark).kind != args.kind:
        found = ", ".join(f"{name} ({b.kind})" for name, b in config.benchmarks.items())
        raise ArragError(
            f"{args.config}: benchmarks: the table needs one of kind {args.kind}, found {found}; "
            "add one, or name it with --benchmark"
        )
    rows = table_rows(config, benchmark)
    layout = Layout(config)
    scores = read_scores(layout, rows, benchmark)
    write_table(args.kind, rows, scores, config.scale, args.out.with_suffix(""), config.not_run)
    about = {"kind": args.kind, "benchmark": benchmark, "config": str(args.config)}
    labels = {row.key: row.label for row in rows}
    record_table(args.out.with_suffix(".md"), (".csv", ".tex"), layout, labels, about)
    values = {
        key: {metric: score["value"] for metric, score in found.items()}
        for key, found in scores.items()
    }
    return {"table": args.out, "values": values}


def run_gallery(args: argparse.Namespace) -> dict[str, Any]:
    """Every method and the real images, for the first prompts of each task."""
    from arrag.config.root import load_config
    from arrag.data.prompts import first_of_each_task, load_prompt_set
    from arrag.data.sample_dir import load_image
    from arrag.pipeline.layout import Layout
    from arrag.report.gallery import contact_sheet

    config = load_config(args.config)
    drawn = config.benchmark(name := config.main_benchmark)
    layout = Layout(config)
    labels = config.row_labels(name)
    labels.pop("reconstructions", None)  # hardly different from the real ones
    columns = {label: layout.samples(key, name) for key, label in labels.items()}
    shown = first_of_each_task(load_prompt_set(drawn), args.per_task)
    images = min(args.images, drawn.images_per_prompt)
    first = load_image(next(iter(columns.values())) / "00000/samples/0000.png")
    scale = max(1, 96 // first.shape[1])  # small worlds are enlarged to about 96 pixels
    contact_sheet(columns, shown, args.out, images, scale)
    write_record(args.out, made_of={f"samples of {k}": p for k, p in columns.items()})
    return {"sheet": args.out, "prompts": shown}
