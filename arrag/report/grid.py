"""An ablation's report: what was measured at each point of a grid, and against its baseline."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrag.config.grids import last_word, value_text
from arrag.metrics.bootstrap import Estimate
from arrag.report import render
from arrag.report.differences import ZERO
from arrag.report.measures import MEASURES, Measure, Scores
from arrag.report.provenance import footer, provenance_block
from arrag.report.render import NONE, Block, Cell, Page, interval_cell
from arrag.report.tables import LOWER
from arrag.utils.errors import ArragError
from arrag.utils.files import write_text

HEAD = {
    "micro": "Micro scale. These numbers come from the built-in micro world, where images, "
    "prompts, generator and judge are small and arrag's own. They are not comparable with the "
    "paper's, whose ablations are curves without printed numbers.",
    "paper": "Paper scale. The paper shows its ablations as curves without printed numbers.",
}
SYMBOLS = {"augment.lam": "λ", "augment.tau": "τ", "augment.k": "K"}
FIXED = ("scale", "grid", "point", "column")
NUMBERS = ("value", "low", "high", "difference", "difference_low", "difference_high", "reading")


@dataclass(frozen=True)
class GridPoint:
    """A point: its label, what it sets, {dotted path: value}, and its score files."""

    label: str
    settings: Mapping[str, Any]
    scores: Scores


@dataclass(frozen=True)
class GridReport:
    """Everything a grid's report is made of.

    kind: of the benchmark; axes: the paths that the points differ in, {path: its values}, empty for
    labelled points; metric: the column that is drawn, None for the usual one; baseline: label and
    scores, None if there is none.
    """

    name: str
    title: str
    kind: str
    scale: str
    axes: Mapping[str, Sequence[Any]]
    points: Sequence[GridPoint]
    baseline: tuple[str, Scores] | None = None
    metric: str | None = None

    @property
    def measure(self) -> Measure:
        """How the benchmark's kind reads scores."""
        return MEASURES[self.kind]

    @property
    def columns(self) -> dict[str, str]:
        """{column: heading} of what some point has measured."""
        scores = self.points[0].scores
        found = self.measure.columns(scores)
        return {c: h for c, h in found.items() if self.measure.estimate(scores, c) is not None}

    @property
    def drawn(self) -> str:
        """The column that is drawn; ArragError if the grid's metric is none of them."""
        columns = list(self.columns)
        if self.metric is None:
            usual = [self.measure.overall or "fid", *columns]
            return next(column for column in usual if column in columns)
        if self.metric not in columns:
            raise ArragError(
                f"grids.{self.name}.metric: found '{self.metric}'; the benchmark measures "
                f"{', '.join(columns)}; use one of them"
            )
        return self.metric

    def value(self, point: GridPoint, column: str) -> Estimate | None:
        """What was measured at a point."""
        return self.measure.estimate(point.scores, column)

    def difference(self, point: GridPoint, column: str) -> Estimate | None:
        """Point minus baseline, paired by prompt."""
        if self.baseline is None:
            return None
        return self._differences(point).get(column)

    def _differences(self, point: GridPoint) -> dict[str, Estimate]:
        cache = self.__dict__.setdefault("_found", {})  # 10 000 resamples are worth keeping
        if id(point) not in cache:
            cache[id(point)] = self.measure.differences(point.scores, self.baseline[1])
        return cache[id(point)]


def write_grid(report: GridReport, out_stem: str | Path) -> None:
    """Write ``out_stem``.md, .csv, .png and .pdf.

    Raises ArragError when a point has no score, or one of other prompts or of another judge.
    """
    from arrag.report.figures.grids import draw_grid

    _check(report)
    stem = Path(out_stem)
    drawn = report.drawn
    draw_grid(report, drawn, stem)
    labelled = {point.label: point.scores for point in report.points}
    if report.baseline is not None:
        labelled = {report.baseline[0]: report.baseline[1]} | labelled
    blocks = [*_map_block(report, drawn), _values(report), *_differences(report)]
    blocks.append(provenance_block(labelled))
    lines = [*footer(report.kind, labelled), f"Drawn in {stem.name}.png: {report.columns[drawn]}."]
    page = Page(f"Ablation: {report.title}", HEAD[report.scale], blocks, lines)
    write_text(stem.with_name(stem.name + ".md"), render.markdown(page))
    write_text(stem.with_name(stem.name + ".csv"), _csv(report))


