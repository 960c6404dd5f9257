"""Tables 1 to 3: from score files to a tidy table of numbers and a page.

Start at :func:`write_table`. The blocks of the page are in :mod:`arrag.report.table_blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from arrag.config import paper
from arrag.config.methods import CEILING_LABELS
from arrag.config.root import Config
from arrag.pipeline.layout import Layout
from arrag.pipeline.reports import TABLES
from arrag.report.measures import Scores
from arrag.report.model import Difference, Page, Table, TableRow, difference_status
from arrag.report.provenance import footer, provenance_block, write_table_record
from arrag.report.render import write_report
from arrag.report.table_blocks import MEASURED, difference_block, measured_block, reported_block
from arrag.utils.errors import ConfigError
from arrag.utils.files import read_json

COLUMNS = [
    *("scale", "block", "key", "method", "baseline", "column"),
    *("value", "low", "high", "reading"),
]
"""Of the CSV. ``scale`` is where a number was measured, so that no reader mixes the paper's numbers
with those of the synthetic dataset; ``reading`` says what the page says of it."""
HEAD = {
    "micro": "Micro scale: these numbers come from a synthetic dataset with small models and a "
    "small judge, all of them arrag's own. They are not the paper's numbers and cannot be compared "
    "with them; the paper's table is reported in a block of its own below.",
    "paper": "Paper scale. The paper's number for a method is given below ours, with whether it is "
    "inside our 95 % interval.",
}


def write_table(
    config: Config, config_path: Path, table: str, out: Path, benchmark: str | None = None
) -> dict[str, dict[str, float]]:
    """Write Table 1, 2 or 3 as Markdown, CSV and LaTeX, with its record.

    Args:
        config: The configuration, whose scores are read where the workflow has them.
        config_path: Its file, for the record.
        table: ``table1``, ``table2`` or ``table3``.
        out: The Markdown file; the other forms are written next to it.
        benchmark: The benchmark to show; None for the first of the table's kind.

    Returns:
        The value of each metric, by row.

    Raises:
        ConfigError: The configuration has no such benchmark, or rows that do not fit together.
        MissingError: A score is missing.
        MismatchError: Scores are of different prompts or judges.
    """
    kind = TABLES[table]
    benchmark = benchmark or config.benchmark_of_kind(kind)
    if benchmark is None or config.benchmark(benchmark).kind != kind:
        found = ", ".join(f"{name} ({b.kind})" for name, b in config.benchmarks.items())
        message = f"{table} needs a benchmark of kind {kind}, found {found}"
        hint = "add one, or name it with --benchmark"
        raise ConfigError(message, path=config_path, field="benchmarks", hint=hint)
    rows, layout = table_rows(config, benchmark), Layout(config)
    scores = read_scores(layout, rows, benchmark)
    frame, page = make_table(Table(kind, rows, scores, config.scale, config.skipped))
    write_report(out.with_suffix(""), frame, page)
    about = {"kind": kind, "benchmark": benchmark, "config": str(config_path)}
    labels = {row.key: row.label for row in rows}
    write_table_record(out.with_suffix(".md"), (".csv", ".tex"), layout, labels, about)
    return {key: {m: score["value"] for m, score in found.items()} for key, found in scores.items()}


def table_rows(config: Config, benchmark: str) -> list[TableRow]:
    """The rows of a benchmark's table: its methods, then the ceilings."""
    rows = [
        TableRow(name, m.label, paper_key=m.paper_key, baseline=m.baseline)
        for name, m in config.methods_in(benchmark).items()
    ]
    return rows + [
        TableRow(name, label, kind="ceiling")
        for name, label in config.row_labels(benchmark).items()
        if name in CEILING_LABELS
    ]


def read_scores(layout: Layout, rows: Sequence[TableRow], benchmark: str) -> dict[str, Scores]:
    """Read the score files of each row, by its key and by metric.

    Raises:
        MissingError: A score is missing.
    """
    paths = {row.key: layout.scores(row.key, benchmark) for row in rows}
    return {key: {m: read_json(path) for m, path in found.items()} for key, found in paths.items()}


