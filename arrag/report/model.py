"""The data of a report: rows with their scores, differences, and the page that people read.

A table exists in two forms: a tidy :class:`pandas.DataFrame` with one number a row, which becomes
the CSV file, and a :class:`Page` of formatted cells, which becomes Markdown, LaTeX and HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arrag.config import paper
from arrag.metrics.bootstrap import Estimate, McNemar
from arrag.report.measures import MEASURES, Measure, Scores
from arrag.utils.errors import ConfigError

INDISTINGUISHABLE = "indistinguishable from zero"
BASELINE = "baseline: "  # before the label of an ablation's baseline, in its CSV


def difference_status(change: Estimate) -> str:
    """Say whether the interval of a difference excludes 0, and on which side."""
    if change.holds(0):
        return INDISTINGUISHABLE
    return "above the baseline" if change.value > 0 else "below the baseline"


@dataclass(frozen=True)
class TableRow:
    """One row of a table: a method, or a ceiling (real images or their reconstructions)."""

    key: str
    label: str
    paper_key: str | None = (
        None  # the paper's row for the same method (arrag/config/paper_tables.yaml)
    )
    kind: Literal["method", "ceiling"] = "method"
    baseline: str | None = None  # key of the row that this row is compared with


@dataclass(frozen=True)
class Table:
    """The rows of Table 1, 2 or 3 with their scores."""

    kind: str  # of the benchmark: geneval, dpg or distribution
    rows: Sequence[TableRow]  # ours only
    scores: Mapping[str, Scores]  # the score files of each row, by its key
    scale: str  # micro or paper
    not_run: Mapping[str, str]  # why rows of the paper were not run, by the paper's key

    @property
    def measure(self) -> Measure:
        return MEASURES[self.kind]

    @property
    def columns(self) -> dict[str, str]:
        """Heading of each column, the same for all rows."""
        return self.measure.columns(self.scores[self.rows[0].key])

    @property
    def csv_columns(self) -> dict[str, str]:
        """Name of each column in the CSV: its key, or its heading where that names an extractor."""
        return {
            column: heading.removesuffix(" ↓") if heading.endswith("↓") else column
            for column, heading in self.columns.items()
        }

    def paper_order(self) -> list[tuple[str | None, list[TableRow]]]:
        """Our rows under the paper's row that they reproduce, in its order; the others last."""
        order = paper.paper_rows(self.measure.table)
        grouped = [(key, [row for row in self.rows if row.paper_key == key]) for key in order]
        return [*grouped, (None, [row for row in self.rows if row.paper_key not in order])]


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline, paired by prompt: an estimate for each column that both have."""

    row: TableRow
    baseline: TableRow
    estimates: Mapping[str, Estimate]
    test: McNemar | None


@dataclass(frozen=True)
class GridPoint:
    """A point of an ablation grid: its label, its settings by dotted path, its score files."""

    label: str
    settings: Mapping[str, Any]
    scores: Scores


@dataclass(frozen=True)
class GridReport:
    """The points of an ablation grid with their scores."""

    name: str  # in the configuration
    title: str
    kind: str  # of the benchmark: geneval, dpg or distribution
    scale: str  # micro or paper
    axes: Mapping[str, Sequence[Any]]  # values of each path that the points differ in, if by paths
    points: Sequence[GridPoint]  # the last path running fastest
    baseline: tuple[str, Scores] | None = None  # label and scores of the method to compare with
    metric: str | None = None  # the column to draw; None for the overall column, or FID

    @property
    def measure(self) -> Measure:
        return MEASURES[self.kind]

    @property
    def columns(self) -> dict[str, str]:
        """Heading of each column that the first point has a value for."""
        scores = self.points[0].scores
        found = self.measure.columns(scores)
        return {c: h for c, h in found.items() if self.measure.estimate(scores, c) is not None}

    @property
    def drawn(self) -> str:
        """The column to draw.

        Raises:
            ConfigError: The benchmark does not measure ``metric``.
        """
        columns = list(self.columns)
        if self.metric is None:
            usual = [self.measure.overall or "fid", *columns]
            return next(column for column in usual if column in columns)
        if self.metric not in columns:
            found = f"is '{self.metric}', which the benchmark does not measure"
            hint = f"use one of {', '.join(columns)}"
            raise ConfigError(found, field=f"grids.{self.name}.metric", hint=hint)
        return self.metric


@dataclass(frozen=True)
class Cell:
    """A table cell: a text and a smaller note below it."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Block:
    """One table with a heading above and notes below; every row is as long as the header."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report: its title, a statement of its scale, tables, and closing remarks."""

    title: str
    head: str
    blocks: Sequence[Block]
    footer: Sequence[str] = ()
