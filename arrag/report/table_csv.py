"""The CSV form of a table: one line a number, unrounded."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from arrag.config import paper

if TYPE_CHECKING:
    from arrag.report.differences import Difference
    from arrag.report.tables import Table

FIELDS = (
    "scale",
    "block",
    "key",
    "method",
    "baseline",
    "column",
    "value",
    "low",
    "high",
    "reading",
)


def table_csv(table: Table, differences: list[Difference]) -> str:
    """``reading`` says what the Markdown table says of a number.

    ``scale`` is where the number was measured, so that no reader mixes the paper's with micro's.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(_measured(table))
    writer.writerows(_differences(table, differences))
    writer.writerows(_printed(table))
    return out.getvalue()


def _name(table: Table, column: str) -> str:
    """A measured column's name: its key, or the heading where that names the extractor."""
    heading = table.columns[column]
    return heading.removesuffix(" ↓") if heading.endswith("↓") else column


def _measured(table: Table) -> Iterator[list[Any]]:
    for _, rows in table.paper_order():
        for row in rows:
            for column in table.columns:
                if found := table.measure.estimate(table.scores[row.key], column):
                    ends = [table.scale, row.kind, row.key, row.label, ""]
                    bounds = ["" if math.isnan(bound) else bound for bound in found[1:]]
                    yield [*ends, _name(table, column), found.value, *bounds, ""]


def _differences(table: Table, differences: list[Difference]) -> Iterator[list[Any]]:
    for d in differences:
        ends = [table.scale, "difference", d.row.key, d.row.label, d.baseline.key]
        for column, estimate in d.estimates.items():
            yield [*ends, _name(table, column), *estimate, d.reading(column)]
        if d.test:
            yield [*ends, "mcnemar_p", d.test.p, "", "", ""]


def _printed(table: Table) -> Iterator[list[Any]]:
    """The paper's numbers, its authors' other ones, and the rows without a measurement."""
    from arrag.report.tables import reading

    name = table.measure.table
    others = paper.authors_values(name)
    for key, ours in table.paper_order():
        if key is None:
            continue
        for block, values in (
            ("paper", paper.paper_values(name, key)),
            ("authors", others.get(key, {})),
        ):
            for column, number in values.items():
                if number is None:
                    continue
                read = ""
                if table.scale == "paper":
                    readings = [reading(table, row, column, number) for row in ours]
                    read = ", ".join(filter(None, readings))
                label = paper.paper_label(key)
                yield ["paper", block, key, label, "", column, number, "", "", read]
    for key, ours in table.paper_order():
        if key is not None and not ours:
            reason = paper.not_run(key, table.not_run)
            yield [table.scale, "not run", key, paper.paper_label(key), "", "", "", "", "", reason]
