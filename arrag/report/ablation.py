"""Ablation reports: what was measured at each point of a grid, and its difference to a baseline.

The blocks and the picture are made from the tidy table alone, so that the web page and Figure 7 can
make them from the report's CSV file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from arrag.config.grids import value_text
from arrag.config.root import Config
from arrag.metrics.bootstrap import Estimate
from arrag.pipeline.layout import Layout
from arrag.pipeline.reports import get_grid, grid_baseline, grid_points
from arrag.report.figures.grids import draw_grid
from arrag.report.figures.style import axis_label
from arrag.report.measures import Measure, Scores
from arrag.report.model import (
    BASELINE,
    INDISTINGUISHABLE,
    Block,
    Cell,
    GridPoint,
    GridReport,
    Page,
    difference_status,
)
from arrag.report.provenance import footer, provenance_block, write_table_record
from arrag.report.render import interval_cell, interval_cells, write_report
from arrag.report.table_blocks import LOWER, NO_CORRECTION
from arrag.utils.errors import ConfigError, MissingError
from arrag.utils.files import read_json

HEAD = {
    "micro": "Micro scale: these numbers come from a synthetic dataset with small models and a "
    "small judge, all of them arrag's own. They cannot be compared with the paper's ablations, "
    "which are curves without printed numbers.",
    "paper": "Paper scale. The paper shows its ablations as curves without printed numbers.",
}
FIXED = ("scale", "grid", "point", "column")
NUMBERS = ("value", "low", "high", "difference", "difference_low", "difference_high", "reading")


def write_ablation(
    config: Config, config_path: Path, name: str, out: Path | None = None
) -> GridReport:
    """Write the report of the grid ``name`` as Markdown, CSV, PNG and PDF, with its record.

    Args:
        config: The configuration, whose scores are read where the workflow has them.
        config_path: Its file, for the record.
        name: The grid's name in the configuration.
        out: The Markdown file; None for ``reports/ablation_NAME.md``.

    Raises:
        ConfigError: The configuration has no such grid.
        MissingError: A score is missing.
        MismatchError: Scores are of different prompts or judges.
    """
    grid, layout, baseline = get_grid(config, name), Layout(config), grid_baseline(config, name)
    out = out or Path(f"reports/ablation_{name}.md")

    def scores(method: str) -> Scores:
        found = layout.scores(method, grid.benchmark)
        for path in found.values():
            if not path.is_file():
                target = f"reports/ablation_{name}.md --configfile {config_path}"
                hint = f"make it with `snakemake --cores all {target}`"
                raise MissingError("no such score", path=path, field=f"grids.{name}", hint=hint)
        return {metric: read_json(path) for metric, path in found.items()}

    points = grid_points(config, name)
    report = GridReport(
        name=name,
        title=grid.title or f"{config.method(grid.method).label}, {' and '.join(grid.axes)}",
        kind=config.benchmark(grid.benchmark).kind,
        scale=config.scale,
        axes=grid.values or {},
        points=[GridPoint(label, settings, scores(method)) for method, label, settings in points],
        baseline=(config.method(baseline).label, scores(baseline)) if baseline else None,
        metric=grid.metric,
    )
    write_grid(report, out.with_suffix(""))
    labels = {baseline: report.baseline[0]} if report.baseline else {}
    labels |= {method: label for method, label, _ in points}
    about = {"kind": report.kind, "benchmark": grid.benchmark, "config": str(config_path)}
    about["baseline"] = baseline
    write_table_record(out.with_suffix(".md"), (".csv", ".png", ".pdf"), layout, labels, about)
    return report


def write_grid(report: GridReport, stem: str | Path) -> None:
    """Write ``stem``.md, .csv, .png and .pdf.

    Raises:
        ConfigError: A point has no score, or the metric to draw is unknown.
        MismatchError: Scores are of different prompts or judges.
    """
    if not report.points or not all(point.scores for point in report.points):
        where = f"grids.{report.name}"
        raise ConfigError("a point has no score", field=where, hint="score all points first")
    against = report.baseline[1] if report.baseline else report.points[0].scores
    for point in report.points:
        report.measure.check(against, point.scores)
    drawn, stem = report.drawn, Path(stem)
    frame = grid_frame(report)
    blocks = grid_blocks(frame, report.axes, report.columns, report.measure, drawn)
    labelled = {report.baseline[0]: report.baseline[1]} if report.baseline else {}
    labelled |= {point.label: point.scores for point in report.points}
    lines = [*footer(report.kind, labelled), f"Drawn in {stem.name}.png: {report.columns[drawn]}."]
    blocks.append(provenance_block(labelled))
    page = Page(f"Ablation: {report.title}", HEAD[report.scale], blocks, lines)
    draw_grid(frame, report.axes, drawn, report.columns[drawn], report.measure, stem)
    write_report(stem, frame, page, with_latex=False)


def grid_frame(report: GridReport) -> pd.DataFrame:
    """The tidy table of a grid: one value and its difference to the baseline a row.

    Its columns are ``FIXED``, one for each path that a point sets, and ``NUMBERS``.
    """
    paths = list(dict.fromkeys(path for point in report.points for path in point.settings))
    points = list(report.points)
    if report.baseline is not None:
        points.insert(0, GridPoint(BASELINE + report.baseline[0], {}, report.baseline[1]))
    lines = [line for point in points for line in _numbers(report, point, paths)]
    return pd.DataFrame(lines, columns=[*FIXED, *paths, *NUMBERS])


def _numbers(report: GridReport, point: GridPoint, paths: Sequence[str]) -> Iterator[list[Any]]:
    settings = [value_text(point.settings[p]) if p in point.settings else "" for p in paths]
    compared = report.baseline is not None and not point.label.startswith(BASELINE)
    changes = report.measure.differences(point.scores, report.baseline[1]) if compared else {}
    for column in report.columns:
        value, change = report.measure.estimate(point.scores, column), changes.get(column)
        numbers = [*(value or [None] * 3), *(change or [None] * 3)]
        status = difference_status(change) if change else ""
        yield [report.scale, report.name, point.label, column, *settings, *numbers, status]


def grid_blocks(
    frame: pd.DataFrame,
    axes: Mapping[str, Sequence[Any]],
    headings: Mapping[str, str],
    measure: Measure,
    drawn: str,
) -> list[Block]:
    """The tables of an ablation report.

    Args:
        frame: The tidy table.
        axes: Values of each path that the points differ in; of two paths there is a map.
        headings: Heading of each column of ``frame``.
        measure: How the benchmark's scores are read.
        drawn: The column of the map.
    """
    is_baseline = frame.point.str.startswith(BASELINE)
    base = frame[is_baseline]
    label = base.point.iloc[0].removeprefix(BASELINE) if len(base) else None
    blocks = [_map_block(frame, base, axes, headings, measure, drawn)] if len(axes) == 2 else []
    lines, changes = [], []
    renamed = frame[["point", "column"]].assign(
        value=frame.difference, low=frame.difference_low, high=frame.difference_high
    )
    changed = renamed[renamed.value.notna()]
    for point, found in frame.groupby("point", sort=False):
        first = Cell(label, "baseline") if point == f"{BASELINE}{label}" else Cell(point)
        lines.append([first, *interval_cells(found, headings, measure.digits)])
        if label is not None and not point.startswith(BASELINE):
            found = changed[changed.point == point]
            style = dict(digits=measure.digits, sign=True, strong=None)
            changes.append([first, *interval_cells(found, headings, **style)])
    header = ["Point", *headings.values()]
    notes = [LOWER] if measure.lower_is_better else []
    blocks.append(Block("All points, with 95 % intervals", header, lines, notes))
    if changes:
        note = (
            f"Bold: the 95 % interval excludes 0. Every other difference is {INDISTINGUISHABLE}. "
            f"{NO_CORRECTION} Of {len(changes)} points without any effect, one in twenty would be "
            "bold by chance."
        )
        title = f"Difference to {label}, paired by prompt"
        blocks.append(Block(title, header, changes, [note]))
    return blocks


def _map_block(
    frame: pd.DataFrame,
    base: pd.DataFrame,
    axes: Mapping[str, Sequence[Any]],
    headings: Mapping[str, str],
    measure: Measure,
    drawn: str,
) -> Block:
    """Two paths: a row for each value of the first, a column for each value of the second."""
    (first, rows), (second, columns) = axes.items()
    at = {}
    for n in frame[frame.column == drawn].to_dict("records"):
        estimate = Estimate(n["value"], n["low"], n["high"])
        strong = n["reading"] not in ("", INDISTINGUISHABLE)
        at[n[first], n[second]] = interval_cell(estimate, measure.digits, strong=strong)
    rows, columns = [*map(value_text, rows)], [*map(value_text, columns)]
    lines = [[Cell(row), *(at[row, column] for column in columns)] for row in rows]
    notes = []
    if len(base):
        label = base.point.iloc[0].removeprefix(BASELINE)
        (cell,) = interval_cells(base[base.column == drawn], [drawn], measure.digits)
        notes = [
            f"Baseline, {label}: {cell.text} {cell.note}.",
            "Bold: the 95 % interval of the difference to the baseline excludes 0.",
        ]
    header = [f"{axis_label(first)} \\ {axis_label(second)}", *columns]
    return Block(f"{headings[drawn]} with 95 % intervals", header, lines, notes)
