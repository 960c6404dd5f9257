"""Trace a number of a table back to what it was made of, computing every digest again.

The number is computed again from its scores. From there the provenance records
(``arrag.pipeline.records``) are followed: each names the files of a result and the inputs that it
was made of, with digests. Nothing here imports torch, except for Table 4.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arrag.config.methods import CEILING_LABELS
from arrag.config.root import load_config
from arrag.pipeline.records import Record, RecordedSource, read_record, record_of
from arrag.pipeline.verify import changed_files
from arrag.report.measures import MEASURES, Scores
from arrag.utils.errors import ArragError, FormatError, MissingError
from arrag.utils.files import read_json
from arrag.utils.hashing import digest_of, sha256_file, sha256_json
from arrag.utils.registry import unknown_name

MEASURED = ("method", "ceiling", "")  # blocks of a table's CSV that are ours; an ablation has none
TIMED = ("one", "best")  # blocks of Table 4's CSV


@dataclass(frozen=True)
class TraceStep:
    """One step from a number to its sources."""

    row: str  # its key; empty for the report's own files
    what: str  # is compared, as in ``index of samples``
    path: str
    recorded: str  # digest or value
    found: str | None  # the same now; None if it cannot be computed here

    @property
    def verified(self) -> bool | None:
        """Whether both agree; None if it was not checked."""
        return None if self.found is None else self.found == self.recorded


@dataclass
class Trace:
    """A number of a report, and the steps to its sources."""

    report: str
    row: str  # its key
    column: str
    value: str  # as the CSV has it
    interval: tuple[str, str]  # empty texts without an interval
    steps: list[TraceStep] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)  # of libraries, by stage

    @property
    def holds(self) -> bool:
        """Whether no digest that was computed differs from the recorded one."""
        return all(step.verified is not False for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The number and its steps as JSON."""
        return asdict(self) | {
            "steps": [asdict(step) | {"verified": step.verified} for step in self.steps]
        }

    def as_text(self) -> str:
        """One line per step, with whether its digest holds."""
        interval = f" [{', '.join(self.interval)}]" if all(self.interval) else ""
        lines = [f"{self.report}: {self.row}, {self.column} = {self.value}{interval}"]
        marks = {True: "ok", False: "DIFFERS", None: "not checked"}
        for step in self.steps:
            of = f"{step.row}: " if step.row else ""
            lines.append(f"{marks[step.verified]:12}{of}{step.what}  {step.path}  {step.recorded}")
            if step.verified is False:
                lines.append(f"{'':12}found now: {step.found}")
        for stage, versions in self.versions.items():
            text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            lines.append(f"versions of {stage}: {text}")
        return "\n".join(lines)


def trace_cell(report: str | Path, row: str, column: str) -> Trace:
    """Trace a number of a report. Paths are relative to the working directory.

    Args:
        report: Its Markdown, CSV or LaTeX file, next to which its record is.
        row: Key or label of the row.
        column: Its name in the CSV; after "difference" for a difference to the baseline, after
            "one" or "best" in Table 4.

    Raises:
        MissingError: The report has no record.
        FormatError: The record is not one of a table.
        UnknownNameError: The report has no such row or column.
    """
    report = Path(report)
    path = record_of(report)
    if not path.is_file():
        hint = f"run `snakemake --cores all --force {report.with_suffix('.md')}`"
        raise MissingError(f"no such record of {report}", path=path, hint=hint)
    record = read_record(path)
    if record.table is None:
        raise FormatError("not the record of a table", path=path, hint="name a table or ablation")
    table = record.table
    labels = {about["label"]: key for key, about in table["rows"].items()}
    key = row if row in table["rows"] else labels.get(row)
    if key is None:
        raise unknown_name("row", row, [*table["rows"]])
    cells = cells_of(report.with_suffix(".csv"), table)
    columns = {name: cell for (of, name), cell in cells.items() if of == key}
    if column not in columns:
        raise unknown_name(f"column of row {key}", column, [*columns])
    cell = columns[column]
    found = Trace(str(report), key, column, cell["value"], (cell["low"], cell["high"]))
    digests: dict[Path, str] = {}
    for name, entry in record.files.items():
        file = report.parent / name
        found.steps.append(TraceStep("", "report", str(file), entry.sha256, _digest(file, {})))
    scores: dict[str, Scores] = {}
    for one in dict.fromkeys(filter(None, (key, cell["baseline"]))):
        scores[one], steps = {}, {}
        for step in _row_steps(one, table, record.made_of, scores[one], digests):
            steps.setdefault((step.path, step.recorded), step)  # several results share an input
        found.steps += steps.values()
        for metric, score in scores[one].items():
            found.versions[metric if "rows" in score else f"{metric} of {one}"] = score["versions"]
            if score.get("run"):
                found.versions[f"samples of {one}"] = score["run"].get("versions", {})
    value = TraceStep(key, "value", str(report), cell["value"], _recompute(table, cell, scores))
    found.steps.insert(0, value)
    return found


