"""The record of a result: its files with sizes and SHA-256, and what it was made of.

``results/index/NAME/`` has ``results/index/NAME.record.json``, ``scores/NAME.json`` has
``scores/NAME.record.json``. It is next to the result, because a folder's own digest must not change
with it, and is written when the result is complete. ``arrag verify`` reads it; no stage depends on
it. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from arrag.utils.errors import ArragError, FormatError
from arrag.utils.files import read_json, read_model, write_json
from arrag.utils.hashing import digest_of, sha256_file, sha256_json

SUFFIX = ".record.json"
FORMAT = 1
REMAKE = "its result cannot be checked; make it again"
Source = Path | str | tuple[Path | str, str]
"""A path, with its digest if that is known already."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RecordedFile(_Model):
    """A file of a result."""

    bytes: int
    sha256: str


class RecordedSource(_Model):
    """Something that a result was made of; ``digest`` as of ``digest_of``."""

    path: str
    digest: str


class Record(_Model):
    """A record file.

    Attributes:
        format: Version of this format.
        files: The result's files, by their path from the record's folder.
        made_of: What it was made of, by role.
        table: Of a report: its kind, rows, scores.
        sha256: Digest of all other fields, as JSON.
    """

    format: Literal[1]
    files: dict[str, RecordedFile]
    made_of: dict[str, RecordedSource]
    table: dict[str, Any] | None = None
    sha256: str


def record_of(result: str | Path) -> Path:
    """The record of a folder, or of a file whatever its form: table1.md and table1.csv share it."""
    result = Path(result)
    return result.with_name((result.name if result.is_dir() else result.stem) + SUFFIX)


def write_record(
    result: str | Path,
    *others: str | Path,
    made_of: Mapping[str, Source | None] | None = None,
    table: Mapping[str, Any] | None = None,
) -> Path:
    """Write the record of a folder or file.

    A file that is older than an earlier record keeps the digest that it had there: it changed
    although no stage wrote it, so it is damaged and must not be recorded as if it were right.

    Args:
        result: The folder or file.
        others: Further files of the result, in the same folder.
        made_of: What it was made of, by role; None is left out.
        table: Of a report: what its rows are.

    Returns:
        The record's path.
    """
    path, result = record_of(result), Path(result)
    since, earlier = _earlier(path)
    files = {}
    own = files_of(result) if result.is_dir() else [result]
    for file in [*own, *map(Path, others)]:
        name, found = file.relative_to(path.parent).as_posix(), file.stat()
        if name in earlier and found.st_ctime_ns <= since:
            files[name] = earlier[name].model_dump()
        else:
            files[name] = {"bytes": found.st_size, "sha256": sha256_file(file)}
    sources = {role: _source(given) for role, given in (made_of or {}).items() if given is not None}
    record: dict[str, Any] = {"format": FORMAT, "files": files, "made_of": sources}
    record |= {} if table is None else {"table": table}
    write_json(path, record | {"sha256": sha256_json(record)})
    return path


def read_record(path: str | Path) -> Record:
    """Read a record.

    Raises:
        MissingError: There is none.
        FormatError: It is damaged, in whatever place.
    """
    found = read_model(path, Record, REMAKE)
    document = read_json(path, hint=REMAKE)
    rest = {name: value for name, value in document.items() if name != "sha256"}
    as_written = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if sha256_json(rest) != found.sha256 or Path(path).read_bytes() != as_written.encode():
        raise FormatError("is not as it was written", path=path, hint=REMAKE)
    return found


def files_of(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted; hidden ones, which are half-made, left out."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def _earlier(path: Path) -> tuple[int, dict[str, RecordedFile]]:
    """When a record was written, in ns, and its files; nothing if there is none that is whole."""
    try:
        return path.stat().st_mtime_ns, read_record(path).files
    except (OSError, ArragError):
        return 0, {}


def _source(given: Source) -> dict[str, str]:
    path, digest = given if isinstance(given, tuple) else (given, None)
    return {"path": str(path), "digest": digest or digest_of(path)}
