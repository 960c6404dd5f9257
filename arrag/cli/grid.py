"""``arrag report ablation``: a grid's report from its points' scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, config_option
from arrag.pipeline.reports import get_grid, grid_baseline, grid_points


def add_ablation(reports: Any) -> None:
    """Add ``report ablation``."""
    parser = command(
        reports,
        "ablation",
        "a grid of the configuration as Markdown, CSV, PNG and PDF, from its points' scores",
        "arrag report ablation daid --config config/micro.yaml",
        run_ablation,
    )
    parser.add_argument("grid", help="its name in `grids`")
    parser.add_argument("--out", type=Path, help="(reports/ablation_GRID.md)")
    config_option(parser)


def run_ablation(args: argparse.Namespace) -> dict[str, Any]:
    """Read the scores where the workflow has them, and write the report."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.report.grid import GridPoint, GridReport, write_grid
    from arrag.report.made_of import record_table
    from arrag.utils.errors import ArragError
    from arrag.utils.files import read_json

    config = load_config(args.config)
    grid, layout = get_grid(config, args.grid), Layout(config)

    def scores(method: str) -> dict[str, Any]:
        found = layout.scores(method, grid.benchmark)
        for path in found.values():
            if not path.is_file():
                raise ArragError(
                    f"grids.{args.grid}: no score {path}; make it with `snakemake --cores all "
                    f"reports/ablation_{args.grid}.md --configfile {args.config}`"
                )
        return {metric: read_json(path) for metric, path in found.items()}

    baseline = grid_baseline(config, args.grid)
    report = GridReport(
        name=args.grid,
        title=grid.title or f"{config.method(grid.method).label}, {' and '.join(grid.axes)}",
        kind=config.benchmark(grid.benchmark).kind,
        scale=config.scale,
        axes=grid.values or {},
        points=[
            GridPoint(label, settings, scores(name))
            for name, label, settings in grid_points(config, args.grid)
        ],
        baseline=(config.method(baseline).label, scores(baseline)) if baseline else None,
        metric=grid.metric,
    )
    out = args.out or Path(f"reports/ablation_{args.grid}.md")
    write_grid(report, out.with_suffix(""))
    labels = {name: label for name, label, _ in grid_points(config, args.grid)}
    if baseline:
        labels = {baseline: config.method(baseline).label} | labels
    about = {"kind": report.kind, "benchmark": grid.benchmark, "config": str(args.config)}
    about["baseline"] = baseline
    record_table(out.with_suffix(".md"), (".csv", ".png", ".pdf"), layout, labels, about)
    return {"report": out, "points": len(report.points), "drawn": report.drawn}
