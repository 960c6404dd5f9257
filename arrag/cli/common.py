"""What the commands share: parameter types and the way a group of commands is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, validators
from pydantic import BaseModel

from arrag.utils.shards import JobPart

DEFAULT_CONFIG = Path("config/micro.yaml")

Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]
"""A whole number of at least 1."""
Whole = Annotated[int, Parameter(validator=validators.Number(gte=0))]
"""A whole number of at least 0."""
Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**63))]
"""The seed of a random stream."""


def _parse_part(_type: Any, tokens: Sequence[Any]) -> JobPart:
    number, _, of = tokens[0].value.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError("expected I/N with 1 <= I <= N, as in 3/16")
    return JobPart(int(number), int(of))


PartOf = Annotated[JobPart | None, Parameter(converter=_parse_part, n_tokens=1, accepts_keys=False)]
"""``3/16``: the third of sixteen parts of the work."""


def options_of(model: type[BaseModel]) -> Any:
    """Make the options of a pydantic model's fields, for the annotation of a parameter."""
    about = {"model_config": {**model.model_config, "strict": False}, "__module__": __name__}
    return Parameter(name="*")(type(f"{model.__name__}Options", (model,), about)) | None


def given(options: Any) -> dict[str, Any]:
    """Return the options that were given, for the model's constructor."""
    return options.model_dump(exclude_unset=True) if options else {}


class Result(dict):
    """A result with its own text for people and its own exit status."""

    text: str | None = None
    status: int = 0


def group(name: str, help: str) -> App:
    """Make a group of commands."""
    return App(name=name, help=help, default_parameter=Parameter(negative=()), version_flags=())
