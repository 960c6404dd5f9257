"""What all parts of a configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from arrag.config.hub import local

# Names of methods and benchmarks become folder names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.+-]*$")]
# A Path is written as a string in YAML, which strict mode would refuse. `hub:owner/name@revision`
# becomes the folder that it is downloaded to.
FilePath = Annotated[Path, BeforeValidator(local), Field(strict=False)]
# A text that may be such a reference, among other things.
Place = Annotated[str, BeforeValidator(local), Field(min_length=1)]


class Model(BaseModel):
    """Unknown keys are mistakes; a number in quotes is not a number; nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
