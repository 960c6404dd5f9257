"""Pictures of ablation grids (heat map, line or points), and Figure 7: heat maps side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from arrag.config.grids import value_text
from arrag.config.root import Config
from arrag.pipeline.reports import figure7_grids
from arrag.report.figures.style import (
    COLORS,
    MAP,
    WIDTH,
    apply_style,
    axis_label,
    save,
    save_rows,
    subplot_figure,
)
from arrag.report.measures import MEASURES, Measure
from arrag.report.model import BASELINE, INDISTINGUISHABLE
from arrag.report.render import read_frame
from arrag.utils.errors import ConfigError, FormatError, MissingError


@dataclass(frozen=True)
class HeatMap:
    """One column of a grid of two paths."""

    title: str
    axes: Mapping[str, Sequence[Any]]  # values of the rows' path, then of the columns' path
    values: np.ndarray  # float64 [rows, columns]
    differs: np.ndarray  # bool [rows, columns], whether the difference to the baseline excludes 0
    measure: Measure


def draw_grid(
    frame: pd.DataFrame,
    axes: Mapping[str, Sequence[Any]],
    column: str,
    heading: str,
    measure: Measure,
    stem: str | Path,
) -> None:
    """Draw one column of a grid as ``stem``.png and ``stem``.pdf.

    Two paths give a heat map, one path of numbers a line, anything else points.

    Args:
        frame: The grid's tidy table (``arrag.report.ablation.grid_frame``).
        axes: Values of each path that the points differ in.
        column, heading: The column to draw, and its heading.
        measure: How the benchmark's scores are read.
        stem: Path of the pictures without their suffix.
    """
    numbers = frame[frame.column == column]
    is_baseline = numbers.point.str.startswith(BASELINE)
    base, points = numbers[is_baseline], numbers[~is_baseline]
    label = base.point.iloc[0].removeprefix(BASELINE) if len(base) else None
    values = list(axes.values())
    with apply_style():
        if len(axes) == 2:
            figure = subplot_figure(WIDTH * 0.62, 0.55 + 0.42 * len(values[0]) + 0.6)
            title = heading
            if label is not None:
                title += f"; {label}: {base.value.iloc[0]:.{measure.digits}f}"
            draw_map(figure.subplots(), heat_map(points, axes, title, measure))
        elif len(values) == 1 and all(type(value) in (int, float) for value in values[0]):
            figure = subplot_figure(WIDTH * 0.55, 2.5)
            panel = figure.subplots()
            _line(panel, values[0], points, base, label)
            panel.set(xlabel=axis_label(next(iter(axes))), ylabel=heading)
        else:
            figure = subplot_figure(WIDTH * 0.8, 0.7 + 0.24 * len(points))
            panel = figure.subplots()
            _points(panel, points, base, label)
            panel.set_xlabel(heading)
        save(figure, stem)


def heat_map(
    numbers: pd.DataFrame, axes: Mapping[str, Sequence[Any]], title: str, measure: Measure
) -> HeatMap:
    """The heat map of one column of a grid of two paths.

    Raises:
        FormatError: A point of the grid is missing; ``field`` names its settings.
    """
    (first, rows), (second, columns) = axes.items()
    values = np.full((len(rows), len(columns)), math.nan)
    differs = np.zeros(values.shape, bool)
    at = {(n.get(first), n.get(second)): n for n in numbers.to_dict("records")}
    for r, row in enumerate(map(value_text, rows)):
        for c, column in enumerate(map(value_text, columns)):
            if (row, column) not in at:
                raise FormatError("no such point", field=f"{first} {row}, {second} {column}")
            values[r, c] = at[row, column]["value"]
            differs[r, c] = at[row, column]["reading"] not in ("", INDISTINGUISHABLE)
    return HeatMap(title, axes, values, differs, measure)


def draw_map(panel: Axes, found: HeatMap) -> None:
    """Draw a heat map with its numbers; an asterisk where the difference excludes 0."""
    # Better is brighter, whichever way the measure goes.
    reverse = "_r" if found.measure.lower_is_better else ""
    shown = panel.imshow(found.values, MAP + reverse, aspect="auto")
    for (row, column), value in np.ndenumerate(found.values):
        mark = "*" if found.differs[row, column] else ""
        text = f"{value:.{found.measure.digits}f}{mark}" if np.isfinite(value) else "–"
        ink = "white" if np.mean(shown.cmap(shown.norm(value))[:3]) < 0.5 else "black"
        panel.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
    (first, rows), (second, columns) = found.axes.items()
    panel.set_xticks(range(len(columns)), [value_text(v) for v in columns])
    panel.set_yticks(range(len(rows)), [value_text(v) for v in rows])
    panel.set(xlabel=axis_label(second), ylabel=axis_label(first))
    panel.set_title(found.title)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)


def _line(
    panel: Axes, x: Sequence[float], points: pd.DataFrame, base: pd.DataFrame, label: str | None
) -> None:
    style = dict(color=COLORS[0], marker="o", ms=3, lw=1.2, capsize=2, elinewidth=0.8)
    panel.errorbar(x, points.value, yerr=_bounds(points), **style)
    for line in base.itertuples():
        panel.axhline(line.value, color=COLORS[1], ls="--", lw=1.2)
        if not math.isnan(line.low):
            panel.axhspan(line.low, line.high, color=COLORS[1], alpha=0.12, lw=0)
        at = dict(textcoords="offset points", ha="right", fontsize=7, color=COLORS[1])
        panel.annotate(label, (max(x), line.value), (0, 3), **at)
    if min(x) > 0 and max(x) / min(x) >= 20:
        panel.set_xscale("log")
        panel.minorticks_off()
    panel.set_xticks(x, [value_text(v) for v in x])


def _points(panel: Axes, points: pd.DataFrame, base: pd.DataFrame, label: str | None) -> None:
    places = range(len(points))
    style = dict(color=COLORS[0], fmt="o", ms=4, capsize=2, elinewidth=0.8)
    panel.errorbar(points.value, places, xerr=_bounds(points), **style)
    for line in base.itertuples():
        panel.axvline(line.value, color=COLORS[1], ls="--", lw=1.2, label=label)
        if not math.isnan(line.low):
            panel.axvspan(line.low, line.high, color=COLORS[1], alpha=0.12, lw=0)
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=7)
    panel.set_yticks(places, points.point)
    panel.set_ylim(len(points) - 0.5, -0.5)


def _bounds(points: pd.DataFrame) -> np.ndarray:
    """Lengths of error bars [2, n]; 0 where there is no interval."""
    bars = np.array([points.value - points.low, points.high - points.value])
    return np.nan_to_num(bars).clip(min=0)


def write_figure7(config: Config, out: Path, reports: Path) -> dict[str, Any]:
    """Write Figure 7 from the CSV files of the grids' reports in the folder ``reports``."""
    names = figure7_grids(config)
    figure7({name: read_map(config, name, reports) for name in names}, out.with_suffix(""))
    return {"grids": names}


