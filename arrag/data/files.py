"""Images in folders, and in tars, which are streamed in order and never unpacked to disk."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from arrag.data.arrow import parquet_rows
from arrag.data.images import SUFFIXES
from arrag.data.sources import ADVICE, Items, broken, chain_files, matching_files
from arrag.utils.errors import MissingError, UsageError
from arrag.utils.globs import PARQUET

DAMAGE = (
    *(tarfile.TarError, OSError, EOFError, ValueError, LookupError, ArithmeticError),
    *(MemoryError, RecursionError, lzma.LZMAError, zlib.error),
)
"""What ``tarfile`` raises at a damaged header or stream."""
MAX_BYTES = 2**29
"""Of an image's file in a tar; one that says more is a bomb, or no image."""


def open_folder(location: str, **_: object) -> Items:
    """Open one image, or all images or all Parquet files below a folder."""
    folder = Path(location)
    if folder.is_file() and _is_image(folder.name):
        return iter([(folder.name, partial(Path, folder))])
    if not folder.is_dir():
        raise MissingError("no such folder", path=folder, hint=ADVICE)
    found = sorted(p for p in folder.rglob("*") if _is_image(p.name))
    tables = sorted(p for p in folder.rglob(f"*{PARQUET}") if not p.name.startswith("."))
    if found and tables:
        raise UsageError(
            f"holds {len(found)} images and {len(tables)} Parquet files",
            path=folder,
            hint=f"name what is meant, as in {tables[0]}, or keep them apart",
        )
    if tables:
        return chain_files(tables, parquet_rows)
    return ((_printable(str(p.relative_to(folder))), partial(Path, p)) for p in found)


def open_tars(pattern: str, **_: object) -> Items:
    """Open the images of tars by a brace pattern; keys are ``tar/member``."""
    return chain_files(matching_files(pattern), partial(members, wanted=_is_image))


def members(path: Path, label: str, wanted: Callable[[str], bool]) -> Items:
    """Yield the files of a tar whose name is ``wanted``; keys are ``label/member``.

    Raises:
        FormatError: The tar is broken; raised at the byte where it is.
    """
    offset = -1
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.offset <= offset:
                    raise tarfile.TarError("a header of a size below zero")
                offset = member.offset
                if member.isfile() and wanted(member.name):
                    yield f"{label}/{_printable(member.name)}", partial(_read, tar, member, path)
                tar.members = []  # a list of all members seen, of no use here
            offset = tar.offset
            # ``tarfile`` takes a damaged or missing header for the end, which is a block of zeros.
            tar.fileobj.seek(offset)
            block = tar.fileobj.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or any(block):
                raise tarfile.TarError("no end-of-archive block, and no valid header")
    except DAMAGE as error:
        raise broken(path, f"byte {max(0, offset)}", error) from None


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    try:
        if not 0 <= member.size <= MAX_BYTES:
            raise tarfile.TarError(f"{member.name} would be {member.size} bytes")
        data = tar.extractfile(member).read()
        if len(data) != member.size:
            raise EOFError(f"{member.name} has {len(data)} of {member.size} bytes")
        return data
    except DAMAGE as error:
        raise broken(path, f"byte {member.offset}", error) from None


def _is_image(name: str) -> bool:
    """Whether a file name is that of an image; files that begin with a dot are not."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _printable(name: str) -> str:
    """A file's name as a text: bytes that are not UTF-8, which JSON cannot hold, written out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
