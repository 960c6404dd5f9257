"""Images in the rows of Arrow and Parquet files, as Hugging Face ``datasets`` stores them.

The files are read with pyarrow: rows come one by one, in order, rows that are skipped cost nothing,
and damage is named with its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from arrag.data.images import Payload
from arrag.data.sources import Items, broken, chain_files, matching_files
from arrag.utils.errors import FormatError, MissingError, UsageError
from arrag.utils.files import read_model
from arrag.utils.readers import escapes_folder, parse_json
from arrag.utils.shards import FileName

ROWS_AT_ONCE = 64
"""Rows of a Parquet file held in memory."""
DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, LookupError, TypeError, MemoryError)
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class _Splits(BaseModel):
    splits: list[str]  # of dataset_dict.json


class _DataFile(BaseModel):
    filename: FileName


class _State(BaseModel):
    data_files: list[_DataFile] = Field(alias="_data_files")  # of state.json


def open_parquet(pattern: str, **_: object) -> Items:
    """Open the images of Parquet files by a brace pattern; keys are ``file/row``."""
    return chain_files(matching_files(pattern), parquet_rows)


def open_saved_dataset(location: str, **_: object) -> Items:
    """Open a folder that ``Dataset.save_to_disk`` wrote; keys are ``file/row``.

    Raises:
        UsageError: The folder holds several splits, of which one must be named, or is a cache.
        MissingError: A file of the data set is not there.
    """
    folder = Path(location)
    if (folder / "dataset_dict.json").is_file():
        splits = read_model(folder / "dataset_dict.json", _Splits).splits
        raise UsageError(
            f"holds the splits {', '.join(splits)}",
            path=folder,
            hint=f"name one, as in {folder / ''.join(splits[:1])}",
        )
    if not (folder / "state.json").is_file():
        raise UsageError(
            "holds dataset_info.json without state.json: not written by `save_to_disk`",
            path=folder,
            hint="save the data set with that, or name its Parquet files",
        )
    state = read_model(folder / "state.json", _State)
    files = [folder / file.filename for file in state.data_files]
    for file in files:
        if not file.is_file():
            raise MissingError("state.json lists it", path=file, hint="save the data set again")
    return chain_files(files, arrow_rows)


def arrow_rows(path: Path, label: str) -> Items:
    """Yield the images of an Arrow stream.

    Raises:
        FormatError: The file is damaged (when the damage is reached) or has no image column.
    """
    at = 0
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_stream(file)
            column, row = image_column(reader.schema, path), 0
            while True:
                at = file.tell()
                try:
                    cells = reader.read_next_batch().column(column)
                except StopIteration:
                    break
                cells.validate(full=True)
                for i in range(len(cells)):
                    yield f"{label}/{row}", partial(_payload, cells, i, path)
                    row += 1
            file.seek(at)  # a file cut between two batches would pass for a shorter one
            if file.read() != END_OF_STREAM:
                raise EOFError("no end-of-stream mark")
    except DAMAGE as error:
        raise broken(path, f"byte {at}", error) from None


def parquet_rows(path: Path, label: str) -> Items:
    """Yield the images of a Parquet file. Raises as ``arrow_rows`` does."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except DAMAGE as error:
        raise broken(path, "footer", error) from None
    with file:
        column, row = image_column(file.schema_arrow, path), 0
        for number in range(file.num_row_groups):
            load = _row_group(file, number, column, path)
            for i in range(file.metadata.row_group(number).num_rows):
                yield f"{label}/{row}", partial(load, i)
                row += 1


def _row_group(
    file: pq.ParquetFile, number: int, column: str, path: Path
) -> Callable[[int], Payload]:
    """A function that loads a row of a group. Rows must be asked for in ascending order."""
    batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=[column])
    first, cells = 0, []

    def load(row: int) -> Payload:
        nonlocal first, cells
        try:
            while row >= first + len(cells):
                first += len(cells)
                if (batch := next(batches, None)) is None:
                    raise EOFError("it has fewer rows than it says")
                cells = batch.column(0)
                cells.validate(full=True)
        except DAMAGE as error:
            raise broken(path, f"row group {number}", error) from None
        return _payload(cells, row - first, path)

    return load


def image_column(schema: pa.Schema, path: Path) -> str:
    """Find the column of images: marked as such, or binary; of several the one called ``image``.

    Raises:
        FormatError: There is none, or it cannot be told which.
    """
    found = _marked(schema) or [field.name for field in schema if _holds_bytes(field.type)]
    if len(found) > 1 and "image" in found:
        found = ["image"]
    if len(found) != 1:
        raise FormatError(
            f"{len(found)} of its columns ({', '.join(schema.names)}) hold images",
            path=path,
            hint="keep one such column, or call it `image`",
        )
    return found[0]


def _marked(schema: pa.Schema) -> list[str]:
    """Columns that ``datasets`` marks as images in the metadata, which may be malformed."""
    try:
        about = parse_json((schema.metadata or {}).get(b"huggingface", b"{}").decode())
        features = about["info"]["features"].items()
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
    kinds = {name: kind.get("_type") for name, kind in features if isinstance(kind, dict)}
    return [name for name, kind in kinds.items() if kind == "Image" and name in schema.names]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _payload(cells: pa.Array, row: int, path: Path) -> Payload:
    """Bytes of an image, or the path of its file; nothing at all is no image.

    A row may name a file below its own folder and no other: data do not say what is read here.
    """
    value = cells[row].as_py()
    if isinstance(value, dict):
        named = value.get("path")
        if value.get("bytes") is None and isinstance(named, str) and not escapes_folder(named):
            return path.parent / named
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""
