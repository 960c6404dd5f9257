"""The points of the grids: variants of a method, each in no table but in a report."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from arrag.config.base import Model
from arrag.config.database import Database, Index
from arrag.config.errors import mistakes_in
from arrag.config.grids import Grid, Settings, last_word, point_name
from arrag.config.methods import Method
from arrag.config.schema import ConfigFile
from arrag.config.training import Training
from arrag.utils.errors import ConfigError


class GridPoint(NamedTuple):
    """A point of a grid.

    Attributes:
        at: Where the file has it.
        label: Its name in the report.
        method: The grid's method, with the changes of the point.
    """

    at: str
    label: str
    method: Method


def expand_grids(file: ConfigFile) -> dict[str, GridPoint]:
    """Every point of every grid by its name; equal settings are one point.

    Raises:
        ConfigError: As ``expand_grid``; so names a grid of a method that does not exist.
    """
    found: dict[str, GridPoint] = {}
    for name, grid in file.grids.items():
        for point, value in expand_grid(file, name, grid).items():
            found.setdefault(point, value)
    return found


def expand_grid(file: ConfigFile, name: str, grid: Grid) -> dict[str, GridPoint]:
    """The points of one grid by their names.

    Raises:
        ConfigError: A point sets what its method has not, or to an invalid value.
    """
    base = file.methods[grid.method]
    at = f"grids.{name}.{'points' if grid.points else 'values'}"
    found: dict[str, GridPoint] = {}
    for label, settings in grid.settings():
        point = point_name(grid.method, settings)
        if point not in found:
            found[point] = GridPoint(at, label, _changed(base, settings, at))
    return found


def known_paths(method: Method) -> list[str]:
    """The dotted paths that a point of a grid may set in a method."""
    blocks: dict[str, type[Model]] = {"database": Database, "index": Index, "training": Training}
    if method.augment is not None:
        blocks = {"augment": type(method.augment)} | blocks
    return [path for block, model in blocks.items() for path in _paths(model, block)]


def _paths(model: type[Model], at: str) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        found.append(f"{at}.{name}")
        for one in (field.annotation, *get_args(field.annotation)):
            if isinstance(one, type) and issubclass(one, Model):
                found += _paths(one, f"{at}.{name}")
    return [path for path in found if path != "augment.kind"]


def _changed(base: Method, settings: Settings, at: str) -> Method:
    """``base`` with some places in it set."""
    document: dict[str, Any] = base.model_dump(exclude_unset=True)
    known = known_paths(base)
    for path, value in settings.items():
        if path not in known:
            near = [one for one in known if last_word(one) == last_word(path)]
            near = near or difflib.get_close_matches(path, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError("no such setting", field=f"{at}.{path}", hint=hint)
        block = document
        *above, last = path.split(".")
        for step in above:
            block[step] = dict(block.get(step) or {})
            block = block[step]
        block[last] = value
    try:
        changed = type(base).model_validate(document)
    except ValidationError as error:
        raise ConfigError.of(mistakes_in(error, document, type(base), at)) from None
    if base.augment is not None and not changed.is_trained_here:
        for path in settings:
            if path.startswith("training."):
                raise ConfigError(
                    "changes nothing, because the method names the folder of a trained adapter",
                    field=f"{at}.{path}",
                    hint="add `fixed: {augment.adapter: null}` to train one for each",
                )
    return changed
