"""Outputs that are either whole or absent, and that replace only what arrag wrote."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from arrag.utils.errors import OutputError

OWNER = ".arrag.json"
"""Lists the files of a folder that arrag wrote; any other file there belongs to the user."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it when the block succeeds.

    The block may create a file or a directory there. On any exception the temporary is removed
    and ``path`` is as before. A symbolic link is followed, so that its target is replaced.

    Raises:
        OutputError: ``path`` may not be replaced, see ``check_replaceable``; nothing was changed.
    """
    path = Path(os.path.realpath(path))
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder, lock = _locked_holder(path)
    temporary, old = holder / path.name, holder / f"{path.name}.old"
    try:
        yield temporary
        if temporary.is_dir():
            _list_files(temporary)
        check_replaceable(path, by_folder=temporary.is_dir())
        try:
            if path.is_dir():
                # A directory cannot be replaced in one step: move the old one away first.
                os.replace(path, old)
            os.replace(temporary, path)
        except BaseException:
            if old.exists() and not os.path.lexists(path):
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_holder(path: Path) -> tuple[Path, int | None]:
    """Make a temporary folder next to ``path`` and lock it; the lock ends with the process.

    ``clear_leftovers`` of another process may remove the folder before it is locked: then another
    one is made. The lock is None on a file system without locks.
    """
    while True:
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        lock = _try_lock(holder)
        if lock is None and holder.exists():
            return holder, None
        if lock is not None:
            if holder.exists() and os.path.samestat(os.fstat(lock), holder.stat()):
                return holder, lock
            os.close(lock)


def check_replaceable(path: str | Path, *, by_folder: bool | None = None) -> None:
    """Check that an output may take the place of ``path``.

    A file may replace a file. A folder may replace an empty folder, or one that holds only files
    that arrag listed in it when it wrote it. Devices, mount points, the home folder, the working
    folder and their parents are never replaced.

    Args:
        path: The output. It need not exist.
        by_folder: Whether the output is a folder; None when that is not known yet.

    Raises:
        OutputError: It may not.
    """
    path = Path(os.path.realpath(path))
    if not os.path.lexists(path):
        return
    message, hint = None, "name a new folder"
    if not path.is_dir():
        if not path.is_file():
            message, hint = "is a device, pipe or socket", "name a file or a new folder"
        elif by_folder:
            message = "is a file, and the output is a folder"
    elif by_folder is False:
        message, hint = "is a folder, and the output is a file", "name a file in it"
    elif os.path.ismount(path) or any(p.is_relative_to(path) for p in (Path.cwd(), Path.home())):
        message = "is a mount point, or holds the home or working folder"
    elif foreign := _foreign_file(path):
        message = f"holds {foreign}, which this command did not write"
        hint = "name a new folder, or remove this one yourself"
    if message:
        raise OutputError(message, path=path, hint=hint)


def remove_output(path: str | Path) -> None:
    """Remove an output folder.

    Raises:
        OutputError: It is not arrag's, see ``check_replaceable``.
    """
    check_replaceable(path, by_folder=True)
    shutil.rmtree(path)


def clear_leftovers(path: str | Path) -> None:
    """Remove the temporary folders of killed writers of ``path``, and of no live one.

    They are next to it, also those of files with the same stem (a table's other forms), and in it.
    """
    path = Path(path)
    holders = list(path.parent.glob(f".{glob.escape(path.stem)}.*.tmp"))
    holders += path.glob(".*.tmp") if path.is_dir() else []
    for holder in filter(Path.is_dir, holders):
        lock = _try_lock(holder)
        if lock is None:
            continue
        name = holder.name[1:].rsplit(".", 2)[0]
        old, target = holder / f"{name}.old", holder.parent / name
        if old.exists() and not target.exists():  # killed between the two moves
            os.replace(old, target)
        shutil.rmtree(holder, ignore_errors=True)
        os.close(lock)


def is_temporary(path: str | Path) -> bool:
    """Whether a file has a name that arrag or Snakemake gives, and never a user."""
    name = Path(path).name
    hidden = name.startswith(".") and name.endswith((".tmp", ".lock"))
    return hidden or name in (OWNER, ".snakemake_timestamp")


def link(source: Path, target: Path) -> None:
    """Make ``target`` the file ``source`` without a copy: a hard link, else a symbolic one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        target.symlink_to(source)


def _list_files(folder: Path) -> None:
    """Write into ``folder`` the list of its files, which makes it replaceable later."""
    listed = {"files": [*_names_below(folder)]}
    (folder / OWNER).unlink(missing_ok=True)  # it may be a link to another folder's
    (folder / OWNER).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _foreign_file(folder: Path) -> str | None:
    """The first file below a folder that arrag did not list there; None if there is none."""
    try:
        listed = json.loads((folder / OWNER).read_text(encoding="utf-8"))["files"]
        own = set(listed)
    except (OSError, ValueError, TypeError, KeyError):
        own = set()
    return next((name for name in _names_below(folder) if name not in own), None)


def _names_below(folder: Path) -> Iterator[str]:
    """Sorted names of the files and links below a folder, without locks and partial files."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = sorted(f for f in folders if f not in links and not is_temporary(f))
        for name in sorted([*names, *links]):
            if not is_temporary(name):
                yield Path(parent, name).relative_to(folder).as_posix()


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None if a live process does, or it has none."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        locked = lock_descriptor(handle, blocking=False)
    except OSError:  # a file system without locks
        locked = False
    if not locked:
        os.close(handle)
        return None
    return handle
