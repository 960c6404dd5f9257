"""Are results what their records say: no file missing, cut short, changed or extra, none remade.

Reads the records (``arrag.pipeline.records``) below a results folder, and below ``data`` and
``reports`` next to it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from arrag.config.root import load_config
from arrag.pipeline.layout import RESULTS, SENTINEL_FILES, Layout
from arrag.pipeline.records import SUFFIX, Record, files_of, read_record, write_record
from arrag.utils.errors import ArragError, MissingError
from arrag.utils.hashing import digest_of, sha256_file

OTHER_ROOTS = ("data", "reports")
REMEDY = "delete it with its record and make it again with snakemake"
COMPLETED_BY = {
    "manifest.partial.json": "manifest.json",
    "meta.partial.json": "meta.json",
    "run.partial.json": "run.json",
}
"""The file of a folder that is being made, and the one that replaces it in the end."""
OWN_FILES = {
    *COMPLETED_BY, *SENTINEL_FILES.values(), "run.json", "meta_data.json", "open_clip_config.json",
}  # fmt: skip
"""Files that only a result's own folder has."""
WORK = (".work", ".partial", ".parts")
"""Ends of the names of what a stage resumes from; no results."""


@dataclass(frozen=True)
class Issue:
    """Something that is not as recorded: where, what, and what to do."""

    path: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.advice}"


@dataclass
class VerifyReport:
    """What was found: issues, notes on what cannot be compared, and what was looked at."""

    issues: list[Issue] = field(default_factory=list)
    notes: list[Issue] = field(default_factory=list)
    recorded: list[Path] = field(default_factory=list)
    records: int = 0
    files: int = 0
    bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """The findings and counts as JSON."""
        return {
            "issues": [vars(issue) for issue in self.issues],
            "notes": [vars(note) for note in self.notes],
            "recorded": [str(path) for path in self.recorded],
            "records": self.records,
            "files": self.files,
            "bytes": self.bytes,
        }

    def as_text(self) -> str:
        """One line per finding and note, and a summary."""
        summary = f"{len(self.issues)} issues" if self.issues else "all as recorded"
        lines = [*map(str, self.issues), *(f"note: {note}" for note in self.notes)]
        counts = f"{self.records} records, {self.files} files, {self.bytes} bytes"
        return "\n".join([*lines, f"{counts}: {summary}"])


def verify_results(
    results: Path,
    *,
    full: bool = True,
    record: bool = False,
    config: Path | None = None,
    tick: Callable[[int, int], object] = lambda *_: None,
) -> VerifyReport:
    """Compare results, downloads and reports with their records.

    Args:
        results: Folder of results; downloads and reports are next to it.
        full: Read every byte, instead of comparing sizes.
        record: First write records of results that have none.
        config: A configuration; missing scores of its tables are issues too.
        tick: See ``Verifier``.
    """
    settings = None if config is None else load_config(config)
    recorded = record_unrecorded(results) if record else []
    found = Verifier(results, full, tick).run()
    found.recorded = recorded
    if settings is not None:
        layout = Layout(settings)  # names contain digests of paths below RESULTS
        make = f"run `snakemake --cores all --configfile {config}`"
        for benchmark in settings.benchmarks:
            for row in settings.row_labels(benchmark):
                try:
                    scores = layout.scores(row, benchmark).values()
                except ArragError as error:
                    found.issues.append(Issue(f"{config}: {row}", str(error), make))
                    continue
                files = (results / score.relative_to(RESULTS) for score in scores)
                found.issues += [Issue(str(f), "missing", make) for f in files if not f.is_file()]
    return found


