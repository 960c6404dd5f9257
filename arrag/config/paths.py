"""The files and folders that blocks of a configuration name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from arrag.config.assets import placed


def paths_in(part: Any, prepared: dict[str, Any], at: str = "") -> Iterator[tuple[str, Path]]:
    """(field, path) of every file or folder that a block names.

    A field that holds other texts too, as a source of images does, counts when rules make what it
    names; ``prepared`` are the entries by which they do.
    """
    below = f"{at}." if at else ""
    if isinstance(part, Path):
        yield at, part
    elif isinstance(part, str):
        if placed(part, prepared) is not None:
            yield at, Path(part)
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from paths_in(getattr(part, name), prepared, f"{below}{name}")
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from paths_in(value, prepared, f"{below}{name}")
    elif isinstance(part, list | tuple):
        for i, value in enumerate(part):
            yield from paths_in(value, prepared, f"{at}[{i}]")
