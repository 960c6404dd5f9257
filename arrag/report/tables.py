"""Table 1 (GenEval) from score files: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from arrag.errors import ArragError
from arrag.files import write_text
from arrag.metrics import stats
from arrag.metrics.stats import Estimate
from arrag.report import render
from arrag.report.provenance import footer, provenance_block
from arrag.report.render import NONE, Block, Cell, Page, interval_cell, number_text

COLUMN_LABELS = {
    "single_object": "Single Obj.",
    "two_object": "Two Obj.",
    "counting": "Counting",
    "colors": "Colors",
    "position": "Position",
    "color_attr": "Color Attri.",
    "overall": "Overall",
}
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
CSV_FIELDS = (
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
ZERO = "indistinguishable from zero"


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


@cache
def paper_tables() -> dict[str, Any]:
    """The numbers printed in the paper (arrag/report/paper.yaml)."""
    return yaml.safe_load(files("arrag.report").joinpath("paper.yaml").read_text("utf-8"))


def table1(
    rows: list[RowSpec], scores: dict[str, dict[str, Any]], scale: str, out_stem: str | Path
) -> None:
    """Write ``out_stem``.md, .csv and .tex from GenEval scores (``score_geneval``).

    Raises ArragError for an unknown scale, a row without a score, an unknown baseline or paper
    row, or scores of different prompt sets or judges.
    """
    _check(rows, scores, scale)
    differences = _differences(rows, scores)
    blocks = [
        _measured(rows, scores, scale),
        *([_difference_block(differences)] if differences else []),
        _reported(rows, scale),
        provenance_block({row.label: scores[row.key] for row in rows}),
    ]
    page = Page(
        "Table 1: GenEval",
        HEAD[scale],
        blocks,
        footer({row.label: scores[row.key] for row in rows}),
    )
    stem = Path(out_stem)
    write_text(stem.with_name(stem.name + ".md"), render.markdown(page))
    write_text(stem.with_name(stem.name + ".tex"), render.latex(page))
    write_text(stem.with_name(stem.name + ".csv"), _csv(rows, scores, differences, scale))


def _check(rows: list[RowSpec], scores: dict[str, dict[str, Any]], scale: str) -> None:
    if scale not in MEASURED:
        raise ArragError(f"Table 1: scale is {scale!r}, expected one of {', '.join(MEASURED)}")
    keys = [row.key for row in rows]
    if not rows or len(set(keys)) != len(keys):
        raise ArragError(f"Table 1: rows are {keys}, expected at least one and each only once")
    for row in rows:
        if row.key not in scores:
            raise ArragError(f"Table 1: row {row.key} has no score; score its samples first")
        if row.baseline is not None and row.baseline not in keys:
            raise ArragError(f"Table 1: row {row.key}: baseline {row.baseline!r} is not a row")
        if row.paper_key is not None and row.paper_key not in paper_tables()["table1"]["rows"]:
            raise ArragError(
                f"Table 1: row {row.key}: paper_key {row.paper_key!r} is not a row of the paper"
            )
        stats.check_comparable(scores[keys[0]], scores[row.key])


def _estimate(score: dict[str, Any], column: str) -> Estimate | None:
    """Our value of a column, or None when the prompt set lacks that task."""
    cell = score if column == stats.OVERALL else score["tasks"].get(column)
    return Estimate(cell["value"], *cell["interval"]) if cell else None


def _paper_values(paper_key: str) -> dict[str, float | None]:
    table = paper_tables()["table1"]
    return dict(zip(table["columns"], table["rows"][paper_key]["values"], strict=True))


def _reading(score: dict[str, Any], column: str, number: float | None) -> str:
    """Whether the paper's number lies in our interval."""
    ours = _estimate(score, column)
    if ours is None or number is None:
        return ""
    return "inside" if ours.holds(number) else "outside"


def _params(score: dict[str, Any]) -> str:
    """The generator's parameters like the paper prints them: 1.0B, 3.4M."""
    number = (score["run"] or {}).get("parameters")
    if number is None:
        return NONE
    return f"{number / 1e9:.1f}B" if number >= 1e8 else f"{number / 1e6:.1f}M"


def _header(first: str) -> list[str]:
    return [first, "Params", *COLUMN_LABELS.values()]


def _measured(rows: list[RowSpec], scores: dict[str, dict[str, Any]], scale: str) -> Block:
    table = []
    for row in rows:
        score = scores[row.key]
        label = f"Ceiling: {row.label}" if row.kind == "ceiling" else row.label
        cells = [interval_cell(_estimate(score, column)) for column in COLUMN_LABELS]
        table.append([Cell(label), Cell(_params(score)), *cells])
        if scale == "paper" and row.paper_key:
            table.append(
                [
                    Cell(f"paper: {paper_tables()['labels'][row.paper_key]}"),
                    Cell(paper_tables()["table1"]["rows"][row.paper_key]["params"] or NONE),
                    *(
                        Cell(number_text(number, 2), _reading(score, column, number))
                        for column, number in _paper_values(row.paper_key).items()
                    ),
                ]
            )
    return Block(MEASURED[scale], _header("Method"), table)


