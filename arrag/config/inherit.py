"""A configuration that differs from another in places: ``base: OTHER.yaml``, and those places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrag.config.yaml_loader import read_yaml
from arrag.utils.errors import ArragError

BASE = "base"


def read_config(path: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's mapping, over that of the file it names under ``base``, if it names one.

    base: a path beside the file. Blocks in both are merged key by key; anything else, lists too,
    replaces what stands in the base, and null takes a whole block away. Raises ArragError as
    ``read_yaml`` does, and for a circle.
    """
    path = Path(path)
    document = read_yaml(path)
    if BASE not in document:
        return document
    name = document.pop(BASE)
    if not isinstance(name, str):
        raise ArragError(f"{path}: base: found {name!r}; wanted the name of a file beside this one")
    other = path.parent / name
    seen = (*seen, path.resolve())
    if other.resolve() in seen:
        raise ArragError(f"{path}: base: {name} is based on this file in turn; break the circle")
    whole = over(read_config(other, seen), document)
    return {key: value for key, value in whole.items() if value is not None}


def over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` in it; of a block in both, key by key."""
    both = {
        key: over(base[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **changes, **both}
