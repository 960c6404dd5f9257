"""Files in tars, streamed in order; nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from arrag.data.sources import BROKEN, Items, chain_files, is_image, matching_files, printable
from arrag.utils.errors import FormatError
from arrag.utils.readers import short_message

DAMAGE = (
    *(tarfile.TarError, OSError, EOFError, ValueError, LookupError, ArithmeticError),
    *(MemoryError, RecursionError, lzma.LZMAError, zlib.error),
)
"""What ``tarfile`` raises at a damaged header or stream."""
MAX_BYTES = 2**29
"""Of an image's file in a tar; one that says more is a bomb, or no image."""


def open_tars(pattern: str, **_: object) -> Items:
    """Open the images of tars by a brace pattern; keys are ``tar/member``."""
    return chain_files(matching_files(pattern), partial(members, wanted=is_image))


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
                    key = f"{label}/{printable(member.name)}"
                    yield key, partial(_read_member, tar, member, path)
                tar.members = []  # a list of all members seen, of no use here
            offset = tar.offset
            # ``tarfile`` takes a damaged or missing header for the end, which is a block of zeros.
            tar.fileobj.seek(offset)
            block = tar.fileobj.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or any(block):
                raise tarfile.TarError("no end-of-archive block, and no valid header")
    except DAMAGE as error:
        raise _broken(path, max(0, offset), short_message(error)) from None


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if not 0 <= member.size <= MAX_BYTES:
        raise _broken(path, member.offset, f"{member.name} would be {member.size} bytes")
    try:
        data = tar.extractfile(member).read()
    except DAMAGE as error:
        raise _broken(path, member.offset, short_message(error)) from None
    if len(data) != member.size:
        raise _broken(path, member.offset, f"{member.name} has {len(data)} of {member.size} bytes")
    return data


def _broken(path: Path, offset: int, why: str) -> FormatError:
    return FormatError(f"broken tar ({why})", path=path, field=f"byte {offset}", hint=BROKEN)
