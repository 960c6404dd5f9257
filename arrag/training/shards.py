"""An array with a row for each pair, computed once, shard by shard, by jobs that can be killed.

The folder is as in :mod:`arrag.utils.shards`, with the rows in ``shard-00000.npy`` and so on, and a
manifest that says what the rows are (its fields are the caller's).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from tqdm import tqdm

from arrag.utils.errors import MismatchError, MissingError
from arrag.utils.files import read_model
from arrag.utils.readers import read_npy
from arrag.utils.shards import FINAL, PARTIAL, JobPart, ShardFile, ShardWriter

KINDS = "biuf"  # of numpy.dtype.kind


class RowShard(ShardFile):
    """One shard in the manifest."""

    rows: NonNegativeInt


class RowsManifest(BaseModel):
    """``manifest.json``; its other fields are the identity of the rows."""

    model_config = ConfigDict(extra="allow")
    shards: list[RowShard]


def write_shards(
    out: str | Path,
    header: dict[str, Any],
    total: int,
    rows_of: Callable[[np.ndarray], np.ndarray],
    *,
    rows_in_shard: int,
    rows_at_once: int,
    what: str,
    part: JobPart | None = None,
) -> dict[str, Any]:
    """Compute the rows 0 ... total - 1 and write them; shards that are whole are kept.

    Args:
        out: Folder to write.
        header: JSON-able; what the rows depend on.
        total: Number of rows.
        rows_of: Row numbers int64 [n], n <= ``rows_at_once``, to an array [n, ...].
        rows_in_shard: Rows of a shard.
        rows_at_once: Rows computed by one call of ``rows_of``.
        what: Name of the work, for the progress bar.
        part: Write only this part of the shards, while other jobs write the others. A last call
            without it adds what is missing and the manifest.

    Returns:
        The manifest, or what the manifest of the part would be.

    Raises:
        MismatchError: The folder was begun with another header.
        FormatError: A shard is damaged.
        ResourceError: The disk is full.
    """
    writer = ShardWriter(out, header)
    if writer.complete:
        return read_model(writer.final, RowsManifest).model_dump()
    ranges = {
        writer.shard(i): range(first, min(first + rows_in_shard, total))
        for i, first in enumerate(range(0, total, rows_in_shard))
    }
    own = part.slice(list(ranges)) if part else list(ranges)
    hint = f"delete {out} and run the same command again"
    sizes = {path: len(ranges[path]) for path in own}
    missing = [p for p in own if not p.exists() or len(read_npy(p, hint, KINDS)) != sizes[p]]
    rows_left, desc = sum(sizes[path] for path in missing), f"{what} {part}" if part else what
    all_rows = sum(sizes.values())
    with tqdm(total=all_rows, initial=all_rows - rows_left, desc=desc, unit="image") as bar:
        for path in missing:
            rows = []
            for start in ranges[path][::rows_at_once]:
                stop = min(start + rows_at_once, ranges[path].stop)
                rows.append(rows_of(np.arange(start, stop)))
                bar.update(len(rows[-1]))
            writer.write(path, partial(np.save, arr=np.concatenate(rows)))
    shards = [{**ShardFile.describe(path), "rows": sizes[path]} for path in own]
    manifest = {**header, "shards": shards}
    return manifest if part else writer.finish(manifest)


class Shards:
    """Finished rows, read through memory maps.

    Args:
        path: Folder written by ``write_shards``.
        expected: Fields of the header and the values they must have.
        again: What the user should do when they do not.

    Attributes:
        manifest: The contents of ``manifest.json``.

    Raises:
        MissingError: The folder is absent or not finished.
        MismatchError: The header is another.
        FormatError: The manifest or a shard is damaged.
    """

    def __init__(self, path: str | Path, expected: dict[str, Any], again: str) -> None:
        path = Path(path)
        if (path / PARTIAL).is_file() and not (path / FINAL).is_file():
            found = f"not finished: has {PARTIAL}, but no {FINAL}"
            raise MissingError(found, path=path, hint=again)
        manifest = read_model(path / FINAL, RowsManifest, again)
        self.path, self.manifest = path, manifest.model_dump()
        for field, wanted in expected.items():
            if (found := self.manifest.get(field)) != wanted:
                found = f"is {found}, but {wanted} is in use"
                raise MismatchError(found, path=path / FINAL, field=field, hint=again)
        for shard in manifest.shards:
            shard.check(path, again)
        self._shards = [read_npy(path / shard.file, again, KINDS) for shard in manifest.shards]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Some rows, in the order given: a copy [n, ...]."""
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        return np.stack(
            [self._shards[w][i - self._starts[w]] for w, i in zip(which, numbers, strict=True)]
        )
