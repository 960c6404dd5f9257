"""Sources of images: folders, WebDataset tars, data sets, and the micro world, read in order.

To add a kind, register a function of its location::

    @IMAGE_SOURCES.register("lmdb")
    def open_lmdb(location, *, limit, assets): ...  # yields (key, load) pairs

It is then opened as ``lmdb:LOCATION``. The readers are our own because those of ``datasets`` and
``webdataset`` take a truncated file for a shorter one and do not say which image is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from arrag.data.images import MicroScene, Payload
from arrag.utils.errors import FormatError, MissingError, UsageError
from arrag.utils.globs import PARQUET, TARS, files_of
from arrag.utils.readers import short_message
from arrag.utils.registry import Registry

Items = Iterator[tuple[str, Callable[[], Payload]]]
"""The images of a source: keys, and functions that load them."""

IMAGE_SOURCES: Registry[Callable[..., Items]] = Registry(
    "image source",
    {
        "folder": "arrag.data.files:open_folder",
        "tar": "arrag.data.files:open_tars",
        "parquet": "arrag.data.arrow:open_parquet",
        "huggingface": "arrag.data.arrow:open_saved_dataset",
        "micro": "arrag.data.sources:open_micro",
    },
)
ADVICE = (
    "give a folder of images, tars (`data-{000..099}.tar`), a folder of Hugging Face datasets, "
    "Parquet files or `micro:database`"
)


def open_source(source: str, limit: int | None, assets: str | Path | None) -> Items:
    """Open the first ``limit`` images of a source.

    Args:
        source: One image; a folder of images (found recursively, in name order); a tar, or several
            by a brace pattern, whose keys are ``tar/member``; a folder that Hugging Face
            ``datasets`` saved, Parquet files by a brace pattern, or a folder of them, whose keys
            are ``file/row``; ``micro:SPLIT``, which needs ``limit`` and ``assets``; or
            ``KIND:LOCATION`` of any other registered kind.
        limit: At most so many images; None: all.
        assets: Assets of the micro world.

    Returns:
        An iterator of (key, load). ``load`` returns what ``arrag.data.images.decode`` takes; it
        must be called before the iterator advances, or not at all, which costs almost nothing.

    Raises:
        ArragError: The source cannot be used: at once or, for a damaged file, when it is reached.
    """
    kind, colon, location = source.partition(":")
    if not (kind == "micro" or (colon and kind in IMAGE_SOURCES)):
        kind, location = "folder", source
        if source.endswith(TARS):
            kind = "tar"
        elif source.endswith(PARQUET):
            kind = "parquet"
        elif any((Path(source) / f"dataset_{name}.json").is_file() for name in ("info", "dict")):
            kind = "huggingface"
    return islice(IMAGE_SOURCES.get(kind)(location, limit=limit, assets=assets), limit)


def open_micro(split: str, *, limit: int | None, assets: str | Path | None) -> Items:
    """Open scenes of a split of the micro world."""
    from arrag.data.micro.world import SPLITS

    split = split or "database"
    if split not in SPLITS:
        hint = f"name one of {', '.join(SPLITS)}"
        raise UsageError("no such split", field=f"micro:{split}", hint=hint)
    if limit is None or assets is None:
        raise UsageError(
            "has no end", field=f"micro:{split}", hint="give the number of images and the assets"
        )
    return ((f"{split}/{i}", partial(MicroScene, str(assets), split, i)) for i in range(limit))


def matching_files(pattern: str) -> list[Path]:
    """The files of a brace pattern; MissingError if one is not there."""
    files = [Path(name) for name in files_of(pattern)]
    for file in files:
        if not file.is_file():
            raise MissingError("no such file", path=file, hint="correct the pattern or fetch it")
    return files


def chain_files(files: Sequence[Path], read: Callable[[Path, str], Items]) -> Items:
    """The items of some files, one file after the other; ``read`` takes a file and its label."""
    names = [file.name for file in files]
    # The file's name tells files apart, unless two folders have one of the same name.
    labels = names if len(set(names)) == len(names) else [str(file) for file in files]
    return (item for file, label in zip(files, labels, strict=True) for item in read(file, label))


def broken(path: Path, place: str, error: Exception) -> FormatError:
    """The error for a damaged file of a source."""
    hint = "fetch it again, then run the same command, which continues after the last whole shard"
    return FormatError(f"broken ({short_message(error)})", path=path, field=place, hint=hint)