def _check(report: GridReport) -> None:
    if not report.points:
        raise ArragError(f"grids.{report.name}: has no point; add values")
    against = report.baseline[1] if report.baseline else report.points[0].scores
    for point in report.points:
        if not point.scores:
            raise ArragError(
                f"grids.{report.name}: point {point.label} has no score; score it first"
            )
        report.measure.check(against, point.scores)


def axis_label(path: str) -> str:
    """A path as an axis is called."""
    return SYMBOLS.get(path, last_word(path).replace("_", " "))


def _map_block(report: GridReport, column: str) -> list[Block]:
    """Two paths: a row a value of the first, a column a value of the second."""
    if len(report.axes) != 2:
        return []
    (first, rows), (second, columns) = report.axes.items()
    header = [f"{axis_label(first)} \\ {axis_label(second)}", *map(value_text, columns)]
    lines, places = [], iter(report.points)
    for row in rows:
        cells = [Cell(value_text(row))]
        for _ in columns:
            point = next(places)
            value, change = report.value(point, column), report.difference(point, column)
            strong = change is not None and not change.holds(0)
            cells.append(interval_cell(value, report.measure.digits, strong=strong))
        lines.append(cells)
    notes = []
    if report.baseline is not None:
        value = report.measure.estimate(report.baseline[1], column)
        cell = interval_cell(value, report.measure.digits)
        notes.append(f"Baseline, {report.baseline[0]}: {cell.text} {cell.note}.")
        notes.append("Bold: the difference to the baseline does not hold 0.")
    return [Block(f"{report.columns[column]} with 95 % intervals", header, lines, notes)]


def _values(report: GridReport) -> Block:
    measure = report.measure
    lines = []
    if report.baseline is not None:
        label, scores = report.baseline
        cells = [interval_cell(measure.estimate(scores, c), measure.digits) for c in report.columns]
        lines.append([Cell(label, "baseline"), *cells])
    for point in report.points:
        cells = [interval_cell(report.value(point, c), measure.digits) for c in report.columns]
        lines.append([Cell(point.label), *cells])
    notes = [LOWER] if measure.lower_is_better else []
    header = ["Point", *report.columns.values()]
    return Block("Every point, with 95 % intervals", header, lines, notes)


def _differences(report: GridReport) -> list[Block]:
    if report.baseline is None:
        return []
    digits, lines = report.measure.digits, []
    for point in report.points:
        found = [report.difference(point, column) for column in report.columns]
        cells = [
            interval_cell(e, digits, sign=True, strong=not e.holds(0)) if e else Cell(NONE)
            for e in found
        ]
        lines.append([Cell(point.label), *cells])
    note = (
        f"Bold: the interval does not hold 0; every other difference is {ZERO}. No correction for "
        f"the number of comparisons: of {len(lines)} points one in twenty would be bold by chance."
    )
    heading = f"Difference to {report.baseline[0]}, paired by prompt"
    return [Block(heading, ["Point", *report.columns.values()], lines, [note])]


def csv_header(paths: Sequence[str]) -> list[str]:
    """The columns of a grid's CSV: a column for each path that some point sets."""
    return [*FIXED, *paths, *NUMBERS]


def _csv(report: GridReport) -> str:
    paths = list(dict.fromkeys(path for point in report.points for path in point.settings))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(csv_header(paths))
    if report.baseline is not None:
        point = GridPoint(f"baseline: {report.baseline[0]}", {}, report.baseline[1])
        writer.writerows(_csv_rows(report, point, paths, is_baseline=True))
    for point in report.points:
        writer.writerows(_csv_rows(report, point, paths))
    return out.getvalue()


def _csv_rows(
    report: GridReport, point: GridPoint, paths: Sequence[str], is_baseline: bool = False
) -> Iterator[list[Any]]:
    settings = [value_text(point.settings[p]) if p in point.settings else "" for p in paths]
    for column in report.columns:
        value = report.value(point, column)
        change = None if is_baseline else report.difference(point, column)
        numbers = [*_numbers(value), *_numbers(change), _reading(change)]
        yield [report.scale, report.name, point.label, column, *settings, *numbers]


def _numbers(estimate: Estimate | None) -> list[Any]:
    if estimate is None:
        return ["", "", ""]
    return ["" if math.isnan(number) else number for number in estimate]


def _reading(change: Estimate | None) -> str:
    if change is None:
        return ""
    if change.holds(0):
        return ZERO
    return "above the baseline" if change.value > 0 else "below the baseline"
