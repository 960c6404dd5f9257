"""Tables 1 to 3 from score files: Markdown, CSV and LaTeX. A measure is what one has of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arrag.config import paper
from arrag.report import render
from arrag.report.differences import Difference, difference_block, differences_of
from arrag.report.measures import MEASURES, Measure, Scores
from arrag.report.provenance import footer, provenance_block
from arrag.report.render import NONE, Block, Cell, Page, interval_cell, number_text
from arrag.report.table_csv import table_csv
from arrag.utils.errors import ArragError
from arrag.utils.files import write_text

HEAD = {
    "micro": "Micro scale. These numbers come from the built-in micro world, where images, "
    "prompts, generator and judge are small and arrag's own. They are not the paper's numbers and "
    "are not comparable with them; what the paper reports stands in a block of its own below.",
    "paper": "Paper scale. Under a method stands the paper's own number for it, and whether that "
    "number lies inside our 95 % interval.",
}
MEASURED = {
    "micro": "Measured at micro scale, with 95 % intervals (not comparable with the paper)",
    "paper": "Measured at paper scale, with 95 % intervals",
}
LOWER = "Lower is better (↓)."


@dataclass(frozen=True)
class RowSpec:
    """One row of a table: which score it shows, and beside what.

    ``key`` names the score; ``paper_key`` the paper's row for the same method (report/paper.yaml);
    ``baseline`` the key of the row whose difference is shown.
    """

    key: str
    label: str
    paper_key: str | None = None
    kind: Literal["method", "ceiling"] = "method"
    baseline: str | None = None


@dataclass(frozen=True)
class Table:
    """Everything a table is made of. ``scores``: row key -> that row's score files."""

    measure: Measure
    rows: list[RowSpec]
    scores: dict[str, Scores]
    scale: str
    not_run: Mapping[str, str]

    @property
    def columns(self) -> dict[str, str]:
        """{column: heading}, the same for all rows."""
        return self.measure.columns(self.scores[self.rows[0].key])

    def paper_order(self) -> list[tuple[str | None, list[RowSpec]]]:
        """Our rows under the paper's row they reproduce, in its order; then those of no row."""
        order = paper.paper_rows(self.measure.table)
        grouped = [(key, [row for row in self.rows if row.paper_key == key]) for key in order]
        return [*grouped, (None, [row for row in self.rows if row.paper_key not in order])]


def write_table(
    kind: str,
    rows: list[RowSpec],
    scores: dict[str, Scores],
    scale: str,
    out_stem: str | Path,
    not_run: Mapping[str, str] | None = None,
) -> None:
    """Write ``out_stem``.md, .csv and .tex from the scores of one kind of benchmark.

    Arguments and errors as of :func:`make_table`.
    """
    table, differences, page = make_table(kind, rows, scores, scale, not_run)
    stem = Path(out_stem)
    write_text(stem.with_name(stem.name + ".md"), render.markdown(page))
    write_text(stem.with_name(stem.name + ".tex"), render.latex(page))
    write_text(stem.with_name(stem.name + ".csv"), table_csv(table, differences))


def make_table(
    kind: str,
    rows: list[RowSpec],
    scores: dict[str, Scores],
    scale: str,
    not_run: Mapping[str, str] | None = None,
) -> tuple[Table, list[Difference], Page]:
    """A table as all its forms are made of it: its numbers, its differences, its page.

    ``kind`` is geneval, dpg or distribution; ``not_run`` says why rows of the paper are missing.
    Raises ArragError for an unknown scale, a row without a score, an unknown baseline or paper
    row, or scores of different prompt sets or judges.
    """
    table = Table(MEASURES[kind], rows, scores, scale, not_run or {})
    _check(table)
    differences = differences_of(table)
    labelled = {row.label: scores[row.key] for row in rows}
    blocks = [
        _measured(table),
        *([difference_block(table, differences)] if differences else []),
        *([_reported(table)] if scale == "micro" else []),
        provenance_block(labelled),
    ]
    page = Page(table.measure.title, HEAD[scale], blocks, footer(kind, labelled))
    return table, differences, page


