"""``arrag report ablation``: a grid's report from its points' scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.cli.common import command, config_option

if TYPE_CHECKING:
    from arrag.config.root import Config


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


def grid_of(config: Config, name: str) -> Any:
    """The grid called ``name``; ArragError with a suggestion if there is none."""
    from arrag.config.errors import unknown_choice
    from arrag.utils.errors import ArragError

    if not config.grids:
        raise ArragError(f"grids: found none, wanted '{name}'; add it as in config/micro.yaml")
    if name not in config.grids:
        raise unknown_choice("grid", name, list(config.grids))
    return config.grids[name]


def points_of(config: Config, name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(method's name, label, settings) of a grid's points, in order."""
    from arrag.config.grids import point_name

    grid = grid_of(config, name)
    return [(point_name(grid.method, some), label, some) for label, some in grid.settings()]


def baseline_of(config: Config, name: str) -> str | None:
    """The method that a grid's points are compared with."""
    grid = grid_of(config, name)
    return grid.baseline or config.method(grid.method).baseline


def scored_by(config: Config, name: str) -> list[str]:
    """The methods whose scores a grid's report reads: its baseline, and its points."""
    baseline = baseline_of(config, name)
    return [*([baseline] if baseline else []), *(point for point, _, _ in points_of(config, name))]


def points_on(config: Config, benchmark: str) -> list[str]:
    """The methods that grids draw on a benchmark: their points and baselines."""
    return [
        method
        for name, grid in config.grids.items()
        if (grid.benchmark or config.main_benchmark) == benchmark
        for method in scored_by(config, name)
    ]


def run_ablation(args: argparse.Namespace) -> dict[str, Any]:
    """Read the scores where the workflow has them, and write the report."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.report.grid import GridPoint, GridReport, write_grid
    from arrag.report.made_of import record_table
    from arrag.utils.errors import ArragError
    from arrag.utils.files import read_json

    config = load_config(args.config)
    grid, layout = grid_of(config, args.grid), Layout(config)

    def scores(method: str) -> dict[str, Any]:
        found = layout.scores(method, grid.benchmark)
        for path in found.values():
            if not path.is_file():
                raise ArragError(
                    f"grids.{args.grid}: no score {path}; make it with `snakemake --cores all "
                    f"reports/ablation_{args.grid}.md --configfile {args.config}`"
                )
        return {metric: read_json(path) for metric, path in found.items()}

    baseline = baseline_of(config, args.grid)
    report = GridReport(
        name=args.grid,
        title=grid.title or f"{config.method(grid.method).label}, {' and '.join(grid.axes)}",
        kind=config.benchmark(grid.benchmark).kind,
        scale=config.scale,
        axes=grid.values or {},
        points=[
            GridPoint(label, settings, scores(name))
            for name, label, settings in points_of(config, args.grid)
        ],
        baseline=(config.method(baseline).label, scores(baseline)) if baseline else None,
        metric=grid.metric,
    )
    out = args.out or Path(f"reports/ablation_{args.grid}.md")
    write_grid(report, out.with_suffix(""))
    labels = {name: label for name, label, _ in points_of(config, args.grid)}
    if baseline:
        labels = {baseline: config.method(baseline).label} | labels
    about = {"kind": report.kind, "benchmark": grid.benchmark, "config": str(args.config)}
    about["baseline"] = baseline
    record_table(out.with_suffix(".md"), (".csv", ".png", ".pdf"), layout, labels, about)
    return {"report": out, "points": len(report.points), "drawn": report.drawn}
