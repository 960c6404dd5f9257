"""What all parts of a configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Names of methods and benchmarks become folder names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.+-]*$")]
# A Path is written as a string in YAML, which strict mode would refuse.
FilePath = Annotated[Path, Field(strict=False)]


class Model(BaseModel):
    """Unknown keys are mistakes; a number in quotes is not a number; nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
