"""Files that others wrote: read whole, or refused in one sentence that names the file.

At damaged bytes a parser raises a dozen types, and some at mere depth or size. They are met here,
where the file is read, so that nothing else has to know them. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from arrag.utils.errors import ArragError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are read, whatever a file is called; Pillow's others include one that runs code."""
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow raises at damaged bytes; its decompression bombs are made a ValueError."""
BOMB_BYTES, BOMB_RATIO = 2**28, 200
"""A zip's member larger than this, of so many times its packed size, is no picture, no numbers."""
SHOWN = 200  # characters of a library's own words


def short_message(error: Exception) -> str:
    """A library's own words on one line, or the error's kind where it has none."""
    return " ".join(str(error).split())[:SHOWN] or type(error).__name__


def read_text(path: str | Path, what: str, remedy: str = "name another file") -> str:
    """UTF-8 text, a mark of the byte order left out. ArragError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError, as is no UTF-8
        raise ArragError(
            f"{path}: {what} cannot be read ({short_message(error)}); {remedy}"
        ) from None


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The numbers, from 1, and texts of the lines that are not blank.

    Only a line feed ends a line: the other ends that ``splitlines`` knows may stand inside JSON.
    """
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def parse_json(text: str) -> Any:
    """Parsed JSON. ValueError for any other text, nesting without end, half a character."""
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate), which is no text") from None
    return found


def open_picture(source: Path | str | bytes) -> Image:
    """Pillow's image of a file or of its bytes, one of PICTURES, not decoded yet.

    Raises one of UNREADABLE, as decoding it does; also for a pipe, which would never end.
    """
    from PIL import Image

    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif not Path(source).is_file():
        raise OSError("not a regular file" if Path(source).exists() else "no such file")
    try:
        return Image.open(source, formats=PICTURES)
    except Image.DecompressionBombError as error:
        raise ValueError(short_message(error)) from None


def read_npy(path: str | Path, remedy: str, kinds: str, ndim: int | None = None) -> np.ndarray:
    """The array of a .npy file, memory-mapped. ArragError when it is damaged or of another kind.

    kinds: letters of NumPy's ``dtype.kind`` that it may have.
    """
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive, not one array")
    except Exception as error:  # numpy, ast and mmap raise a dozen types here
        raise ArragError(f"{path}: cannot be read ({short_message(error)}); {remedy}") from None
    if array.dtype.kind not in kinds or ndim not in (None, array.ndim):
        raise ArragError(
            f"{path}: holds {array.dtype} {list(array.shape)}, which is not what belongs there; "
            f"{remedy}"
        )
    return array


def read_npz(
    path: str | Path, remedy: str, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of a .npz file, all or by name. ArragError when it is damaged, a bomb, lacks one."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            check_zip_bomb(archive.zip)
            held = {name: archive[name] for name in (names or archive.files)}
            if strangers := [name for name, a in held.items() if not isinstance(a, np.ndarray)]:
                raise ValueError(f"{strangers[0]} is no array")
            return held
    except Exception as error:  # numpy, zipfile, zlib and ast raise a dozen types here
        raise ArragError(f"{path}: cannot be read ({short_message(error)}); {remedy}") from None


def npz_names(path: str | Path, remedy: str) -> list[str]:
    """Names of the arrays of a .npz file. ArragError when it is none."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except Exception as error:  # as in read_npz
        raise ArragError(f"{path}: cannot be read ({short_message(error)}); {remedy}") from None


def is_file_name(text: str) -> bool:
    """Whether a text is the name of a file, without a folder."""
    return text not in ("", ".", "..") and "\0" not in text and Path(text).name == text


def escapes_folder(name: str) -> bool:
    """Whether a name that an archive or a server gives a file would leave the folder it goes to."""
    parts = PurePosixPath(name).parts
    return not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name


def check_zip_bomb(archive: zipfile.ZipFile) -> None:
    """BadZipFile for a member that is very large and was packed very small."""
    for member in archive.infolist():
        if member.file_size > max(BOMB_BYTES, BOMB_RATIO * member.compress_size):
            raise zipfile.BadZipFile(
                f"{member.filename} would be {member.file_size} bytes, packed into "
                f"{member.compress_size}"
            )
