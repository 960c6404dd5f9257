"""The block of a configuration about generators: one class a kind."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from arrag.config_model import FilePath, Model


class Backbone(Model):
    """What every generator's settings hold; the rest of a kind's are its decoding loop's."""

    context: ClassVar[Literal["causal", "full"] | None]  # neighbours that its decoding can know
    takes: ClassVar[tuple[str, ...]]  # kinds of augmentation
    trained_here: ClassVar[bool]  # whether `training` can make adapters for it

    checkpoint: FilePath = Field(description="folder of the checkpoint")
    temperature: float = Field(default=1.0, gt=0, description="softmax temperature, > 0")
    dtype: Literal["float64", "float32", "bfloat16"] = Field(
        default="float32",
        description="arithmetic of the language model; float64 keeps the codes the same for any "
        "batch and thread count",
    )


class Janus(Backbone):
    """A checkpoint in transformers' Janus format; codes one by one in raster order."""

    context = "causal"
    takes = ("daid", "faid", "racm3", "finetune")
    trained_here = True

    kind: Literal["janus"]
    guidance_scale: float = Field(ge=0, description="classifier-free guidance g, >= 0; 1 = off")


class Showo(Backbone):
    """A Show-o checkpoint; all codes at once, the most confident kept in each step."""

    context = "full"
    takes = ("daid", "faid", "finetune")
    trained_here = True

    kind: Literal["showo"]
    guidance_scale: float = Field(
        ge=0, description="classifier-free guidance g in (1 + g) c - g u, >= 0; 0 = off"
    )
    steps: int = Field(default=50, ge=1, description="forwards for an image, >= 1")
    choice_temperature: float = Field(
        default=1.0, ge=0, description="noise in the choice of codes to keep, >= 0; falls to 0"
    )


Generator = Annotated[Janus | Showo, Field(discriminator="kind")]
