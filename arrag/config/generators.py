"""The block of a configuration about generators: one class for each kind.

Token backbones, which can be augmented, come first. The pipelines after them (diffusion, RDM and
ImageRAG) are in the tables for comparison; RDM and ImageRAG retrieve whole images by the prompt
from the database of the configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from arrag.config.base import FilePath, Model


class Backbone(Model):
    """What every generator's settings hold; the rest of a kind's are its decoding loop's."""

    context: ClassVar[Literal["causal", "full"] | None]  # neighbours that its decoding can know
    supported_augmentations: ClassVar[tuple[str, ...]]  # kinds of augmentation
    trainable: ClassVar[bool]  # whether `training` can make adapters for it
    required_blocks: ClassVar[
        tuple[str, ...]
    ] = ()  # blocks it retrieves from without any augmentation

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
    supported_augmentations = ("daid", "faid", "racm3", "finetune")
    trainable = True

    kind: Literal["janus"]
    guidance_scale: float = Field(ge=0, description="classifier-free guidance g, >= 0; 1 = off")


class Showo(Backbone):
    """A Show-o checkpoint; all codes at once, the most confident kept in each step."""

    context = "full"
    supported_augmentations = ("daid", "faid", "finetune")
    trainable = True

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
    supported_augmentations = ("daid", "faid")
    trainable = False

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
    supported_augmentations = ("daid", "faid")
    trainable = False

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
    supported_augmentations = ("daid", "faid")
    trainable = False

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


class OwnBackbone(Backbone):
    """A backbone that another module registers; further keys go to its decoding loop."""

    model_config = ConfigDict(extra="allow")
    supported_augmentations = ("daid",)
    trainable = False

    kind: Literal["own"]
    name: str = Field(min_length=1, description="the name that it is registered under")
    module: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
        description="dotted name of the module that registers it",
    )
    decoding: Literal["raster", "masked"] = Field(
        default="raster", description="its loop: one code after the other, or all in each step"
    )
    guidance_scale: float = Field(default=1.0, ge=0, description="passed to the backbone")

    @property
    def context(self) -> str:
        """Neighbours that its decoding can know."""
        return "causal" if self.decoding == "raster" else "full"


class Pipeline(Model):
    """What every pipeline's settings hold."""

    context: ClassVar[None] = None  # no codes, hence no neighbours
    supported_augmentations: ClassVar[tuple[str, ...]] = ()
    trainable: ClassVar[bool] = False
    required_blocks: ClassVar[tuple[str, ...]] = ()  # blocks it retrieves from

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

    required_blocks: ClassVar[tuple[str, ...]] = ("database",)

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


Generator = Annotated[
    Janus | Showo | LlamaGen | Emu3 | Amused | OwnBackbone | Diffusers | Rdm | ImageRag,
    Field(discriminator="kind"),
]
