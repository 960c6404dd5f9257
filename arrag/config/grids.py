"""The parts of a configuration that reports ask for: ablation grids, figures and timing."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, model_validator

from arrag.config.base import Model, Name
from arrag.utils.hashing import sha256_json

if TYPE_CHECKING:
    from arrag.config.methods import Method
    from arrag.config.root import Config

BLOCKS = ("augment", "database", "index", "training")  # what a point may change of its method
Settings = dict[str, Any]


class Point(Model):
    """One labelled setting."""

    label: str = Field(min_length=1, description="the point's name in the report")
    set: Settings = Field(description="{dotted path: value}, as in {index.mode: exact}; {} = none")


class Grid(Model):
    """Settings of one method, tried one by one; a report, and no rows of the tables.

    A dotted path is a place inside the method: augment.*, and what it changes in the blocks
    database.*, index.* and training.*.
    """

    method: Name = Field(description="the method that is varied")
    benchmark: Name | None = Field(
        default=None, description="what the points draw and are scored by; null = the main one"
    )
    baseline: Name | None = Field(
        default=None, description="method the points are compared with; null = the method's own"
    )
    title: str | None = Field(default=None, description="heading of the report")
    metric: str | None = Field(
        default=None, description="column that is drawn, as in fid; null = overall, or the first"
    )
    fixed: Settings = Field(default={}, description="{dotted path: value} that all points share")
    values: dict[str, list[Any]] | None = Field(
        default=None, description="{dotted path: its values}: every combination is a point"
    )
    points: list[Point] | None = Field(default=None, description="or the points one by one")

    @model_validator(mode="after")
    def _has_points(self) -> Grid:
        if (self.values is None) == (self.points is None):
            raise ValueError("give either `values` or `points`, and only one")
        if not (self.values if self.points is None else self.points):
            raise ValueError(f"{'values' if self.points is None else 'points'}: empty; add one")
        for path, values in (self.values or {}).items():
            if not values:
                raise ValueError(f"values.{path}: empty; add a value")
            if len({json.dumps(value) for value in values}) < len(values):
                raise ValueError(f"values.{path}: found a value twice in {values}; keep one")
        for label in (labels := [point.label for point in self.points or ()]):
            if labels.count(label) > 1:
                raise ValueError(f"points: label '{label}' is given twice; rename one")
        return self

    @property
    def axes(self) -> list[str]:
        """The paths that the points differ in, in the file's order; none for labelled points."""
        return list(self.values or {})

    def settings(self) -> list[tuple[str, Settings]]:
        """(label, what it sets) of every point, in order; the last path runs fastest."""
        if self.points is not None:
            return [(point.label, self.fixed | point.set) for point in self.points]
        found = []
        for values in itertools.product(*self.values.values()):
            some = dict(zip(self.values, values, strict=True))
            text = ", ".join(f"{short(path)} {value_text(v)}" for path, v in some.items())
            found.append((text, self.fixed | some))
        return found


class Timing(Model):
    """What Table 4 times."""

    benchmark: Name | None = Field(default=None, description="whose prompts; null = the main one")
    images: int = Field(default=100, ge=1, description="drawn by each row in a round (paper: 100)")
    rounds: int = Field(default=3, ge=1, description="times that each row is timed, >= 1")
    max_batch: int = Field(default=64, ge=1, description="largest batch that is tried, >= 1")
    methods: list[Name] | None = Field(
        default=None, min_length=1, description="the rows; null = all methods"
    )
    weights: Literal["trained", "random"] = Field(
        default="trained", description="what the checkpoints hold; the table says so if random"
    )


class Figures(Model):
    """What the figures show."""

    prompts: int = Field(default=1, ge=1, description="figure 4: prompts of each task")
    images: int = Field(default=2, ge=1, description="figure 4: images of a prompt")
    copying_prompts: int = Field(default=10, ge=1, description="figure 5: prompts of each task")
    held_out: int = Field(default=100, ge=1, description="figure 6: held-out images queried")
    k: int = Field(default=50, ge=1, description="figure 6: patches retrieved")
    maps: list[Name] | None = Field(
        default=None,
        min_length=1,
        description="figure 7: grids of two paths; null = all such grids",
    )


class Derived(NamedTuple):
    """A point as a method of its own; at: where the file has it."""

    at: str
    label: str
    method: Method