def make_table(table: Table) -> tuple[pd.DataFrame, Page]:
    """Make the tidy table (``COLUMNS``) and the page of Table 1, 2 or 3.

    Raises:
        ConfigError: Unknown scale, row without a score, unknown baseline or paper row.
        MismatchError: Scores are of different prompts or judges.
    """
    _check(table)
    rows, differences = {row.key: row for row in table.rows}, []
    for row in table.rows:
        if row.baseline is not None:
            pair = table.scores[row.key], table.scores[row.baseline]
            found = table.measure.differences(*pair), table.measure.test(*pair)
            differences.append(Difference(row, rows[row.baseline], *found))
    frame = pd.DataFrame(
        [*_measured(table), *_compared(table, differences), *_reported(table)], columns=COLUMNS
    )
    scores = {row.label: table.scores[row.key] for row in table.rows}
    blocks = [measured_block(table, frame)]
    if differences:
        blocks.append(difference_block(table, differences, frame))
    if table.scale == "micro":
        blocks.append(reported_block(table, frame))
    blocks.append(provenance_block(scores))
    return frame, Page(table.measure.title, HEAD[table.scale], blocks, footer(table.kind, scores))


def _check(table: Table) -> None:
    keys, known = [row.key for row in table.rows], paper.paper_tables()["labels"]
    where = table.measure.table

    def refuse(message: str, field: str, hint: str) -> None:
        raise ConfigError(message, field=f"{where}: {field}", hint=hint)

    if table.scale not in MEASURED:
        refuse(f"found {table.scale!r}", "scale", f"use one of {', '.join(MEASURED)}")
    if not keys or len(set(keys)) != len(keys):
        refuse(f"found {keys}", "rows", "give at least one row, and each only once")
    for row in table.rows:
        if not table.scores.get(row.key):
            refuse("has no score", row.key, "score its samples first")
        if row.baseline is not None and row.baseline not in keys:
            refuse(f"{row.baseline!r} is not a row", f"{row.key}.baseline", f"use one of {keys}")
        table.measure.check(table.scores[keys[0]], table.scores[row.key])
    named = {f"{row.key}.paper_key": row.paper_key for row in table.rows if row.paper_key}
    for field, key in [*named.items(), *(("not_run", key) for key in table.not_run)]:
        if key not in known:
            refuse(f"{key!r} is not a row of the paper", field, f"use one of {', '.join(known)}")


def _measured(table: Table) -> Iterator[list[Any]]:
    for _, rows in table.paper_order():
        for row in rows:
            for column, name in table.csv_columns.items():
                if found := table.measure.estimate(table.scores[row.key], column):
                    ends = [table.scale, row.kind, row.key, row.label, ""]
                    yield [*ends, name, *found, ""]


def _compared(table: Table, differences: Sequence[Difference]) -> Iterator[list[Any]]:
    for d in differences:
        ends = [table.scale, "difference", d.row.key, d.row.label, d.baseline.key]
        for column, change in d.estimates.items():
            yield [*ends, table.csv_columns[column], *change, difference_status(change)]
        if d.test:
            yield [*ends, "mcnemar_p", d.test.p, None, None, ""]


def _reported(table: Table) -> Iterator[list[Any]]:
    """The paper's numbers, its authors' other numbers, and rows that were not run."""
    name = table.measure.table
    others = paper.authors_values(name)
    order = [(key, ours) for key, ours in table.paper_order() if key is not None]
    for key, ours in order:
        values = {"paper": paper.paper_values(name, key), "authors": others.get(key, {})}
        for block, numbers in values.items():
            ends = ["paper", block, key, paper.paper_label(key), ""]
            for column, number in numbers.items():
                if number is not None:
                    status = _paper_value_status(table, ours, column, number)
                    yield [*ends, column, number, None, None, status]
    for key, ours in order:
        if not ours:
            reason = paper.not_run(key, table.not_run)
            ends = [table.scale, "not run", key, paper.paper_label(key), ""]
            yield [*ends, "", None, None, None, reason]


def _paper_value_status(table: Table, ours: Sequence[TableRow], column: str, number: float) -> str:
    """Whether a number of the paper is inside the interval of our rows; at paper scale only."""
    if table.scale != "paper":
        return ""
    found = [table.measure.estimate(table.scores[row.key], column) for row in ours]
    bounded = [e for e in found if e is not None and not math.isnan(e.low)]
    return ", ".join("inside" if e.holds(number) else "outside" for e in bounded)