@dataclass(frozen=True)
class _Difference:
    row: RowSpec
    baseline: RowSpec
    estimates: dict[str, Estimate]
    test: stats.McNemar

    def reading(self, column: str) -> str:
        estimate = self.estimates[column]
        if estimate.holds(0):
            return ZERO
        return "above the baseline" if estimate.value > 0 else "below the baseline"

    def sentence(self) -> str:
        cell = interval_cell(self.estimates[stats.OVERALL], sign=True)
        return (
            f"{self.row.label} minus {self.baseline.label}, overall: {cell.text} {cell.note}, "
            f"{self.reading(stats.OVERALL)}. Images right only with {self.row.label}: "
            f"{self.test.only_first}, only with {self.baseline.label}: {self.test.only_second} "
            f"(McNemar, exact, p-value {_p(self.test.p)})."
        )


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _differences(rows: list[RowSpec], scores: dict[str, dict[str, Any]]) -> list[_Difference]:
    specs = {row.key: row for row in rows}
    return [
        _Difference(
            row,
            specs[row.baseline],
            stats.paired_difference(scores[row.key], scores[row.baseline]),
            stats.mcnemar(scores[row.key], scores[row.baseline]),
        )
        for row in rows
        if row.baseline is not None
    ]


def _difference_block(differences: list[_Difference]) -> Block:
    table = []
    for d in differences:
        cells = [
            interval_cell(e, sign=True, strong=not e.holds(0))
            if (e := d.estimates.get(column))
            else Cell(NONE)
            for column in COLUMN_LABELS
        ]
        name = Cell(d.row.label, f"minus {d.baseline.label}")
        table.append([name, *cells, Cell(_p(d.test.p))])
    header = ["Difference", *COLUMN_LABELS.values(), "McNemar p"]
    notes = [d.sentence() for d in differences]
    notes.append(
        f"Bold: the interval does not hold 0. Every other difference is {ZERO}. No correction for "
        "the number of comparisons. McNemar pairs single images and takes them as independent, "
        "which the images of one prompt are not quite; the intervals do not assume it."
    )
    return Block("Difference to the baseline, paired by prompt", header, table, notes)


def _reported(rows: list[RowSpec], scale: str) -> Block:
    """The paper's rows that do not stand beside one of ours, and the authors' other number."""
    beside = {row.paper_key for row in rows} if scale == "paper" else set()
    paper = paper_tables()
    labelled = [
        (paper["labels"][key], row["params"], row["values"])
        for key, row in paper["table1"]["rows"].items()
        if key not in beside
    ]
    for key, values in paper["authors_repository"]["geneval"].items():
        params = paper["table1"]["rows"][key]["params"]
        labelled.append((f"{paper['labels'][key]} (authors' repository)", params, values))
    table = [
        [Cell(label), Cell(params or NONE), *(Cell(number_text(value, 2)) for value in values)]
        for label, params, values in labelled
    ]
    return Block(f"Reported in the paper ({paper['source']})", _header("Method"), table)


def _csv(
    rows: list[RowSpec],
    scores: dict[str, dict[str, Any]],
    differences: list[_Difference],
    scale: str,
) -> str:
    """One line a number, unrounded; ``reading`` says what the Markdown table says of it.

    ``scale`` is where the number was measured, so that no reader mixes the paper's with micro's.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for row in rows:
        for column in COLUMN_LABELS:
            if estimate := _estimate(scores[row.key], column):
                writer.writerow([scale, row.kind, row.key, row.label, "", column, *estimate, ""])
    for d in differences:
        ends = [scale, "difference", d.row.key, d.row.label, d.baseline.key]
        for column, estimate in d.estimates.items():
            writer.writerow([*ends, column, *estimate, d.reading(column)])
        writer.writerow([*ends, "mcnemar_p", d.test.p, "", "", ""])
    beside = {row.paper_key: row.key for row in rows} if scale == "paper" else {}
    for key in paper_tables()["table1"]["rows"]:
        label = paper_tables()["labels"][key]
        for column, number in _paper_values(key).items():
            if number is not None:
                ours = scores[beside[key]] if key in beside else None
                reading = _reading(ours, column, number) if ours else ""
                writer.writerow(["paper", "paper", key, label, "", column, number, "", "", reading])
    return out.getvalue()
