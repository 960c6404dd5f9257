"""Where images come from: folders, WebDataset tars, data sets and the built-in world, in order.

A source is an iterator of (key, load). ``load`` returns what ``arrag.data.images.decode`` takes;
it must
be called before the iterator moves on, or not at all, which costs nothing but a tar's header.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from arrag.data.images import SUFFIXES, MicroScene, Payload
from arrag.utils.errors import ArragError
from arrag.utils.globs import PARQUET, TARS, files_of
from arrag.utils.readers import short_message

Items = Iterator[tuple[str, Callable[[], Payload]]]
DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    lzma.LZMAError,
    zlib.error,
)
"""What ``tarfile`` raises at a damaged header or stream."""
LARGEST = 2**29
"""Bytes of an image's file in a tar; one that says more is a bomb, or no image."""
ADVICE = (
    "give a folder of images, tars (`data-{000..099}.tar`), a folder of Hugging Face datasets, "
    "Parquet files or `micro:database`"
)


def open_source(source: str, limit: int | None, assets: str | Path | None) -> Items:
    """The first ``limit`` images of a source.

    source: one image; a folder of images (found recursively, in name order); a tar, or several by
    a brace pattern, whose keys are ``tar/member``; a folder that Hugging Face ``datasets`` saved,
    Parquet files by a brace pattern, or a folder of them, whose keys are ``file/row``; or
    ``micro:SPLIT``, which needs ``limit`` and ``assets``. Raises ArragError for a source that
    cannot be used, at once or, for a damaged file, when it is reached.
    """
    if source.partition(":")[0] == "micro":
        return _scenes(source.partition(":")[2] or "database", limit, assets)
    if source.endswith(TARS):
        items = _parts(_matching(source), _one_tar)
    elif source.endswith(PARQUET):
        items = _parts(_matching(source), _rows)
    else:
        items = _files(Path(source))
    return islice(items, limit)


def _scenes(split: str, limit: int | None, assets: str | Path | None) -> Items:
    from arrag.data.micro.world import SPLITS

    if split not in SPLITS:
        raise ArragError(f"micro:{split}: no such split; one of {', '.join(SPLITS)}")
    if limit is None or assets is None:
        raise ArragError(f"micro:{split}: is endless; say how many images (and where the assets)")
    return ((f"{split}/{i}", partial(MicroScene, str(assets), split, i)) for i in range(limit))


def _files(folder: Path) -> Items:
    if folder.is_file() and is_image(folder.name):
        return iter([(folder.name, partial(Path, folder))])
    if not folder.is_dir():
        raise ArragError(f"{folder}: no such folder; {ADVICE}")
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        from arrag.data.arrow import saved_files

        return _parts(saved_files(folder), _rows)
    found = sorted(p for p in folder.rglob("*") if is_image(p.name))
    tables = sorted(p for p in folder.rglob(f"*{PARQUET}") if not p.name.startswith("."))
    if found and tables:
        raise ArragError(
            f"{folder}: holds {len(found)} images and {len(tables)} Parquet files; name what is "
            f"meant, as in {tables[0]}, or keep them apart"
        )
    if tables:
        return _parts(tables, _rows)
    return ((printable(str(p.relative_to(folder))), partial(Path, p)) for p in found)


def _matching(pattern: str) -> list[Path]:
    files = [Path(name) for name in files_of(pattern)]
    for file in files:
        if not file.is_file():
            raise ArragError(f"{file}: no such file; {ADVICE}")
    return files


def _parts(files: list[Path], read: Callable[[Path, str], Items]) -> Items:
    """The items of some files, one file after the other."""
    names = [file.name for file in files]
    # The file's name tells files apart, unless two folders have one of the same name.
    labels = names if len(set(names)) == len(names) else [str(file) for file in files]
    return (item for file, label in zip(files, labels, strict=True) for item in read(file, label))


def _rows(path: Path, label: str) -> Items:
    from arrag.data.arrow import arrow_rows, parquet_rows

    return (parquet_rows if path.name.endswith(PARQUET) else arrow_rows)(path, label)


def _one_tar(path: Path, label: str) -> Items:
    """Images of a tar."""
    return members(path, label, is_image)


def members(path: Path, label: str, wanted: Callable[[str], bool]) -> Items:
    """Files of a tar by name, streamed; nothing is unpacked to disk. Keys are ``label/member``.

    Raises ArragError at the byte where it is broken.
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
            _check_end(tar, path)
    except DAMAGE as error:
        raise _broken(path, max(0, offset), short_message(error)) from None


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if not 0 <= member.size <= LARGEST:
        raise _broken(path, member.offset, f"{member.name} would be {member.size} bytes")
    try:
        data = tar.extractfile(member).read()
    except DAMAGE as error:
        raise _broken(path, member.offset, short_message(error)) from None
    if len(data) != member.size:
        raise _broken(path, member.offset, f"{member.name} has {len(data)} of {member.size} bytes")
    return data


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """``tarfile`` takes a damaged or missing header for the end; the end is a block of zeros."""
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise _broken(path, tar.offset, "it ends without the mark of its end")
    if any(block):
        raise _broken(path, tar.offset, "no valid header there")


def _broken(path: Path, offset: int, why: str) -> ArragError:
    return ArragError(
        f"{path}: broken tar at byte {offset} ({why}); fetch it again, then run the same command, "
        "which goes on after the last whole shard"
    )


def printable(name: str) -> str:
    """A file's name as a text: bytes that are no UTF-8, which no JSON can hold, written out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; files that begin with a dot are not."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
