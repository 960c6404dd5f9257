"""Are results what their records say: no file missing, cut short, changed or extra, none remade.

Reads the records (``arrag.pipeline.records``) below a results folder, and below ``data`` and
``reports``
beside it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from arrag.pipeline.layout import LAST_FILES
from arrag.pipeline.records import SUFFIX, files_of, read_record, write_record
from arrag.utils.errors import ArragError
from arrag.utils.hashing import digest_of, sha256_file

BESIDE = ("data", "reports")
AGAIN = "delete it with its record and make it again with snakemake"
LAST = {
    "begun.json": "run.json",
    "manifest.partial.json": "manifest.json",
    "meta.partial.json": "meta.json",
    "run.partial.json": "run.json",
}
"""What a folder has while it is being made, and what it has in the end."""
MARKS = {*LAST, *LAST_FILES.values(), "run.json", "meta_data.json", "open_clip_config.json"}
"""Files that only a result's own folder has."""
WORK = (".work", ".partial")
"""Ends of the names of what a stage goes on from after a kill; no result."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as recorded: where, what, and what to do."""

    path: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.advice}"


@dataclass
class Checked:
    """What was found. notes: what cannot be compared, and is no fault."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    records: int = 0
    files: int = 0
    bytes: int = 0


class Verifier:
    """Checks one project: ``base`` is the folder that holds ``results``.

    full: read every byte; else sizes are compared, and digests only of records and descriptions.
    tick: is told the bytes of each file looked at, and those of all.
    """

    def __init__(
        self, results: Path, full: bool = True, tick: Callable[[int, int], object] = lambda *_: None
    ) -> None:
        if not results.is_dir():
            raise ArragError(f"{results}: no such folder of results; correct the path")
        self.base, self.full, self.tick = results.parent, full, tick
        roots = [results, *(self.base / name for name in BESIDE)]
        self.seen = [path for root in roots if root.is_dir() for path in files_of(root)]
        self.found = Checked()
        self._recorded: dict[Path, str] = {}  # SHA-256 as recorded
        self._digests: dict[Path, str] = {}
        self._folders: set[Path] = set()
        self._records: set[Path] = set()
        self.total = 0

    def run(self) -> Checked:
        """Check everything, whatever is found."""
        records = self.open_records()
        sizes = [entry["bytes"] for r in records.values() for entry in r["files"].values()]
        self.total = sum(sizes)
        for path, record in records.items():
            self._check_files(path, record)
        self._leftover()
        damaged = {folder for f in self.found.findings for folder in Path(f.path).parents}
        for path, record in records.items():
            self._check_sources(path, record, damaged)
        return self.found

    def open_records(self) -> dict[Path, dict[str, Any]]:
        """All records that are whole; one that is not is a finding.

        A record in the folder of a result, such as a crate, is a copy, and a file like any other.
        """
        paths = [path for path in self.seen if path.name.endswith(SUFFIX)]
        self._folders = {path.with_name(path.name.removesuffix(SUFFIX)) for path in paths}
        self._records = {p for p in paths if not self._folders.intersection(p.parents)}
        return {p: record for p in sorted(self._records) if (record := self._read(p)) is not None}

    def _read(self, path: Path) -> dict[str, Any] | None:
        self.found.records += 1
        try:
            record = read_record(path)
        except ArragError as error:
            what, _, advice = str(error).removeprefix(f"{path}: ").rpartition("; ")
            self._wrong(path, what, advice)
            return None
        for name, entry in record["files"].items():
            self._recorded[path.parent / name] = entry["sha256"]
        return record

    def _wrong(self, path: Path, what: str, advice: str = AGAIN) -> None:
        self.found.findings.append(Finding(str(path), what, advice))

    def _check_files(self, path: Path, record: dict[str, Any]) -> None:
        result = path.with_name(path.name.removesuffix(SUFFIX))
        if record["files"] and not any((path.parent / name).exists() for name in record["files"]):
            self._wrong(result, "missing as a whole", "delete its record too, or make it again")
        else:
            self.found.findings += differences(path, record, self.full, self._tick)
        self.found.files += len(record["files"])
        self.found.bytes += sum(entry["bytes"] for entry in record["files"].values())

    def _tick(self, size: int) -> None:
        self.tick(size, self.total)

    def _leftover(self) -> None:
        """Files of no record: in the folder of a result they are extra, else nobody knows them."""
        folders: dict[Path, list[Path]] = {}
        for result, files in sorted(self.unrecorded().items()):
            folders.setdefault(result if result.is_dir() else result.parent, []).extend(files)
        for result, files in folders.items():
            if unfinished(files):
                note = Finding(str(result), "unfinished", "what began it goes on from there")
                self.found.notes.append(note)
                continue
            count = f"{len(files)} file{'s' if len(files) > 1 else ''} without a record"
            advice = "if it is right, `arrag verify --record` writes one; else make it again"
            self._wrong(result, f"unrecorded: {count}, such as {files[0].name}", advice)

    def unrecorded(self) -> dict[Path, list[Path]]:
        """{result: its files} without a record; a file more in a recorded folder is a finding."""
        found: dict[Path, list[Path]] = {}
        for path in self.seen:
            if path in self._recorded or path in self._records:
                continue
            if any(part.endswith(WORK) for part in path.relative_to(self.base).parts):
                continue
            if owner := next((p for p in path.parents if p in self._folders), None):
                self._wrong(path, f"extra: {owner.name}{SUFFIX} does not name it", "take it away")
            else:
                found.setdefault(result_of(path, self.base), []).append(path)
        return found

    def _check_sources(self, path: Path, record: dict[str, Any], damaged: set[Path]) -> None:
        """What a result was made of. damaged: folders of which something is told already."""
        result = path.with_name(path.name.removesuffix(SUFFIX))
        for role, source in record["made_of"].items():
            where = self.base / source["path"]
            if where in damaged:
                continue
            what = f"was made of {role} {source['path']} ({source['digest'][:12]}...)"
            if not where.exists():
                note = Finding(str(result), f"{what}, which is not there", "nothing if it is meant")
                self.found.notes.append(note)
                continue
            try:
                digest = self._digest(where)
            except (ArragError, OSError, KeyError, TypeError) as error:
                self._wrong(result, f"{what}, which cannot be read ({error})")
                continue
            if digest != source["digest"]:
                now = f"what is there now is another ({digest[:12]}...)"
                self._wrong(result, f"{what}; {now}", "make one of them again with snakemake")

    def _digest(self, path: Path) -> str:
        """As of ``digest_of``; a recorded file was compared already, so its digest is believed."""
        if path not in self._digests:
            self._digests[path] = digest_of(
                path, lambda file: self._recorded.get(file) or sha256_file(file)
            )
        return self._digests[path]


def differences(
    path: Path,
    record: dict[str, Any],
    full: bool = True,
    tick: Callable[[int], object] = lambda size: None,
) -> Iterator[Finding]:
    """The files of a record that are not as it says. Arguments as of ``Verifier``."""
    for name, entry in record["files"].items():
        file, size = path.parent / name, entry["bytes"]
        what = None
        if not file.is_file():
            what = "missing"
        elif (there := file.stat().st_size) != size:
            how = "truncated" if there < size else "changed"
            what = f"{how}: {there} bytes, recorded {size}"
        elif full and (digest := sha256_file(file)) != entry["sha256"]:
            was = entry["sha256"][:12]
            what = f"changed: its SHA-256 is {digest[:12]}..., recorded {was}..."
        if what:
            yield Finding(str(file), what, AGAIN)
        tick(size)


def record_unrecorded(results: Path) -> list[Path]:
    """Write records of results that have none, as they are now; returns the records.

    For results of an earlier version and files put there by hand. Of what they were made is not
    known any more. What is unfinished, and what is extra in a recorded folder, is left alone.
    """
    checker = Verifier(results, full=False)
    checker.open_records()
    written = []
    for result, files in sorted(checker.unrecorded().items()):
        if not unfinished(files):
            first, *others = [result] if result.is_dir() else sorted(files, key=lambda f: f.suffix)
            written.append(write_record(first, *others))
    return written


def unfinished(files: list[Path]) -> bool:
    """Whether a stage has begun some files' folder and not ended."""
    names = {path.name for path in files}
    return any(begun in names and last not in names for begun, last in LAST.items())


def result_of(path: Path, base: Path) -> Path:
    """The result that a file without a record belongs to: a folder, or a file without its ends."""
    folder = _folder_of(path.parent, base)
    return folder or path.with_name(path.name.removesuffix(".answers.csv")).with_suffix("")


@cache
def _folder_of(folder: Path, base: Path) -> Path | None:
    """The result that a folder is, or lies in; None for one of single files."""
    parts = folder.relative_to(base).parts
    if len(parts) < 2 or "features" in parts:  # features grow with every score
        return None
    if (outer := _folder_of(folder.parent, base)) is not None:
        return outer
    fetched = parts[:2] == ("data", "hub") and len(parts) == 3
    return folder if fetched or any((folder / name).is_file() for name in MARKS) else None
