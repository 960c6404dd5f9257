"""Images in the rows of Arrow and Parquet files, as Hugging Face ``datasets`` keeps them on disk.

The files are read with pyarrow itself: rows come one by one, in order, those passed by cost
nothing, and damage is named with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from arrag.data.images import Payload
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.readers import FileName, outside, parse_json, short_message

Rows = Iterator[tuple[str, Callable[[], Payload]]]
ROWS_AT_ONCE = 64
"""Of a Parquet file, held in memory."""
DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, LookupError, TypeError, MemoryError)
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that ``Dataset.save_to_disk`` wrote, in their order.

    Raises ArragError for a folder of several splits, of which one must be named, for a folder of
    a cache, and for a file that is not there.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json", {"splits": [str]})["splits"]
        raise ArragError(
            f"{folder}: holds the splits {', '.join(splits)}; name one, as in "
            f"{folder / ''.join(splits[:1])}"
        )
    if not (folder / "state.json").is_file():
        raise ArragError(
            f"{folder}: holds dataset_info.json without state.json, so it was not written by "
            "`save_to_disk`; save the data set with that, or name its Parquet files"
        )
    state = read_json(folder / "state.json", {"_data_files": [{"filename": FileName}]})
    files = [folder / about["filename"] for about in state["_data_files"]]
    for file in files:
        if not file.is_file():
            raise ArragError(f"{file}: missing, but state.json beside it names it; save it again")
    return files


def arrow_rows(path: Path, label: str) -> Rows:
    """Images of an Arrow stream; keys are ``label/row``.

    Raises ArragError for a damaged file, when the damage is reached, or one without an image
    column.
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
                raise EOFError("it ends without the mark of its end")
    except DAMAGE as error:
        raise _broken(path, at, error) from None


def parquet_rows(path: Path, label: str) -> Rows:
    """Images of a Parquet file; keys are ``label/row``. Errors as in ``arrow_rows``."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except DAMAGE as error:
        raise _broken(path, max(0, path.stat().st_size - 8), error) from None
    with file:
        column, row = image_column(file.schema_arrow, path), 0
        for number in range(file.num_row_groups):
            group = _RowGroup(file, number, column, path)
            for i in range(group.rows):
                yield f"{label}/{row}", partial(group.load, i)
                row += 1


class _RowGroup:
    """One group of rows; nothing is read before the first row is loaded."""

    def __init__(self, file: pq.ParquetFile, number: int, column: str, path: Path) -> None:
        about = file.metadata.row_group(number)
        self.rows, self._path = about.num_rows, path
        parts = [about.column(i) for i in range(about.num_columns)]
        self._at = min(
            part.dictionary_page_offset or part.data_page_offset
            for part in parts
            if part.path_in_schema.split(".")[0] == column
        )
        self._batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=[column])
        self._first, self._cells = 0, []

    def load(self, row: int) -> Payload:
        """Rows must be asked for in ascending order."""
        try:
            while row >= self._first + len(self._cells):
                self._first += len(self._cells)
                self._cells = next(self._batches).column(0)
                self._cells.validate(full=True)
        except (*DAMAGE, StopIteration) as error:
            raise _broken(self._path, self._at, error) from None
        return _payload(self._cells, row - self._first, self._path)


def image_column(schema: pa.Schema, path: Path) -> str:
    """The column of images: marked as such, or binary; of several the one called ``image``.

    Raises ArragError if there is none, or no telling which.
    """
    features = _features(schema)
    marked = [name for name, kind in features.items() if _is_image(kind) and name in schema.names]
    found = marked or [field.name for field in schema if _holds_bytes(field.type)]
    if len(found) > 1 and "image" in found:
        found = ["image"]
    if len(found) != 1:
        raise ArragError(
            f"{path}: {len(found)} of its columns ({', '.join(schema.names)}) hold images; keep "
            "one such column, or call it `image`"
        )
    return found[0]


def _features(schema: pa.Schema) -> dict[str, object]:
    """What ``datasets`` says of the columns; nothing where it does not say it as it should."""
    try:
        about = parse_json((schema.metadata or {}).get(b"huggingface", b"{}").decode())
    except ValueError:
        return {}
    for name in ("info", "features"):
        about = about.get(name) if isinstance(about, dict) else None
    return about if isinstance(about, dict) else {}


def _is_image(feature: object) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "Image"


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
        if value.get("bytes") is None and isinstance(named, str) and not outside(named):
            return path.parent / named
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _broken(path: Path, at: int, error: Exception) -> ArragError:
    stopped = isinstance(error, StopIteration)
    why = "it has fewer rows than it says" if stopped else short_message(error)
    return ArragError(
        f"{path}: broken at byte {at} ({why}); fetch or save it again, then run the same command, "
        "which goes on after the last whole shard"
    )
