"""The blocks of a configuration that reports ask for: ablation grids, timing and figures."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Literal

from pydantic import Field, model_validator

from arrag.config.base import Model, Name
from arrag.utils.hashing import sha256_json

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
            text = ", ".join(f"{last_word(path)} {value_text(v)}" for path, v in some.items())
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


def last_word(path: str) -> str:
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
    parts = [f"{last_word(path)}={value_text(value)}" for path, value in sorted(settings.items())]
    text = "+".join(parts) or "unchanged"
    slug = re.sub(r"[^A-Za-z0-9_.=+]+", "-", text)[:60]
    plain = all(isinstance(value, int | float | str) for value in settings.values())
    same = plain and slug == text and len({last_word(path) for path in settings}) == len(settings)
    return f"{method}@{slug}" if same else f"{method}@{slug}-{sha256_json(settings)[:6]}"
