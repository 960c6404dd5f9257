"""The part of a configuration about methods: a row of the tables, and what it changes in blocks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from arrag.config.base import FilePath, Model, Name

Changes = dict[str, Any]

# Rows of Table 1 that the workflow adds by itself: what the judge says of images of the world, and
# of the same images after the tokenizer. No method can be expected to score higher.
CEILING_LABELS = {"real": "real images", "reconstructions": "reconstructions"}


Adapter = Annotated[
    FilePath | None,
    Field(description="folder of a trained adapter; null = the one that `training` makes"),
]


class Finetune(Model):
    """The generator fine-tuned without retrieval: what part of a gain the training alone has."""

    required_blocks: ClassVar[tuple[str, ...]] = ()

    kind: Literal["finetune"]
    adapter: Adapter = None


class Faid(Model):
    """Feature-level augmentation: retrieved patches blended into hidden states by an adapter."""

    required_blocks: ClassVar[tuple[str, ...]] = ("database", "index")

    kind: Literal["faid"]
    adapter: Adapter = None
    k: int = Field(default=10, ge=1, description="patches retrieved for a position (K), >= 1")


class Racm3(Model):
    """A replica of RA-CM3: a whole image, retrieved by the prompt, before the prompt."""

    required_blocks: ClassVar[tuple[str, ...]] = ("database",)

    kind: Literal["racm3"]
    adapter: Adapter = None
    clip: FilePath = Field(description="folder of the open_clip model that retrieves the image")


class Daid(Model):
    """Distribution-level augmentation: p = (1 - lam) p_model + lam p_retrieved."""

    required_blocks: ClassVar[tuple[str, ...]] = ("database", "index")

    kind: Literal["daid"]
    k: int = Field(ge=1, description="patches retrieved for a position (K), >= 1")
    lam: float = Field(
        ge=0, le=1, description="retrieval weight λ in [0, 1]; not stated in the paper"
    )
    tau: float = Field(gt=0, description="retrieval temperature τ, > 0; not stated in the paper")


class Method(Model):
    """One row of the table."""

    label: str = Field(min_length=1, description="the row's name in the tables")
    augment: Annotated[Daid | Faid | Racm3 | Finetune, Field(discriminator="kind")] | None = Field(
        default=None, description="retrieval, adapter or both; null = the bare model"
    )
    baseline: Name | None = Field(default=None, description="method this one is compared with")
    generator: Name | None = Field(
        default=None, description="one of `generators`; null = the first of them"
    )
    benchmarks: list[Name] | None = Field(
        default=None, min_length=1, description="whose tables have this row; null = all"
    )
    database: Changes | None = Field(
        default=None, description="what differs from the block `database` for this method alone"
    )
    index: Changes | None = Field(default=None, description="likewise of the block `index`")
    training: Changes | None = Field(default=None, description="likewise of the block `training`")
    paper_key: str | None = Field(
        default=None, description="the paper's row to print beside it, as in benchmarks/paper"
    )

    @property
    def required_blocks(self) -> tuple[str, ...]:
        """The blocks of the configuration that it retrieves from: of "database", "index"."""
        return () if self.augment is None else self.augment.required_blocks

    @property
    def is_trained_here(self) -> bool:
        """Whether its adapter is the one that ``training`` makes, and no folder is named."""
        return self.augment is not None and getattr(self.augment, "adapter", "") is None
