"""Images in folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from arrag.data.arrow import parquet_rows
from arrag.data.sources import ADVICE, Items, chain_files, is_image, printable
from arrag.utils.errors import MissingError, UsageError
from arrag.utils.globs import PARQUET


def open_folder(location: str, **_: object) -> Items:
    """Open one image, or all images or all Parquet files below a folder."""
    folder = Path(location)
    if folder.is_file() and is_image(folder.name):
        return iter([(folder.name, partial(Path, folder))])
    if not folder.is_dir():
        raise MissingError("no such folder", path=folder, hint=ADVICE)
    found = sorted(p for p in folder.rglob("*") if is_image(p.name))
    tables = sorted(p for p in folder.rglob(f"*{PARQUET}") if not p.name.startswith("."))
    if found and tables:
        raise UsageError(
            f"holds {len(found)} images and {len(tables)} Parquet files",
            path=folder,
            hint=f"name what is meant, as in {tables[0]}, or keep them apart",
        )
    if tables:
        return chain_files(tables, parquet_rows)
    return ((printable(str(p.relative_to(folder))), partial(Path, p)) for p in found)
