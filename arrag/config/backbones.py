"""The block of a configuration about generators: one class a kind."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from arrag.config.base import FilePath, Model
from arrag.config.pipelines import Diffusers, ImageRag, Rdm


class Backbone(Model):
    """What every generator's settings hold; the rest of a kind's are its decoding loop's."""

    context: ClassVar[Literal["causal", "full"] | None]  # neighbours that its decoding can know
    takes: ClassVar[tuple[str, ...]]  # kinds of augmentation
    trained_here: ClassVar[bool]  # whether `training` can make adapters for it
    needs: ClassVar[tuple[str, ...]] = ()  # blocks it retrieves from without any augmentation

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


class LlamaGen(Backbone):
    """LlamaGen, text to image, as `arrag convert llamagen` writes it; codes in raster order."""

    context = "causal"
    takes = ("daid", "faid")
    trained_here = False

    kind: Literal["llamagen"]
    guidance_scale: float = Field(
        default=7.5, ge=0, description="classifier-free guidance g in u + g (c - u); 1 = off"
    )
    top_k: int | None = Field(
        default=1000, ge=1, description="only the k most likely codes are drawn; null = all"
    )


class Emu3(Backbone):
    """An Emu3-Gen checkpoint in transformers' format; codes in raster order, rows with ends."""

    context = "causal"
    takes = ("daid", "faid")
    trained_here = False

    kind: Literal["emu3"]
    guidance_scale: float = Field(
        default=3.0, ge=0, description="guidance g in u + g (c - u), u the negative prompt; 1 = off"
    )
    top_k: int | None = Field(
        default=2048, ge=1, description="only the k most likely codes are drawn; null = all"
    )


class Amused(Backbone):
    """An aMUSEd checkpoint in diffusers' format; all codes at once, the most confident kept."""

    context = "full"
    takes = ("daid", "faid")
    trained_here = False

    kind: Literal["amused"]
    guidance_scale: float = Field(
        default=10.0, ge=1, description="classifier-free guidance g in u + g (c - u); 1 = off"
    )
    steps: int = Field(default=12, ge=1, description="forwards for an image, >= 1")
    choice_temperature: float = Field(
        default=2.0, ge=0, description="noise in the choice of codes to keep, >= 0; falls to 0"
    )
    annealing: Literal["linear", "compound"] = Field(
        default="linear", description="how the noise falls: as in diffusers, or as in Show-o"
    )


Generator = Annotated[
    Janus | Showo | LlamaGen | Emu3 | Amused | Diffusers | Rdm | ImageRag,
    Field(discriminator="kind"),
]