def short(path: str) -> str:
    """The last word of a dotted path."""
    return path.rpartition(".")[2]


def value_text(value: Any) -> str:
    """A setting's value in a report; several hops are written as the paper does: [1, 2] is 12."""
    if isinstance(value, list) and all(isinstance(v, int) and 0 < v < 10 for v in value):
        return "".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def point_name(method: str, settings: Settings) -> str:
    """A name for a shell and a folder, the same wherever the same is set.

    It holds an @, which no name in a file may: a point cannot be mistaken for a method.
    """
    parts = [f"{short(path)}={value_text(value)}" for path, value in sorted(settings.items())]
    text = "+".join(parts) or "unchanged"
    slug = re.sub(r"[^A-Za-z0-9_.=+]+", "-", text)[:60]
    plain = all(isinstance(value, int | float | str) for value in settings.values())
    same = plain and slug == text and len({short(path) for path in settings}) == len(settings)
    return f"{method}@{slug}" if same else f"{method}@{slug}-{sha256_json(settings)[:6]}"


def derive(config: Config) -> dict[str, Derived]:
    """Every point of every grid as a method, by its name; equal settings are one.

    The grids' own names are checked before. Raises ValueError naming the grid, the field, what was
    found and what to do.
    """
    found: dict[str, Derived] = {}
    for grid_name, grid in config.grids.items():
        base = config.methods[grid.method]
        at = f"grids.{grid_name}.{'points' if grid.points else 'values'}"
        for label, settings in grid.settings():
            name = point_name(grid.method, settings)
            if name not in found:
                found[name] = Derived(at, label, _changed(base, settings, at))
    return found


def check_reports(config: Config) -> None:
    """Raises ValueError for a grid, timing or figures that name what there is not."""
    for name, grid in config.grids.items():
        _check_name(config.methods, "method", grid.method, f"grids.{name}.method")
        _check_name(config.methods, "method", grid.baseline, f"grids.{name}.baseline")
        _check_name(config.benchmarks, "benchmark", grid.benchmark, f"grids.{name}.benchmark")
    _check_name(config.benchmarks, "benchmark", config.timing.benchmark, "timing.benchmark")
    for method in config.timing.methods or ():
        _check_name(config.methods, "method", method, "timing.methods")
    for name in config.figures.maps or ():
        _check_name(config.grids, "grid", name, "figures.maps")
        if len(axes := config.grids[name].axes) != 2:
            raise ValueError(
                f"figures.maps: grid '{name}' has {len(axes)} paths; a map needs one of two paths"
            )


def _check_name(known: dict, what: str, found: str | None, field: str) -> None:
    from arrag.config.errors import unknown_choice

    if found is not None and found not in known:
        raise ValueError(f"{field}: {unknown_choice(what, found, list(known))}")


def _changed(base: Method, settings: Settings, at: str) -> Method:
    """``base`` with some places in it set."""
    from arrag.config.errors import sentences

    document = base.model_dump(exclude_unset=True)
    known = known_paths(base)
    for path, value in settings.items():
        if path not in known:
            raise ValueError(f"{at}.{path}: {_no_path(path, known)}")
        place = document
        *way, last = path.split(".")
        for step in way:
            place[step] = dict(place.get(step) or {})
            place = place[step]
        place[last] = value
    try:
        changed = type(base).model_validate(document)
    except ValidationError as error:
        raise ValueError("; ".join(sentences(error, type(base), at))) from None
    if base.augment is not None and not changed.is_trained_here:
        for path in settings:
            if path.startswith("training."):
                raise ValueError(
                    f"{at}.{path}: changes nothing, because the method names the folder of a "
                    "trained adapter; add `fixed: {augment.adapter: null}` to train one for each"
                )
    return changed


def known_paths(method: Method) -> list[str]:
    """The dotted paths that a point of a grid may set in a method."""
    from arrag.config.database import Database, Index
    from arrag.config.training import Training

    blocks = {"database": Database, "index": Index, "training": Training}
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


def _no_path(path: str, known: list[str]) -> str:
    import difflib

    same = [one for one in known if short(one) == short(path)]
    near = same or difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    if near:
        return f"no such setting; did you mean '{near[0]}'?"
    return f"no such setting (known: {', '.join(known)})"
