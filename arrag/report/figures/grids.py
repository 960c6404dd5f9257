"""How a grid is drawn: a heat map, a line, or points; and Figure 7, the maps side by side."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from arrag.config.grids import value_text
from arrag.report.figures.style import COLORS, MAP, WIDTH, look, panel, save, save_rows
from arrag.utils.errors import ArragError

if TYPE_CHECKING:
    from arrag.metrics.bootstrap import Estimate
    from arrag.report.grid import GridReport


@dataclass(frozen=True)
class HeatMap:
    """values, apart: [rows, columns], of which apart says whether the baseline is told apart."""

    title: str
    row_label: str
    column_label: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: np.ndarray
    apart: np.ndarray
    digits: int
    lower_is_better: bool


def draw_grid(report: GridReport, column: str, out_stem: str | Path) -> None:
    """Draw one column of a grid; two paths give a map, one of numbers a line, else points."""
    from arrag.report.grid import axis_label

    found = [report.value(point, column) for point in report.points]
    base = report.measure.estimate(report.baseline[1], column) if report.baseline else None
    heading = report.columns[column]
    axes_values = list(report.axes.values())
    with look():
        if len(report.axes) == 2:
            figure = panel(WIDTH * 0.62, 0.55 + 0.42 * len(axes_values[0]) + 0.6)
            draw_map(figure.subplots(), map_of(report, column))
        elif len(axes_values) == 1 and _numeric(axes_values[0]):
            figure = panel(WIDTH * 0.55, 2.5)
            axes = figure.subplots()
            _line(axes, axes_values[0], found, base, report.baseline and report.baseline[0])
            axes.set(xlabel=axis_label(next(iter(report.axes))), ylabel=heading)
        else:
            labels = [point.label for point in report.points]
            figure = panel(WIDTH * 0.8, 0.7 + 0.24 * len(labels))
            axes = figure.subplots()
            _points(axes, labels, found, base, report.baseline and report.baseline[0])
            axes.set_xlabel(heading)
        save(figure, out_stem)


def map_of(report: GridReport, column: str) -> HeatMap:
    """The heat map of a grid of two paths."""
    from arrag.report.grid import axis_label

    (first, rows), (second, columns) = report.axes.items()
    shape = (len(rows), len(columns))
    values = [report.value(point, column) for point in report.points]
    changes = [report.difference(point, column) for point in report.points]
    apart = [change is not None and not change.holds(0) for change in changes]
    numbers = np.array([v.value if v else math.nan for v in values])
    title = report.columns[column]
    if report.baseline and (base := report.measure.estimate(report.baseline[1], column)):
        title += f"; {report.baseline[0]}: {base.value:.{report.measure.digits}f}"
    return HeatMap(
        title, axis_label(first), axis_label(second),
        [value_text(v) for v in rows], [value_text(v) for v in columns],
        numbers.reshape(shape), np.array(apart).reshape(shape),
        report.measure.digits, report.measure.lower_is_better,
    )  # fmt: skip


def draw_map(axes: Axes, found: HeatMap) -> None:
    """Draw a map with its numbers; an asterisk where the baseline is told apart."""
    # Better is brighter, whichever way the measure goes.
    shown = axes.imshow(found.values, MAP + ("_r" if found.lower_is_better else ""), aspect="auto")
    for (row, column), value in np.ndenumerate(found.values):
        mark = "*" if found.apart[row, column] else ""
        text = f"{value:.{found.digits}f}{mark}" if np.isfinite(value) else "–"
        light = np.mean(shown.cmap(shown.norm(value))[:3]) < 0.5
        ink = "white" if light else "black"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
    axes.set_xticks(range(len(found.columns)), found.columns)
    axes.set_yticks(range(len(found.rows)), found.rows)
    axes.set(xlabel=found.column_label, ylabel=found.row_label)
    axes.set_title(found.title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _line(
    axes: Axes, x: Sequence[float], found: Sequence[Estimate], base: Estimate | None, label: str
) -> None:
    style = dict(color=COLORS[0], marker="o", ms=3, lw=1.2, capsize=2, elinewidth=0.8)
    axes.errorbar(x, [e.value for e in found], yerr=_bounds(found), **style)
    if base is not None:
        axes.axhline(base.value, color=COLORS[1], ls="--", lw=1.2)
        if not math.isnan(base.low):
            axes.axhspan(base.low, base.high, color=COLORS[1], alpha=0.12, lw=0)
        at = dict(textcoords="offset points", ha="right", fontsize=7, color=COLORS[1])
        axes.annotate(label, (max(x), base.value), (0, 3), **at)
    if min(x) > 0 and max(x) / min(x) >= 20:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(x, [value_text(v) for v in x])


def _points(
    axes: Axes,
    labels: Sequence[str],
    found: Sequence[Estimate],
    base: Estimate | None,
    label: str | None,
) -> None:
    places = range(len(labels))
    style = dict(color=COLORS[0], fmt="o", ms=4, capsize=2, elinewidth=0.8)
    axes.errorbar([e.value for e in found], places, xerr=_bounds(found), **style)
    if base is not None:
        axes.axvline(base.value, color=COLORS[1], ls="--", lw=1.2, label=label)
        if not math.isnan(base.low):
            axes.axvspan(base.low, base.high, color=COLORS[1], alpha=0.12, lw=0)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=7)
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _bounds(found: Sequence[Estimate]) -> np.ndarray:
    """Lengths of error bars [2, n]; none where there is no interval."""
    bars = np.array([[e.value - e.low, e.high - e.value] for e in found]).T
    return np.nan_to_num(bars).clip(min=0)


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def figure7(grids: Mapping[str, Mapping[str, Any]], out_stem: str | Path) -> None:
    """Draw maps side by side from the grids' own CSV files.

    grids: {name: title, csv, axes {path: values}, column, digits, lower_is_better}. Writes
    ``out_stem``.png, .pdf and .csv (the rows drawn). Raises ArragError when a file lacks a point.
    """
    if not grids:
        raise ArragError("figure 7: grids: none has two paths; add one as in config/micro.yaml")
    found = {name: _read_map(name, about) for name, about in grids.items()}
    with look():
        high = max(len(m.rows) for m, _ in found.values())
        figure = panel(WIDTH, 1.0 + 0.42 * high)
        ratios = [1 + len(m.columns) for m, _ in found.values()]
        panels = figure.subplots(1, len(found), squeeze=False, width_ratios=ratios)[0]
        for axes, (heat, _) in zip(panels, found.values(), strict=True):
            draw_map(axes, heat)
        save(figure, out_stem)
    rows = [row for _, drawn in found.values() for row in drawn]
    header = ("grid", "column", "row_path", "row", "column_path", "value_of_column", "value")
    save_rows(out_stem, (*header, "apart"), rows)


def _read_map(name: str, about: Mapping[str, Any]) -> tuple[HeatMap, list[list[Any]]]:
    from arrag.report.differences import ZERO
    from arrag.report.grid import axis_label

    path, column = Path(about["csv"]), about["column"]
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            lines = [row for row in csv.DictReader(handle) if row.get("column") == column]
    except (OSError, UnicodeDecodeError):
        raise ArragError(
            f"figure 7: {path}: cannot be read; make it with "
            f"`snakemake --cores all reports/ablation_{name}.md`"
        ) from None
    (first, rows), (second, columns) = about["axes"].items()
    at = {(line.get(first), line.get(second)): line for line in lines}
    values = np.full((len(rows), len(columns)), math.nan)
    apart, drawn = np.zeros(values.shape, bool), []
    for r, row in enumerate(map(value_text, rows)):
        for c, other in enumerate(map(value_text, columns)):
            line = at.get((row, other))
            if line is None:
                raise ArragError(
                    f"figure 7: {path}: no {column} at {first} {row}, {second} {other}; make the "
                    f"report again with `snakemake --cores all reports/ablation_{name}.md`"
                )
            values[r, c] = float(line["value"])
            apart[r, c] = line["reading"] not in ("", ZERO)
            drawn.append([name, column, first, row, second, other, values[r, c], apart[r, c]])
    heat = HeatMap(
        about["title"], axis_label(first), axis_label(second),
        [value_text(v) for v in rows], [value_text(v) for v in columns],
        values, apart, about["digits"], about["lower_is_better"],
    )  # fmt: skip
    return heat, drawn