def read_map(config: Config, name: str, reports: Path) -> tuple[str, HeatMap]:
    """Read a grid's report into (column drawn, heat map).

    Raises:
        MissingError: The report has not been made.
        FormatError: It lacks a point of the grid.
    """
    grid, path = config.grids[name], reports / f"ablation_{name}.csv"
    hint = f"make it with `snakemake --cores all reports/ablation_{name}.md`"
    if not path.is_file():
        raise MissingError("no such file", path=path, field="figure 7", hint=hint)
    measure = MEASURES[config.benchmark(grid.benchmark).kind]
    column = grid.metric or measure.overall or "fid"
    title = f"{config.method(grid.method).label}: {measure.paper_columns.get(column, column)}"
    frame = read_frame(path)
    try:
        return column, heat_map(frame[frame.column == column], grid.values, title, measure)
    except FormatError as error:
        raise FormatError(f"no {column} there", path=path, field=error.field, hint=hint) from None


def figure7(maps: Mapping[str, tuple[str, HeatMap]], stem: str | Path) -> None:
    """Draw heat maps, (column drawn, map) by the grid's name, as ``stem``.png, .pdf and .csv."""
    if not maps:
        hint = "add one of two paths as in config/micro.yaml"
        raise ConfigError("figure 7 has no grid of two paths", field="grids", hint=hint)
    shapes = [found.values.shape for _, found in maps.values()]
    with apply_style():
        figure = subplot_figure(WIDTH, 1.0 + 0.42 * max(rows for rows, _ in shapes))
        ratios = [1 + columns for _, columns in shapes]
        panels = figure.subplots(1, len(maps), squeeze=False, width_ratios=ratios)[0]
        for panel, (_, found) in zip(panels, maps.values(), strict=True):
            draw_map(panel, found)
        save(figure, stem)
    lines = []
    for name, (drawn, found) in maps.items():
        (first, rows), (second, columns) = found.axes.items()
        for (r, c), value in np.ndenumerate(found.values):
            at = [first, value_text(rows[r]), second, value_text(columns[c])]
            lines.append([name, drawn, *at, float(value), bool(found.differs[r, c])])
    header = "grid column row_path row column_path value_of_column value apart"
    save_rows(stem, header.split(), lines)
