"""Each row of a table minus its baseline, paired by prompt: numbers, a block, sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from arrag.metrics.bootstrap import Estimate, McNemar
from arrag.report.render import NONE, Block, Cell, interval_cell

if TYPE_CHECKING:
    from arrag.report.tables import RowSpec, Table

ZERO = "indistinguishable from zero"


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline."""

    row: RowSpec
    baseline: RowSpec
    estimates: dict[str, Estimate]
    test: McNemar | None

    def reading(self, column: str) -> str:
        """What the interval says of the difference."""
        estimate = self.estimates[column]
        if estimate.holds(0):
            return ZERO
        return "above the baseline" if estimate.value > 0 else "below the baseline"


def differences_of(table: Table) -> list[Difference]:
    """Of every row that names a baseline, in the rows' order."""
    specs = {row.key: row for row in table.rows}
    found = []
    for row in table.rows:
        if row.baseline is not None:
            pair = table.scores[row.key], table.scores[row.baseline]
            estimates = table.measure.differences(*pair)
            test = table.measure.test(*pair)
            found.append(Difference(row, specs[row.baseline], estimates, test))
    return found


def difference_block(table: Table, differences: list[Difference]) -> Block:
    """The table of all differences, each of them in a sentence below."""
    digits = table.measure.digits
    tested = any(d.test for d in differences)
    lines = []
    for d in differences:
        cells = [
            interval_cell(e, digits, sign=True, strong=not e.holds(0))
            if (e := d.estimates.get(column))
            else Cell(NONE)
            for column in table.columns
        ]
        tests = [Cell(_p(d.test.p) if d.test else NONE)] if tested else []
        lines.append([Cell(d.row.label, f"minus {d.baseline.label}"), *cells, *tests])
    header = ["Difference", *table.columns.values(), *(["McNemar p"] if tested else [])]
    notes = [_sentence(table, d) for d in differences]
    notes.append(
        f"Bold: the interval does not hold 0. Every other difference is {ZERO}. No correction for "
        "the number of comparisons."
    )
    if tested:
        notes[-1] += (
            " McNemar pairs single images and takes them as independent, which the images of one "
            "prompt are not quite; the intervals do not assume it."
        )
    if table.measure.lower_is_better:
        notes.append("A difference below 0 is nearer to the reference than the baseline is.")
    return Block("Difference to the baseline, paired by prompt", header, lines, notes)


def _sentence(table: Table, d: Difference) -> str:
    """The difference in words: overall, or metric by metric where nothing sums them up."""
    pair = f"{d.row.label} minus {d.baseline.label}"
    columns = [table.measure.overall] if table.measure.overall else list(d.estimates)
    parts = []
    for column in columns:
        cell = interval_cell(d.estimates[column], table.measure.digits, sign=True)
        parts.append(
            f"{table.columns[column].lower() if column == table.measure.overall else column}: "
            f"{cell.text} {cell.note}, {d.reading(column)}"
        )
    text = f"{pair}, {'; '.join(parts)}."
    if d.test:
        text += (
            f" Images right only with {d.row.label}: {d.test.only_first}, only with "
            f"{d.baseline.label}: {d.test.only_second} (McNemar, exact, p-value {_p(d.test.p)})."
        )
    return text


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