class Verifier:
    """Checks one project, whose folder holds ``results``.

    Args:
        results: The folder of results.
        full: Read every byte; else sizes are compared, and digests of records and descriptions.
        tick: Called with the bytes of each file looked at, and those of all.

    Raises:
        MissingError: There is no such folder.
    """

    def __init__(
        self, results: Path, full: bool = True, tick: Callable[[int, int], object] = lambda *_: None
    ) -> None:
        if not results.is_dir():
            raise MissingError("no such folder of results", path=results, hint="correct the path")
        self.base, self.full, self.tick = results.parent, full, tick
        roots = [results, *(self.base / name for name in OTHER_ROOTS)]
        self.seen = [path for root in roots if root.is_dir() for path in files_of(root)]
        self.report = VerifyReport()
        self.records = self._read_records()
        self._digests: dict[Path, str] = {}

    def run(self) -> VerifyReport:
        """Check everything, whatever is found."""
        total = sum(f.bytes for record in self.records.values() for f in record.files.values())
        for path, record in self.records.items():
            self._check_files(path, record, total)
        self._check_unrecorded()
        damaged = {folder for f in self.report.issues for folder in Path(f.path).parents}
        for path, record in self.records.items():
            self._check_sources(_result(path), record, damaged)
        return self.report

    def _read_records(self) -> dict[Path, Record]:
        """All records that are whole; one that is not is an issue.

        A record in the folder of a result, such as a crate, is a copy, and a file like any other.
        """
        paths = [path for path in self.seen if path.name.endswith(SUFFIX)]
        self._folders = {_result(path) for path in paths}
        self._record_files = {p for p in paths if not self._folders.intersection(p.parents)}
        self._recorded: dict[Path, str] = {}  # SHA-256 as recorded
        found = {}
        for path in sorted(self._record_files):
            self.report.records += 1
            try:
                found[path] = record = read_record(path)
            except ArragError as error:
                self._wrong(path, error.message, error.hint or REMEDY)
                continue
            for name, entry in record.files.items():
                self._recorded[path.parent / name] = entry.sha256
        return found

    def _wrong(self, path: Path, what: str, advice: str = REMEDY) -> None:
        self.report.issues.append(Issue(str(path), what, advice))

    def _note(self, path: Path, what: str, advice: str) -> None:
        self.report.notes.append(Issue(str(path), what, advice))

    def _check_files(self, path: Path, record: Record, total: int) -> None:
        if record.files and not any((path.parent / name).exists() for name in record.files):
            self._wrong(
                _result(path), "missing as a whole", "delete its record too, or make it again"
            )
        else:
            changed = changed_files(path, record, self.full, lambda size: self.tick(size, total))
            self.report.issues += changed
        self.report.files += len(record.files)
        self.report.bytes += sum(entry.bytes for entry in record.files.values())

    def _check_unrecorded(self) -> None:
        folders: dict[Path, list[Path]] = {}
        for result, files in sorted(self.unrecorded().items()):
            folders.setdefault(result if result.is_dir() else result.parent, []).extend(files)
        for result, files in folders.items():
            if unfinished(files):
                self._note(result, "unfinished", "the stage resumes it")
                continue
            count = f"{len(files)} file{'s' if len(files) > 1 else ''} without a record"
            advice = "if it is right, `arrag verify --record` writes one; else make it again"
            self._wrong(result, f"unrecorded: {count}, such as {files[0].name}", advice)

    def unrecorded(self) -> dict[Path, list[Path]]:
        """{result: its files} without a record; an extra file in a recorded folder is an issue."""
        found: dict[Path, list[Path]] = {}
        for path in self.seen:
            if path in self._recorded or path in self._record_files:
                continue
            if any(part.endswith(WORK) for part in path.relative_to(self.base).parts):
                continue
            if owner := next((p for p in path.parents if p in self._folders), None):
                self._wrong(path, f"extra: {owner.name}{SUFFIX} does not name it", "take it away")
            else:
                found.setdefault(result_of(path, self.base), []).append(path)
        return found

    def _check_sources(self, result: Path, record: Record, damaged: set[Path]) -> None:
        """Compare what a result was made of. damaged: folders that have an issue already."""
        for role, source in record.made_of.items():
            where = self.base / source.path
            what = f"was made of {role} {source.path} ({source.digest[:12]}...)"
            if where in damaged:
                continue
            if not where.exists():
                self._note(result, f"{what}, which is not there", "nothing if it is meant")
                continue
            try:
                digest = self._digest(where)
            except (ArragError, OSError, KeyError, TypeError) as error:
                self._wrong(result, f"{what}, which cannot be read ({error})")
                continue
            if digest != source.digest:
                now = f"what is there now is another ({digest[:12]}...)"
                self._wrong(result, f"{what}; {now}", "make one of them again with snakemake")

    def _digest(self, path: Path) -> str:
        """``digest_of``, with the recorded digests of files, which were compared already."""
        if path not in self._digests:
            self._digests[path] = digest_of(
                path, lambda file: self._recorded.get(file) or sha256_file(file)
            )
        return self._digests[path]


def changed_files(
    path: Path,
    record: Record,
    full: bool = True,
    tick: Callable[[int], object] = lambda size: None,
) -> Iterator[Issue]:
    """The files of the record at ``path`` that are not as it says; arguments as of ``Verifier``."""
    for name, entry in record.files.items():
        file, what = path.parent / name, None
        if not file.is_file():
            what = "missing"
        elif (size := file.stat().st_size) != entry.bytes:
            how = "truncated" if size < entry.bytes else "changed"
            what = f"{how}: {size} bytes, recorded {entry.bytes}"
        elif full and (digest := sha256_file(file)) != entry.sha256:
            was = entry.sha256[:12]
            what = f"changed: its SHA-256 is {digest[:12]}..., recorded {was}..."
        if what:
            yield Issue(str(file), what, REMEDY)
        tick(entry.bytes)


def record_unrecorded(results: Path) -> list[Path]:
    """Write records of results that have none, as they are now; returns the records.

    For results of an earlier version and files put there by hand. What they were made of is not
    known any more. What is unfinished, and what is extra in a recorded folder, is left alone.
    """
    written = []
    for result, files in sorted(Verifier(results, full=False).unrecorded().items()):
        if not unfinished(files):
            first, *others = [result] if result.is_dir() else sorted(files, key=lambda f: f.suffix)
            written.append(write_record(first, *others))
    return written


def unfinished(files: list[Path]) -> bool:
    """Whether a stage has begun some files' folder and not ended."""
    names = {path.name for path in files}
    return any(begun in names and last not in names for begun, last in COMPLETED_BY.items())


def result_of(path: Path, base: Path) -> Path:
    """The result that a file without a record belongs to: a folder, or a file without its ends."""
    folder = _folder_of(path.parent, base)
    return folder or path.with_name(path.name.removesuffix(".answers.csv")).with_suffix("")


def _result(record: Path) -> Path:
    """The result of a record: its folder, or its file without the suffix."""
    return record.with_name(record.name.removesuffix(SUFFIX))


@cache
def _folder_of(folder: Path, base: Path) -> Path | None:
    """The result that a folder is, or is part of; None for a folder of single files."""
    parts = folder.relative_to(base).parts
    if len(parts) < 2 or "features" in parts:  # features grow with every score
        return None
    if (outer := _folder_of(folder.parent, base)) is not None:
        return outer
    fetched = parts[:2] == ("data", "hub") and len(parts) == 3
    return folder if fetched or any((folder / name).is_file() for name in OWN_FILES) else None
