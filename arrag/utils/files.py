"""Files that are either whole or absent, and the digests that name them."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arrag.utils.errors import ArragError, FormatError
from arrag.utils.readers import misfit, parse_json

OWNER = ".arrag.json"
"""Lists the files of a folder that arrag wrote; what is not listed there is somebody else's."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    The block may create a file or a directory there. On any exception the temporary is removed
    and ``path`` is as before. A symbolic link is followed, so that its target is replaced.

    Raises:
        ArragError: ``path`` may not be replaced, see ``check_replaceable``; nothing was changed.
    """
    path = Path(os.path.realpath(path))
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    temporary = holder / path.name
    lock = _locked(holder)  # it ends with the process, however that ends
    try:
        yield temporary
        if temporary.is_dir():
            _list_files(temporary)
        check_replaceable(path, by_folder=temporary.is_dir())
        if path.is_dir():
            # A directory cannot be replaced in one step: move the old one out of the way first.
            os.replace(path, holder / f"{path.name}.old")
        os.replace(temporary, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_replaceable(path: str | Path, *, by_folder: bool | None = None) -> None:
    """Raise ArragError unless an output may take the place of ``path``.

    A file may replace a file. A folder may replace an empty folder, or one that holds only files
    that arrag listed in it when it wrote it. Devices, mount points, the home folder, the working
    folder and their parents are never replaced.

    Args:
        path: The output. It need not exist.
        by_folder: Whether the output is a folder; None when that is not known yet.
    """
    path = Path(os.path.realpath(path))
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        if not path.is_file():
            raise ArragError(f"{path}: is a device, pipe or socket; name a file or a new folder")
        if by_folder:
            raise ArragError(f"{path}: is a file, and the output is a folder; name a new folder")
        return
    if by_folder is False:
        raise ArragError(f"{path}: is a folder, and the output is a file; name a file in it")
    kept = [Path.cwd(), Path.home()]
    if os.path.ismount(path) or any(here.is_relative_to(path) for here in kept):
        raise ArragError(
            f"{path}: is a mount point, or holds the home or working folder; name a new folder"
        )
    if foreign := _foreign_file(path):
        raise ArragError(
            f"{path}: holds {foreign}, which this command did not write; name a new folder, or "
            "remove this one yourself"
        )


def remove_output(path: str | Path) -> None:
    """Remove an output folder. Raises ArragError if it is not arrag's, see check_replaceable."""
    check_replaceable(path, by_folder=True)
    shutil.rmtree(path)


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


def is_temporary(path: str | Path) -> bool:
    """Whether a file has a name that arrag or Snakemake gives, and never a user."""
    name = Path(path).name
    hidden = name.startswith(".") and name.endswith((".tmp", ".lock"))
    return hidden or name in (OWNER, ".snakemake_timestamp")


def clear_leftovers(path: str | Path) -> None:
    """Remove what killed writers of ``path`` left, and nothing of one still at work.

    That is: beside it, also of files with its stem (a table's other forms), and in it.
    """
    path = Path(path)
    holders = list(path.parent.glob(f".{glob.escape(path.stem)}.*.tmp"))
    holders += path.glob(".*.tmp") if path.is_dir() else []
    for holder in filter(Path.is_dir, holders):
        lock = _locked(holder)
        if lock is None:
            continue
        name = holder.name[1:].rsplit(".", 2)[0]
        old, target = holder / f"{name}.old", holder.parent / name
        if old.exists() and not target.exists():  # killed between the two moves
            os.replace(old, target)
        shutil.rmtree(holder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None if another process does, or it has none."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk; to a user a used-up quota and a limit on the size of files are the same."""


@contextmanager
def disk_space(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk into an ArragError that names what was to be written."""
    try:
        yield
    except Exception as error:
        if not _no_room(error):
            raise
        raise ArragError(
            f"{path}: no room: the disk is full, or a quota or limit is reached; free some space "
            "or write elsewhere (what was whole there before still is)"
        ) from None


def _no_room(error: Exception) -> bool:
    said = str(error)
    if isinstance(error, OSError):  # NumPy's own error of a short write has no number
        return error.errno in NO_ROOM or (error.errno is None and "requested and" in said)
    # torch.save's short write, and what safetensors was told by the system.
    return (isinstance(error, RuntimeError) and "unexpected pos" in said) or any(
        said.endswith(f"(os error {number})") for number in NO_ROOM
    )


def link(source: Path, target: Path) -> None:
    """Let ``target`` be the file ``source`` without a copy: a hard link, else a symbolic one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        target.symlink_to(source)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(obj, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path, form: Any = None) -> Any:
    """Read a JSON file; a missing or malformed one is an ArragError that names it.

    form: what it must hold, as ``arrag.utils.readers.misfit`` has it.
    """
    path = Path(path)
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArragError(f"{path}: no such file; make it first or correct the path") from None
    except (OSError, ValueError) as error:
        raise ArragError(f"{path}: not valid JSON ({error}); delete it and make it again") from None
    if problem := misfit(found, form):
        raise ArragError(f"{path}: {problem}; restore it, or delete it and make it again")
    return found


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(obj: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``obj`` (sorted keys, no spaces)."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_file(
    path: Path, *, says: str, remedy: str, size: int | None = None, sha256: str | None = None
) -> None:
    """Raise ArragError unless ``path`` has the size in bytes and the SHA-256 that are given.

    ``says`` is the file that states them; ``remedy`` tells the user what to do.
    """
    if not path.exists():
        raise ArragError(f"{path}: missing; {remedy}")
    found = path.stat().st_size
    if size is not None and found != size:
        raise ArragError(
            f"{path}: {found} bytes, {says} says {size}: truncated or altered; {remedy}"
        )
    if sha256 is not None and (digest := sha256_file(path)) != sha256:
        raise ArragError(f"{path}: SHA-256 is {digest}, {says} says {sha256}; {remedy}")


def tree_digest(directory: str | Path) -> str:
    """Hex SHA-256 over the names and bytes of all files below ``directory``, Markdown left out.

    Model cards may be edited without changing what a model computes, hence the exception.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ArragError(f"{root}: no such directory; make it first or correct the path")
    names = sorted(
        p
        for p in root.rglob("*")
        if p.is_file() and p.suffix not in {".md", ".png"} and p.name != OWNER
    )
    return sha256_json([[str(p.relative_to(root)), sha256_file(p)] for p in names])


def read_model(path: str | Path, model: Any, hint: str = "restore it, or make it again") -> Any:
    """Read a JSON file into a pydantic model.

    Args:
        path: A UTF-8 JSON file.
        model: A pydantic model class, or any type that ``pydantic.TypeAdapter`` takes.
        hint: What the user should do about a bad file.

    Returns:
        The validated object.

    Raises:
        MissingError: There is no such file.
        FormatError: It is not JSON, or a field is missing, unknown or of another type; ``field``
            names the first such field.
    """
    from pydantic import TypeAdapter, ValidationError

    found = read_json(path)
    try:
        return TypeAdapter(model).validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        raise FormatError(first["msg"], path=path, field=field, hint=hint) from None
