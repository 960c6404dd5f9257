"""Text and JSON files: written atomically, read with errors that name the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arrag.utils.errors import FormatError, MissingError
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import parse_json

REMAKE = "restore it, or delete it and make it again"


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(obj, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path, *, hint: str = REMAKE) -> Any:
    """Read a JSON file whose form does not matter; see ``read_model``.

    Args:
        path: A UTF-8 JSON file.
        hint: What the user should do about a bad file.

    Raises:
        MissingError: There is no such file.
        FormatError: It is not JSON.
    """
    path = Path(path)
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError("no such file", path=path, hint="make it, or correct the path") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"not valid JSON ({error})", path=path, hint=hint) from None
    return found


def read_model(path: str | Path, model: Any, hint: str = REMAKE) -> Any:
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
    return validate_model(read_json(path, hint=hint), model, path, hint)


def validate_model(found: Any, model: Any, path: str | Path, hint: str, *at: str) -> Any:
    """Validate what was read from a part ``at`` of a file, such as a line; see ``read_model``.

    Raises:
        FormatError: As ``read_model``; ``field`` begins with ``at``.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(model).validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([*at, *map(str, first["loc"])]) or None
        raise FormatError(first["msg"], path=path, field=field, hint=hint) from None