def _row_steps(
    key: str,
    table: Mapping[str, Any],
    made_of: Mapping[str, RecordedSource],
    scores: Scores,
    digests: dict[Path, str],
) -> Iterator[TraceStep]:
    """From a row's scores to its sources; fills ``scores``."""
    parts = {role: Path(path) for role, path in table["rows"][key]["parts"].items()}
    roots = [*parts.items()]  # a metric is also the role of its feature extractor
    for metric, path in table["rows"][key]["scores"].items():
        digest = made_of[f"{metric} of {key}"].digest
        yield TraceStep(key, f"{metric} file", path, digest, _digest(Path(path), {}))
        if Path(path).is_file():
            scores[metric] = read_json(path)
            roots.insert(0, (metric, Path(path)))
    for score in scores.values():
        run = score["rows"].get(key) if "rows" in score else score["run"]
        if run:
            yield from _run_steps(key, table, run, parts, digests)
            break
    for owner, path, record in _records(roots):
        count = len(record.files)
        whole = count - len(list(changed_files(record_of(path), record)))
        yield TraceStep(key, f"files of {owner}", str(path), f"{count} files", f"{whole} files")
        for role, source in record.made_of.items():
            now = _digest(Path(source.path), digests)
            yield TraceStep(key, f"{role} of {owner}", source.path, source.digest, now)


def _records(roots: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path, Record]]:
    """The results that have a record, with their role: ``roots`` and all that they are made of."""
    queue, seen = list(roots), set()
    for role, path in queue:
        record = record_of(path)
        if path not in seen and record.is_file():
            seen.add(path)
            found = read_record(record)
            yield role, path, found
            queue += [(r, Path(source.path)) for r, source in found.made_of.items()]


def _run_steps(
    key: str,
    table: Mapping[str, Any],
    run: Mapping[str, Any],
    parts: Mapping[str, Path],
    digests: dict[Path, str],
) -> Iterator[TraceStep]:
    """What a score, or a timing run, says of how the images were generated."""
    last = parts["samples"] / "run.json"
    if "config_hash" in run:
        if key in CEILING_LABELS:  # of its own run, not of the configuration
            now = sha256_json(
                {k: v for k, v in run.items() if k not in ("config_hash", "versions")}
            )
        else:
            try:
                now = load_config(table["config"]).config_hash(key, table["benchmark"])
            except ArragError as error:
                now = str(error)
        yield TraceStep(key, "settings", table["config"], run["config_hash"], now)
        if last.is_file():
            found = sha256_json(read_json(last))
            yield TraceStep(key, "run", str(last), sha256_json(run), found)
    inputs = dict(run.get("weights", {}))
    if run.get("index"):
        inputs["index" if "index" in parts else "codes"] = run["index"]
    manifest = parts.get("codes", Path()) / "manifest.json"
    for role, digest in inputs.items():
        if role == "tokenizer":
            # A part of the backbone; what can be compared is the encoder of the database.
            there = manifest.is_file()
            now = read_json(manifest)["tokenizer_digest"] if there else None
            yield TraceStep(key, role, str(manifest) if there else "", digest, now)
        else:
            now = _digest(parts[role], digests) if role in parts else None
            yield TraceStep(key, role, str(parts.get(role, "")), digest, now)


def _recompute(
    table: Mapping[str, Any], cell: Mapping[str, str], scores: Mapping[str, Scores]
) -> str | None:
    """The number, computed again from the scores; None without them."""
    found, name = scores[cell["key"]], cell["name"]
    other = scores.get(cell["baseline"])
    if not found or (cell["baseline"] and not other):
        return None
    if cell["block"] in TIMED:
        from arrag.report.table4 import timing_value  # which imports torch

        timing = next(iter(found.values()))
        return str(timing_value(timing, cell["key"], cell["block"], name).value)
    measure = MEASURES[table["kind"]]
    if table["kind"] == "distribution":
        name = next((metric for metric, s in found.items() if s["label"] == name), name)
    if cell["block"] != "difference":
        return str(measure.estimate(found, name).value)
    if name == "mcnemar_p":
        return str(measure.test(found, other).p)
    return str(measure.differences(found, other)[name].value)


def cells_of(path: Path, table: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, str]]:
    """Our numbers in a report's CSV, by key of the row and name of the column."""
    keys = {about["label"]: key for key, about in table["rows"].items()}
    found = {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        hint = "make the report again"
        raise FormatError(f"cannot be read ({error})", path=path, hint=hint) from None
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


def _digest(path: Path, known: dict[Path, str]) -> str:
    """The digest by which a record names a path, computed again; ``known`` are those so far."""
    if path not in known:
        try:
            known[path] = digest_of(path) if path.is_dir() else sha256_file(path)
        except (ArragError, OSError, KeyError) as error:
            known[path] = f"missing ({error})"
    return known[path]
