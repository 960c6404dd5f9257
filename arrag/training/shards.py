"""An array with a row for each pair, computed once, shard by shard, by jobs that can be killed.

shard-00000.npy       rows
manifest.json         what the rows are (its fields are the caller's), and the shards; written last
writing.json          the same for the shards done so far; it stays, as in a token store
writing-2-of-3.json   the same for those that the second of three jobs wrote
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arrag.utils.errors import ArragError
from arrag.utils.files import (
    atomic_path,
    check_file,
    clear_leftovers,
    disk_space,
    read_json,
    sha256_file,
    write_json,
)
from arrag.utils.readers import FileName, misfit, read_npy
from arrag.utils.sharding import Part

MANIFEST, WRITING = "manifest.json", "writing*.json"
SHARDS = {"shards": [{"file": FileName, "rows": int, "bytes": int, "sha256": str}]}


def write_shards(
    out: str | Path,
    header: dict[str, Any],
    total: int,
    rows_of: Callable[[np.ndarray], np.ndarray],
    *,
    rows_in_shard: int,
    rows_at_once: int,
    what: str,
    part: Part | None = None,
) -> dict[str, Any]:
    """Write the rows ``rows_of`` gives for 0 ... total - 1; shards that are whole are kept.

    rows_of: numbers int64 [n] (n up to ``rows_at_once``) -> array [n, ...]. header: JSON-able, what
    the rows depend on. part: write only that part of the shards, while other jobs write the others;
    a last call without it adds what is missing and the manifest. Returns the manifest, or what a
    part's would be. Raises ArragError for a folder with another header, damaged shards or a full
    disk.
    """
    out = Path(out)
    if (out / MANIFEST).is_file():
        return _begun(out / MANIFEST, header)
    out.mkdir(parents=True, exist_ok=True)
    rows = {
        out / f"shard-{i:05d}.npy": range(first, min(first + rows_in_shard, total))
        for i, first in enumerate(range(0, total, rows_in_shard))
    }
    own = part.share(list(rows)) if part else list(rows)
    record = out / (f"writing-{part}.json" if part else "writing.json")
    for path in (out / MANIFEST, record, *own):
        clear_leftovers(path)
    records = {path: _begun(path, header)["shards"] for path in out.glob(WRITING)}
    whole = {
        out / shard["file"]: shard
        for shards in records.values()
        for shard in shards
        if shard["rows"] == len(rows.get(out / shard["file"], ()))
    }
    written = records.get(record, [])
    done = sum(len(rows[file]) for file in own if file in whole)
    images = sum(len(rows[file]) for file in own)
    about = {"desc": f"{what} {part}" if part else what, "unit": "image"}
    with tqdm(total=images, initial=done, **about) as bar, disk_space(out):
        for file in [file for file in own if file not in whole]:
            found = []
            for start in rows[file][::rows_at_once]:
                found.append(rows_of(np.arange(start, min(start + rows_at_once, rows[file].stop))))
                bar.update(len(found[-1]))
            whole[file] = _write(file, np.concatenate(found))
            written.append(whole[file])
            write_json(record, {**header, "shards": written})
    manifest = {**header, "shards": [whole[file] for file in own]}
    if part is None:
        for path in out.glob(WRITING):
            path.unlink()
        write_json(out / "writing.json", manifest)
        write_json(out / MANIFEST, manifest)
    return manifest


class Shards:
    """Finished rows, read through memory maps; manifest: dict.

    expected: fields of the header that must be so. Raises ArragError if unfinished, of another
    header or truncated; ``again`` tells the user what to do then.
    """

    def __init__(self, path: str | Path, expected: dict[str, Any], again: str) -> None:
        self.path = path = Path(path)
        if any(path.glob(WRITING)) and not (path / MANIFEST).is_file():
            raise ArragError(f"{path}: not finished ({WRITING} without {MANIFEST}); {again}")
        self.manifest = read_json(path / MANIFEST, {})
        for field, wanted in expected.items():
            if self.manifest.get(field) != wanted:
                raise ArragError(
                    f"{path / MANIFEST}: {field} is {self.manifest.get(field)}, but {wanted} is in "
                    f"use; {again}"
                )
        if problem := misfit(self.manifest, SHARDS):
            raise ArragError(f"{path / MANIFEST}: {problem}; {again}")
        for shard in self.manifest["shards"]:
            check_file(path / shard["file"], says=MANIFEST, remedy=again, size=shard["bytes"])
        self._shards = [
            read_npy(path / shard["file"], again, "biuf") for shard in self.manifest["shards"]
        ]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Some rows, in the order given: a copy [n, ...]."""
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        return np.stack(
            [self._shards[w][i - self._starts[w]] for w, i in zip(which, numbers, strict=True)]
        )


def _begun(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    state = read_json(path, SHARDS)
    for field, ours in header.items():
        if state.get(field) != ours:
            raise ArragError(
                f"{path}: {field} is {state.get(field)}, this run has {ours}; write to another "
                "folder or delete this one"
            )
    for shard in state["shards"]:
        remedy = f"delete {path.parent} and run the same command again"
        check_file(path.parent / shard["file"], says=path.name, remedy=remedy, size=shard["bytes"])
    return state


def _write(file: Path, rows: np.ndarray) -> dict[str, Any]:
    with atomic_path(file) as partial, open(partial, "wb") as handle:
        np.save(handle, rows)
    size, digest = file.stat().st_size, sha256_file(file)
    return {"file": file.name, "rows": len(rows), "bytes": size, "sha256": digest}
