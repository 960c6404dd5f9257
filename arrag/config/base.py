"""What all parts of a configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from arrag.config.hub import local

# Names of methods and benchmarks become folder names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.+-]*$")]
# A Path is written as a string in YAML, which strict mode would refuse. `hub:owner/name@revision`
# becomes the folder that it is downloaded to.
FilePath = Annotated[Path, BeforeValidator(local), Field(strict=False)]
# A text that may be such a reference, among other things.
Place = Annotated[str, BeforeValidator(local), Field(min_length=1)]


class Model(BaseModel):
    """A block of a configuration: unknown keys are errors, types are strict, nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def checked_hops(value: Any) -> int | tuple[int, ...]:
    """Validate the radius h of a window, or several that are used together.

    The paper's "12" means hops 1 and 2.

    Args:
        value: A whole number of 1 or more, or a list of such numbers in ascending order.

    Returns:
        The number, or a tuple of several; a list of one number is that number.

    Raises:
        ValueError: For anything else.
    """
    hops = list(value) if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(hop, int) and not isinstance(hop, bool) and hop >= 1 for hop in hops)
    if not hops or not whole or hops != sorted(set(hops)):
        raise ValueError(
            f"found {value!r}; use a whole number of 1 or more, or several in ascending order, "
            "like [1, 2]"
        )
    return hops[0] if len(hops) == 1 else tuple(hops)


_HOP = {"type": "integer", "minimum": 1}
Hops = Annotated[
    Any,  # int | tuple[int, ...], of which pydantic would serialize the tuple with a warning
    PlainValidator(checked_hops),
    WithJsonSchema({"anyOf": [_HOP, {"type": "array", "items": _HOP, "minItems": 1}]}),
]


def deep_merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` in it; blocks in both are merged key by key."""
    both = {
        key: deep_merge(base[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **changes, **both}
