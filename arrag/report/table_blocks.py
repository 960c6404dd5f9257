"""The blocks of Tables 1 to 3: our rows, their differences to a baseline, and the paper's table.

Every number is taken from the tidy table (``arrag.report.tables.COLUMNS``).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from arrag.config import paper
from arrag.report.measures import Scores
from arrag.report.model import (
    INDISTINGUISHABLE,
    Block,
    Cell,
    Difference,
    Table,
    difference_status,
)
from arrag.report.render import NONE, interval_cell, interval_cells, number_text

MEASURED = {
    "micro": "Measured at micro scale, with 95 % intervals (not comparable with the paper)",
    "paper": "Measured at paper scale, with 95 % intervals",
}
LOWER = "Lower is better (↓)."
NO_CORRECTION = "No correction for multiple comparisons."


def measured_block(table: Table, frame: pd.DataFrame) -> Block:
    """Our rows in the paper's order; at paper scale the paper's numbers below each."""
    lines = []
    measured = frame[frame.block.isin(("method", "ceiling"))]
    for key, ours in table.paper_order():
        for row in ours:
            label = f"Ceiling: {row.label}" if row.kind == "ceiling" else row.label
            found = measured[measured.key == row.key]
            cells = interval_cells(found, table.csv_columns.values(), table.measure.digits)
            lines.append([Cell(label), Cell(_params(table.scores[row.key])), *cells])
        if key is not None and table.scale == "paper":
            label = paper.paper_label(key)
            note = "" if ours else paper.not_run(key, table.not_run)
            first = Cell(f"paper: {label}", note)
            lines.append(_printed(table, frame, "paper", key, first, table.columns))
            if key in paper.authors_values(table.measure.table):
                first = Cell(f"authors' repository: {label}")
                lines.append(_printed(table, frame, "authors", key, first, table.columns))
    notes = [LOWER] if table.measure.lower_is_better else []
    if table.scale == "paper":
        notes.append(f"paper: {paper.paper_tables()['source']}.")
        notes += paper.authors_remarks(table.measure.table)
    return Block(MEASURED[table.scale], ["Method", "Params", *table.columns.values()], lines, notes)


def _params(scores: Scores) -> str:
    """The generator's number of parameters, as the paper prints it: 1.0B, 3.4M."""
    number = (next(iter(scores.values()))["run"] or {}).get("parameters")
    if number is None:
        return NONE
    return f"{number / 1e9:.1f}B" if number >= 1e8 else f"{number / 1e6:.1f}M"


def _printed(
    table: Table, frame: pd.DataFrame, block: str, key: str, first: Cell, columns: Sequence[str]
) -> list[Cell]:
    """A row of printed numbers."""
    rows = frame[(frame.block == block) & (frame.key == key)]
    found = {row.column: Cell(number_text(row.value, 2), row.reading) for row in rows.itertuples()}
    params = Cell(paper.paper_params(table.measure.table, key) or NONE)
    return [first, params, *(found.get(column, Cell(NONE)) for column in columns)]


def reported_block(table: Table, frame: pd.DataFrame) -> Block:
    """The paper's whole table, with the row of ours that reproduces each, or why none does."""
    name = table.measure.table
    columns = paper.paper_tables()[name]["columns"]
    lines = []
    for key, ours in table.paper_order():
        if key is not None:
            labels = ", ".join(row.label for row in ours)
            note = f"here: {labels}" if ours else paper.not_run(key, table.not_run)
            first = Cell(paper.paper_label(key), note)
            lines.append(_printed(table, frame, "paper", key, first, columns))
    for key in paper.authors_values(name):
        first = Cell(f"{paper.paper_label(key)} (authors' repository)")
        lines.append(_printed(table, frame, "authors", key, first, columns))
    heading = f"Reported in the paper ({paper.paper_tables()['source']})"
    header = ["Method", "Params", *(table.measure.paper_columns[column] for column in columns)]
    return Block(heading, header, lines, paper.authors_remarks(name))


def difference_block(table: Table, differences: Sequence[Difference], frame: pd.DataFrame) -> Block:
    """The differences of all rows to their baselines, each of them in a sentence below."""
    tested = any(d.test for d in differences)
    lines = []
    for d in differences:
        found = frame[(frame.block == "difference") & (frame.key == d.row.key)]
        style = dict(digits=table.measure.digits, sign=True, strong=None)
        cells = interval_cells(found, table.csv_columns.values(), **style)
        tests = [Cell(_p_text(d.test.p) if d.test else NONE)] if tested else []
        lines.append([Cell(d.row.label, f"minus {d.baseline.label}"), *cells, *tests])
    header = ["Difference", *table.columns.values(), *(["McNemar p"] if tested else [])]
    notes = [_sentence(table, d) for d in differences]
    notes.append(
        f"Bold: the 95 % interval excludes 0. Every other difference is {INDISTINGUISHABLE}. "
        f"{NO_CORRECTION}"
    )
    if tested:
        notes.append(
            "McNemar's test treats images as independent, although images of one prompt are "
            "correlated; the bootstrap resamples prompts and does not."
        )
    if table.measure.lower_is_better:
        notes.append("Below 0: nearer to the reference than the baseline.")
    return Block("Difference to the baseline, paired by prompt", header, lines, notes)


def _sentence(table: Table, d: Difference) -> str:
    """A difference in words: overall, or for each metric where no column sums them up."""
    overall, parts = table.measure.overall, []
    for column in [overall] if overall else d.estimates:
        change = d.estimates[column]
        cell = interval_cell(change, table.measure.digits, sign=True)
        name = table.columns[column].lower() if overall else column
        parts.append(f"{name}: {cell.text} {cell.note}, {difference_status(change)}")
    text = f"{d.row.label} minus {d.baseline.label}, {'; '.join(parts)}."
    if d.test:
        text += (
            f" Images correct only with {d.row.label}: {d.test.only_first}, only with "
            f"{d.baseline.label}: {d.test.only_second} (McNemar's exact test, p-value "
            f"{_p_text(d.test.p)})."
        )
    return text


def _p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
