"""The record beside every result: which files it has, with sizes and SHA-256, and what it is of.

``results/index/NAME/`` has ``results/index/NAME.record.json``, ``scores/NAME.json`` has
``scores/NAME.record.json``. It lies beside the result, for a folder's own digest must not change
with it, and is written when the result is whole. ``arrag verify`` reads it; nothing else depends on
it. A record ends in a digest of itself. Nothing here imports torch.

    files     {name, from the record's folder on: {bytes, sha256}}
    made_of   {role: {path, digest}}: what it was made of, with the digest as of ``digest_of``
    sha256    of all the rest, as JSON
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json
from arrag.utils.hashing import digest_of, sha256_file, sha256_json

SUFFIX = ".record.json"
FORMAT = 1
Source = Path | str | tuple[Path | str, str]
"""Where something lies, with its digest if that is known already."""


def record_of(result: str | Path) -> Path:
    """The record of a folder, or of a file whatever its form: table1.md and table1.csv share it."""
    result = Path(result)
    return result.with_name((result.name if result.is_dir() else result.stem) + SUFFIX)


def write_record(
    result: str | Path,
    *beside: str | Path,
    made_of: Mapping[str, Source | None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write the record of a folder or file, and of files ``beside`` it; returns its path.

    made_of: by role; None is left out. about: further fields. What is older than an earlier record
    keeps the digest that it had there: a file that changed although nobody wrote it is damaged, and
    must not be recorded as if it were right.
    """
    path, result = record_of(result), Path(result)
    since, earlier = _earlier(path)
    files = {}
    own = files_of(result) if result.is_dir() else [result]
    for file in [*own, *map(Path, beside)]:
        name = file.relative_to(path.parent).as_posix()
        found = file.stat()
        if name in earlier and found.st_ctime_ns <= since:
            files[name] = earlier[name]
        else:
            files[name] = {"bytes": found.st_size, "sha256": sha256_file(file)}
    sources = {role: _source(given) for role, given in (made_of or {}).items() if given is not None}
    record = {"format": FORMAT, "files": files, "made_of": sources, **(about or {})}
    write_json(path, record | {"sha256": sha256_json(record)})
    return path


def read_record(path: str | Path) -> dict[str, Any]:
    """A record's contents; ArragError if it is damaged, in whatever place."""
    record = read_json(path)
    remedy = "its result cannot be checked; make it again"
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ArragError(f"{path}: is no record of this version of arrag; {remedy}")
    rest = {name: value for name, value in record.items() if name != "sha256"}
    as_written = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    whole = sha256_json(rest) == record.get("sha256") and _well_formed(record)
    if not whole or Path(path).read_bytes() != as_written.encode():
        raise ArragError(f"{path}: is not as it was written; {remedy}")
    return record


def _well_formed(record: Mapping[str, Any]) -> bool:
    """Whether files and sources have what is read of them."""
    parts = (("files", {"bytes": int, "sha256": str}), ("made_of", {"path": str, "digest": str}))
    for name, fields in parts:
        entries = record.get(name)
        if not isinstance(entries, dict):
            return False
        for entry in entries.values():
            if not isinstance(entry, dict) or entry.keys() != fields.keys():
                return False
            if not all(isinstance(entry[field], kind) for field, kind in fields.items()):
                return False
    return True


def files_of(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted; hidden ones, which are half-made, left out."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def _earlier(path: Path) -> tuple[int, dict[str, Any]]:
    """When a record was written, in ns, and its files; nothing if there is none that is whole."""
    try:
        return path.stat().st_mtime_ns, read_record(path)["files"]
    except (OSError, ArragError):
        return 0, {}


def _source(given: Source) -> dict[str, str]:
    path, digest = given if isinstance(given, tuple) else (given, None)
    return {"path": str(path), "digest": digest or digest_of(path)}


def score_record(
    out: Path,
    score: Mapping[str, Any],
    prompts: Path | None,
    models: Mapping[str, str | Path | None],
    *beside: Path,
) -> None:
    """The record of a score: of which images, prompts and judges, as far as they lie here.

    Images that no stage made, which may change at will, are not held against it.
    """
    made_of: dict[str, Source | None] = {"prompts": prompts}
    sides = {"samples": ("images", "run.json"), "reference": ("reference", "meta_data.json")}
    for role, (field, last) in sides.items():
        path = Path(score.get(field, {}).get("path", ""))
        if (path / last).is_file():
            made_of[role] = (path, score[field]["sha256"])
        elif path.is_file():
            made_of[role] = path
    for role, model in models.items():
        if model is not None and Path(model).exists():
            made_of[role] = Path(model)
    write_record(out, *beside, made_of=made_of)
