"""The generators that are no token backbones: diffusion pipelines, RDM and ImageRAG.

Nothing augments them: they stand in the tables for comparison. RDM and ImageRAG retrieve whole
images by the prompt from the database of the configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from arrag.config.base import FilePath, Model


class Pipeline(Model):
    """What every pipeline's settings hold."""

    context: ClassVar[None] = None  # no codes, hence no neighbours
    takes: ClassVar[tuple[str, ...]] = ()
    trained_here: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()  # blocks it retrieves from

    checkpoint: FilePath = Field(description="folder in diffusers' format, with model_index.json")
    steps: int = Field(ge=1, description="denoising steps of an image, >= 1")
    guidance_scale: float = Field(ge=0, description="classifier-free guidance; 1 = off")
    size: int | None = Field(
        default=None, ge=8, description="pixels a side; null = what the model was trained with"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="arithmetic of all parts; the first noise is float32"
    )

    @property
    def named_paths(self) -> dict[str, Path]:
        """Files and folders beside the checkpoint that shape an image, by field."""
        return {}


class Diffusers(Pipeline):
    """A text-to-image pipeline of diffusers; which one it is stands in its model_index.json."""

    kind: Literal["diffusers"]
    negative_prompt: str | None = Field(
        default=None, description="what guidance steers away from; null = the pipeline's own"
    )


class Retrieving(Pipeline):
    """A pipeline that sees whole images of the database."""

    needs: ClassVar[tuple[str, ...]] = ("database",)

    clip: FilePath = Field(description="folder of the open_clip model that retrieves by the prompt")
    tokenizer: FilePath = Field(
        description="checkpoint whose tokenizer encoded the database, as another generator has it"
    )

    @property
    def named_paths(self) -> dict[str, Path]:
        """The models that retrieve."""
        return {"clip": self.clip, "tokenizer": self.tokenizer}


class Rdm(Retrieving):
    """A retrieval-augmented diffusion model (arXiv 2204.11824)."""

    kind: Literal["rdm"]
    k: int = Field(ge=0, description="images retrieved for a prompt; 0 = the text alone")


class Always(Model):
    """No judge: every image is drawn with a reference, which the prompt retrieves."""

    kind: Literal["always"]


class Recorded(Model):
    """What some model said of the images that the pipeline draws without a reference."""

    kind: Literal["recorded"]
    name: str = Field(min_length=1, description="the model that was asked, as in `gpt-4o`")
    answers: FilePath = Field(
        description="JSON lines of `prompt`, `sample` (left out: all) and `caption`: what to "
        "retrieve; null = the image shows what it should"
    )


class ImageRag(Retrieving):
    """ImageRAG (arXiv 2502.09411) on SDXL with an IP-Adapter."""

    kind: Literal["imagerag"]
    ip_adapter: FilePath = Field(description="the adapter's .safetensors file")
    image_encoder: FilePath = Field(description="folder of the CLIP vision model it was made for")
    ip_adapter_scale: float = Field(
        default=0.5, ge=0, description="weight of the reference; 0 = none"
    )
    judge: Annotated[Always | Recorded, Field(discriminator="kind")] = Field(
        description="who says what the first image lacks; GPT-4o in the publication"
    )
    prompt: str = Field(
        default="According to this image of {caption}, generate {prompt}",
        pattern=r"\{prompt\}",
        description="the prompt of an image with a reference; the default is the publication's",
    )
    negative_prompt: str | None = Field(
        default=None, description="what guidance steers away from; null = the pipeline's own"
    )

    @property
    def named_paths(self) -> dict[str, Path]:
        """The models that retrieve, those that look at references, and what the judge said."""
        paths = {"ip_adapter": self.ip_adapter, "image_encoder": self.image_encoder}
        if self.judge.kind == "recorded":
            paths["judge.answers"] = self.judge.answers
        return super().named_paths | paths
