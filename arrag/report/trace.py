"""From a number of a table back to what it was made of, every digest computed anew.

A table's record (``arrag.pipeline.records``) names the scores, samples, adapters, indexes, stores
and
weights of each row; the files there say what they are of. Nothing here imports torch.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrag.pipeline.records import read_record, record_of
from arrag.report.trace_steps import TIMED, Chain, Link, file_digest
from arrag.utils.errors import ArragError
from arrag.utils.registry import unknown_name

MEASURED = ("method", "ceiling", "")
"""Blocks of a table's CSV that are ours; an ablation's has none."""


@dataclass(frozen=True)
class Explained:
    """A number and its chain; ``versions``: of the libraries, by stage."""

    report: str
    row: str
    column: str
    value: str
    interval: tuple[str, str]
    links: list[Link]
    versions: dict[str, dict[str, str]]


def explain(report: str | Path, row: str, column: str) -> Explained:
    """The chain of a number.

    report: its Markdown, CSV or LaTeX, beside which its record lies; paths in it are relative to
    the working directory. row: a key or a label; column: its name in the CSV, after "difference"
    for one to the baseline, after "one" or "best" in Table 4. ArragError for a report without a
    record, or a row or column that it has not, naming those it has.
    """
    report = Path(report)
    path = record_of(report)
    if not path.is_file():
        raise ArragError(
            f"{path}: no such file, so what {report} was made of is not known; make the report "
            f"again: snakemake --cores all --force {report.with_suffix('.md')}"
        )
    record = read_record(path)
    if record.table is None:
        raise ArragError(f"{path}: is the record of no table; name a table or an ablation")
    table = record.table
    cell = _cell(report.with_suffix(".csv"), table, row, column)
    chain = Chain(
        table, {role: source.model_dump() for role, source in record.made_of.items()}, cell
    )
    links = []
    for name, entry in record.files.items():
        file = report.parent / name
        links.append(Link("", "report", str(file), entry.sha256, file_digest(file)))
    for key in dict.fromkeys(filter(None, (cell["key"], cell["baseline"]))):
        links += chain.links_of(key)
    value = Link(cell["key"], "value", str(report), cell["value"], chain.value())
    return Explained(
        report=str(report),
        row=cell["key"],
        column=column,
        value=cell["value"],
        interval=(cell["low"], cell["high"]),
        links=[value, *links],
        versions=chain.versions,
    )


def cells_of(path: Path, table: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, str]]:
    """Our numbers in a report's CSV by (key of the row, name of the column)."""
    keys = {about["label"]: key for key, about in table["rows"].items()}
    found = {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise ArragError(f"{path}: cannot be read ({error}); make the report again") from None
    for line in rows:
        block = line.get("block", "")
        key = line.get("key") or keys.get(line.get("point", "").removeprefix("baseline: "))
        if key not in table["rows"] or block not in (*MEASURED, *TIMED, "difference"):
            continue
        name = line["column"] if block in MEASURED else f"{block} {line['column']}"
        about = {"key": key, "block": block, "name": line["column"]}
        found[key, name] = line | about | {"baseline": line.get("baseline", "")}
        if line.get("difference"):  # of an ablation
            number = {f: line[f"difference_{f}"] for f in ("low", "high")}
            number |= {"value": line["difference"], "block": "difference"}
            baseline = {"baseline": table["baseline"]}
            found[key, f"difference {name}"] = line | about | number | baseline
    return found


def _cell(path: Path, table: Mapping[str, Any], row: str, column: str) -> dict[str, str]:
    labels = {about["label"]: key for key, about in table["rows"].items()}
    key = row if row in table["rows"] else labels.get(row)
    if key is None:
        raise unknown_name("row", row, [*table["rows"]])
    columns = {name: cell for (of, name), cell in cells_of(path, table).items() if of == key}
    if column not in columns:
        raise unknown_name(f"column of row {key}", column, [*columns])
    return columns[column]