def _check(table: Table) -> None:
    name = table.measure.title.split(":")[0]
    if table.scale not in MEASURED:
        raise ArragError(f"{name}: scale is {table.scale!r}, expected one of {', '.join(MEASURED)}")
    keys = [row.key for row in table.rows]
    if not keys or len(set(keys)) != len(keys):
        raise ArragError(f"{name}: rows are {keys}, expected at least one and each only once")
    known = paper.paper_tables()["labels"]
    for row in table.rows:
        if not table.scores.get(row.key):
            raise ArragError(f"{name}: row {row.key} has no score; score its samples first")
        if row.baseline is not None and row.baseline not in keys:
            raise ArragError(f"{name}: row {row.key}: baseline {row.baseline!r} is not a row")
        if row.paper_key is not None and row.paper_key not in known:
            raise ArragError(
                f"{name}: row {row.key}: paper_key {row.paper_key!r} is not a row of the paper"
            )
        table.measure.check(table.scores[keys[0]], table.scores[row.key])
    if strangers := sorted(set(table.not_run) - set(known)):
        raise ArragError(f"{name}: not_run names {', '.join(strangers)}, no row of the paper")


def _measured(table: Table) -> Block:
    """Our rows in the paper's order; at paper scale each over the paper's numbers for it."""
    lines = []
    for key, ours in table.paper_order():
        lines += [_our_line(table, row) for row in ours]
        if key is not None and table.scale == "paper":
            lines += _paper_lines(table, key, ours)
    notes = [LOWER] if table.measure.lower_is_better else []
    if table.scale == "paper":
        notes.append(f"paper: {paper.paper_tables()['source']}.")
        notes += paper.authors_remarks(table.measure.table)
    header = ["Method", "Params", *table.columns.values()]
    return Block(MEASURED[table.scale], header, lines, notes)


def _our_line(table: Table, row: RowSpec) -> list[Cell]:
    measure, scores = table.measure, table.scores[row.key]
    label = f"Ceiling: {row.label}" if row.kind == "ceiling" else row.label
    cells = [
        interval_cell(measure.estimate(scores, column), measure.digits) for column in table.columns
    ]
    return [Cell(label), Cell(_params(scores)), *cells]


def _paper_lines(table: Table, key: str, ours: list[RowSpec]) -> list[list[Cell]]:
    """The paper's row and, where there is one, its authors' other figure; read against ours."""
    name, label = table.measure.table, paper.paper_label(key)
    params = Cell(paper.paper_params(name, key) or NONE)
    note = "" if ours else paper.not_run(key, table.not_run)
    first = Cell(f"paper: {label}", note)
    lines = [[first, params, *_numbers(table, paper.paper_values(name, key), ours)]]
    if other := paper.authors_values(name).get(key):
        lines.append([Cell(f"authors' repository: {label}"), params, *_numbers(table, other, ours)])
    return lines


def _numbers(table: Table, values: Mapping[str, float | None], ours: list[RowSpec]) -> list[Cell]:
    """Printed numbers under our columns; several rows of ours are read one after the other."""
    cells = []
    for column in table.columns:
        number = values.get(column)
        readings = [reading(table, row, column, number) for row in ours]
        cells.append(Cell(number_text(number, 2), ", ".join(filter(None, readings))))
    return cells


def reading(table: Table, row: RowSpec, column: str, number: float | None) -> str:
    """Whether a printed number lies in the interval of our row."""
    estimate = table.measure.estimate(table.scores[row.key], column)
    if estimate is None or number is None or math.isnan(estimate.low):
        return ""
    return "inside" if estimate.holds(number) else "outside"


def _params(scores: Scores) -> str:
    """The generator's parameters like the paper prints them: 1.0B, 3.4M."""
    number = (next(iter(scores.values()))["run"] or {}).get("parameters")
    if number is None:
        return NONE
    return f"{number / 1e9:.1f}B" if number >= 1e8 else f"{number / 1e6:.1f}M"


def _reported(table: Table) -> Block:
    """The whole of the paper's table, apart from ours, and what became of each row here."""
    name = table.measure.table
    columns = paper.paper_tables()[name]["columns"]
    lines = []
    for key, ours in table.paper_order():
        if key is None:
            continue
        labels = ", ".join(row.label for row in ours)
        note = f"here: {labels}" if ours else paper.not_run(key, table.not_run)
        params = Cell(paper.paper_params(name, key) or NONE)
        values = paper.paper_values(name, key)
        numbers = [Cell(number_text(values[column], 2)) for column in columns]
        lines.append([Cell(paper.paper_label(key), note), params, *numbers])
    for key, values in paper.authors_values(name).items():
        label = Cell(f"{paper.paper_label(key)} (authors' repository)")
        params = Cell(paper.paper_params(name, key) or NONE)
        numbers = [Cell(number_text(values.get(column), 2)) for column in columns]
        lines.append([label, params, *numbers])
    heading = f"Reported in the paper ({paper.paper_tables()['source']})"
    header = ["Method", "Params", *(table.measure.paper_columns[column] for column in columns)]
    return Block(heading, header, lines, paper.authors_remarks(name))
