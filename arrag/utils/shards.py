"""Resumable writing of a folder in shards: the one mechanism behind every long stage.

A killed job keeps the shards it finished, and the same command continues after them::

    manifest.partial.json   the identity: what the shards are of, written before the first one
    shard-00000.npy ...     whole or absent, since each is renamed into place when it is complete
    manifest.json           written last; its presence says that the folder is complete

The partial manifest stays afterwards: Snakemake deletes the declared output of a job whose end it
missed, and the job must then find its shards again. Several jobs may write different shards of one
folder at once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, JsonValue, NonNegativeInt

from arrag.utils.errors import MismatchError, OutputError
from arrag.utils.files import read_model, write_json
from arrag.utils.hashing import check_file, sha256_file
from arrag.utils.locks import output_lock
from arrag.utils.outputs import atomic_path, clear_leftovers, is_temporary
from arrag.utils.readers import is_file_name
from arrag.utils.resource_errors import disk_space

Items = TypeVar("Items", bound=Sequence)
PARTIAL, FINAL = "manifest.partial.json", "manifest.json"


class JobPart(NamedTuple):
    """The share of one of several jobs that work on the same items: ``2-of-3``, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def slice(self, items: Items) -> Items:
        """The items of this job: parts are contiguous, and differ by one item at most."""
        first, last = (len(items) * i // self.count for i in (self.number - 1, self.number))
        return items[first:last]


def _plain_name(name: str) -> str:
    if not is_file_name(name):
        raise ValueError("must be the name of a file without a folder")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]
"""The name of a file in the folder of the manifest that lists it."""


class ShardFile(BaseModel):
    """A shard as a manifest lists it. Subclasses add what the shard holds."""

    file: FileName
    bytes: NonNegativeInt
    sha256: str

    @staticmethod
    def describe(path: Path) -> dict[str, Any]:
        """The fields of a finished shard, for a manifest."""
        return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}

    def check(self, folder: Path, hint: str, *, full: bool = False) -> None:
        """Raise ArragError unless the shard has its size and, if ``full``, its SHA-256."""
        sha256 = self.sha256 if full else None
        check_file(folder / self.file, says=FINAL, remedy=hint, size=self.bytes, sha256=sha256)


class ShardWriter:
    """Write the shards of a folder, and continue after a kill.

    Opening a folder that was begun with another identity either fails or starts afresh. The files
    of the folder that belong to the writer are those that match ``own``; no other file is removed.

    Args:
        folder: Directory to write; made if need be.
        identity: JSON-able; everything that the contents depend on (settings, digests, versions).
        own: Glob patterns of the names in ``folder`` that this kind of output consists of.
        partial: Name of the file that holds the identity.
        final: Name of the file that marks completeness. A folder that only grows, such as a cache,
            has none: never call ``finish`` there.
        restart: On another identity, remove the shards and start afresh instead of failing.

    Attributes:
        resumed: Whether the folder was begun earlier, with the same identity.

    Raises:
        MismatchError: The folder was begun with another identity; ``field`` is the first that
            differs.
        OutputError: The folder holds files that match ``own`` but no identity; or, on a restart,
            files that do not.
    """

    def __init__(
        self,
        folder: str | Path,
        identity: dict[str, Any],
        *,
        own: tuple[str, ...] = ("shard-*",),
        partial: str = PARTIAL,
        final: str = FINAL,
        restart: bool = False,
    ) -> None:
        self.folder, self.own = Path(folder), own
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it is read back
        self.partial, self.final = self.folder / partial, self.folder / final
        # Several jobs may begin the folder at the same time.
        with disk_space(self.folder), output_lock(self.partial):
            clear_leftovers(self.folder)
            begun = self._begun_with()
            if begun is not None and begun != self.identity:
                if not restart:
                    raise self._mismatch(begun)
                self.remove()
            self.resumed = begun == self.identity
            if not self.resumed and (found := self.shards()):
                raise OutputError(
                    f"holds {found[0].name}, but no {partial} that says what it is of",
                    path=self.folder,
                    hint="name another folder, or remove this one",
                )
            if not (self.partial.is_file() or self.complete):
                write_json(self.partial, self.identity)

    @property
    def complete(self) -> bool:
        """Whether the final manifest is there."""
        return self.final.is_file()

    def shards(self) -> list[Path]:
        """The whole shards: files in the folder that match ``own``, sorted by name."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if self._owns(path))

    def shard(self, number: int, suffix: str = ".npy") -> Path:
        """The path of a numbered shard."""
        return self.folder / f"shard-{number:05d}{suffix}"

    def write(self, path: Path, save: Callable[[Path], object]) -> None:
        """Write one file of the folder by ``save(temporary path)``; it is then whole on the disk.

        A shard of several files is whole when its last one is: write the others first.

        Raises:
            ResourceError: The disk is full.
        """
        with disk_space(path), atomic_path(path) as temporary:
            save(temporary)
            with open(temporary, "rb") as handle:  # a rename may outlive a power cut, its data not
                os.fsync(handle.fileno())

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write the final manifest, and return it."""
        with disk_space(self.final):
            write_json(self.final, manifest)
        return manifest

    def remove(self) -> None:
        """Remove what the writer wrote, and the folder when nothing is left in it.

        Raises:
            OutputError: The folder holds a file that no such writer wrote; nothing was removed.
        """
        paths = [path for path in self.folder.iterdir() if not is_temporary(path)]
        for path in paths:
            if not (self._owns(path) or path in (self.partial, self.final)):
                raise OutputError(
                    "is in a folder that would be written afresh, but does not belong to it",
                    path=path,
                    hint="move it elsewhere",
                )
        # The mark of completeness goes first and the identity last, in case of a kill in between.
        for path in sorted(paths, key=lambda path: (path != self.final, path == self.partial)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        with suppress(OSError):  # a lock or the temporary file of another job may be in it
            self.folder.rmdir()

    def _owns(self, path: Path) -> bool:
        return not is_temporary(path) and any(fnmatch(path.name, glob) for glob in self.own)

    def _begun_with(self) -> dict[str, Any] | None:
        """The identity in the folder; None if nothing was begun there."""
        for path in (self.partial, self.final):
            if path.is_file():
                found = read_model(path, dict[str, JsonValue])
                # A final manifest says more than the identity.
                return found if path == self.partial else {k: found.get(k) for k in self.identity}
        return None

    def _mismatch(self, begun: dict[str, Any]) -> MismatchError:
        field = next(
            name
            for name in {**self.identity, **begun}
            if name not in begun or begun[name] != self.identity.get(name, ...)
        )
        return MismatchError(
            f"is {begun.get(field)!r} there, and {self.identity.get(field)!r} in this run",
            path=self.partial if self.partial.is_file() else self.final,
            field=field,
            hint="write to another folder, or delete this one",
        )
