"""An array with a row for each pair, computed once, shard by shard, by a job that can be killed.

shard-00000.npy   rows
manifest.json     what the rows are (its fields are the caller's), and the shards; written last
writing.json      the same for the shards done so far; it stays, as in a token store
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arrag.errors import ArragError
from arrag.files import atomic_path, check_file, disk_space, read_json, sha256_file, write_json

MANIFEST, WRITING = "manifest.json", "writing.json"


def write_shards(
    out: str | Path,
    header: dict[str, Any],
    total: int,
    rows_of: Callable[[np.ndarray], np.ndarray],
    *,
    rows_in_shard: int,
    rows_at_once: int,
    what: str,
) -> dict[str, Any]:
    """Write the rows ``rows_of`` gives for 0 ... total - 1; goes on after the last whole shard.

    rows_of: numbers int64 [n] (n up to ``rows_at_once``) -> array [n, ...]. header: JSON-able, what
    the rows depend on. Returns the manifest. Raises ArragError for a folder with another header,
    damaged shards or a full disk.
    """
    out = Path(out)
    if (out / MANIFEST).is_file():
        return _begun(out / MANIFEST, header)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.tmp"):
        shutil.rmtree(leftover)
    shards = _begun(out / WRITING, header)["shards"] if (out / WRITING).is_file() else []
    done = sum(shard["rows"] for shard in shards)
    with tqdm(desc=what, total=total, initial=done, unit="image") as bar, disk_space(out):
        while done < total:
            end, found = min(done + rows_in_shard, total), []
            for start in range(done, end, rows_at_once):
                found.append(rows_of(np.arange(start, min(start + rows_at_once, end))))
                bar.update(len(found[-1]))
            shards.append(_write(out / f"shard-{len(shards):05d}.npy", np.concatenate(found)))
            done = end
            write_json(out / WRITING, {**header, "shards": shards})
    write_json(out / MANIFEST, {**header, "shards": shards})
    return read_json(out / MANIFEST)


class Shards:
    """Finished rows, read through memory maps; manifest: dict.

    expected: fields of the header that must be so. Raises ArragError if unfinished, of another
    header or truncated; ``again`` tells the user what to do then.
    """

    def __init__(self, path: str | Path, expected: dict[str, Any], again: str) -> None:
        self.path = path = Path(path)
        if (path / WRITING).is_file() and not (path / MANIFEST).is_file():
            raise ArragError(f"{path}: not finished ({WRITING} without {MANIFEST}); {again}")
        self.manifest = read_json(path / MANIFEST)
        for field, wanted in expected.items():
            if self.manifest.get(field) != wanted:
                raise ArragError(
                    f"{path / MANIFEST}: {field} is {self.manifest.get(field)}, but {wanted} is in "
                    f"use; {again}"
                )
        for shard in self.manifest["shards"]:
            check_file(path / shard["file"], says=MANIFEST, remedy=again, size=shard["bytes"])
        self._shards = [
            np.load(path / shard["file"], mmap_mode="r", allow_pickle=False)
            for shard in self.manifest["shards"]
        ]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Some rows, in the order given: a copy [n, ...]."""
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        return np.stack(
            [self._shards[w][i - self._starts[w]] for w, i in zip(which, numbers, strict=True)]
        )


def _begun(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    state = read_json(path)
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
