"""The blocks of a configuration about what is retrieved from: database and index."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from arrag.config_model import FilePath, Model
from arrag.hops import checked_hops

_HOP = {"type": "integer", "minimum": 1}
Hops = Annotated[
    Any,  # int | tuple[int, ...], of which pydantic would serialize the tuple with a warning
    PlainValidator(checked_hops),
    WithJsonSchema({"anyOf": [_HOP, {"type": "array", "items": _HOP, "minItems": 1}]}),
]


def _checked_mode(mode: str) -> str:
    if mode not in ("exact", "hamming", "ivf", "official") and not mode.startswith("faiss:"):
        raise ValueError(
            f"found '{mode}'; use exact, hamming, ivf, official or faiss:FACTORY_STRING"
        )
    return mode


class Database(Model):
    """The images whose patches can be retrieved."""

    source: str = Field(
        min_length=1,
        description="`micro`, or a source of `arrag encode`: a folder of images, tars by a brace "
        "pattern, a folder of Hugging Face datasets, Parquet files",
    )
    images: int | None = Field(default=None, ge=1, description="take the first N; null = all")
    exclude: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="sources of test images; images of the database that are like one of them are "
        "left out, and listed with the reason in excluded.json beside the codes",
    )
    shard_size: int = Field(default=1000, ge=1, description="images in one shard file")

    @model_validator(mode="after")
    def _the_micro_world_has_no_end(self) -> Database:
        if self.source == "micro" and self.images is None:
            raise ValueError("source 'micro' is endless; say how many `images`")
        return self


class Index(Model):
    """How patches are keyed and searched (spec: retrieval)."""

    mode: Annotated[str, AfterValidator(_checked_mode)] = Field(
        description="exact: scan everything; hamming: the same by bits, for codes of +1 and -1; "
        "ivf: inverted lists; for comparison faiss:FACTORY_STRING, official: the authors' files",
        json_schema_extra={"pattern": "^(exact|hamming|ivf|official|faiss:.*)$"},
    )
    published: FilePath | None = Field(
        default=None, description="mode official: folder of the authors' two files"
    )
    key_hop: Hops = Field(
        default=1,
        description="radius h of the key's window, >= 1; several, as in [1, 2], are joined",
    )
    border: Literal["skip", "zero"] | None = Field(
        default=None,
        description="leave patches at the edge out, or pad their key with zeros; null = skip for "
        "a generator that decodes in raster order, zero for one that decodes all codes at once",
    )
    masked_distance: bool = Field(
        default=False, description="only the known neighbours of a query contribute to a distance"
    )
    nprobe: int = Field(
        default=32, ge=1, description="lists visited by a query (ivf, faiss:IVF..., official)"
    )
    nlist: int | None = Field(default=None, ge=1, description="lists (ivf); null = by size")

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Index:
        if (self.mode == "official") != (self.published is not None):
            raise ValueError(
                f"mode {self.mode} with published {self.published}; mode official needs the folder "
                "`published`, the others none"
            )
        if self.masked_distance and self.mode not in ("exact", "hamming", "ivf"):
            raise ValueError(
                f"mode {self.mode} cannot leave unknown neighbours out of a distance; use exact, "
                "hamming or ivf, or masked_distance false"
            )
        if self.mode == "ivf" and self.nlist is not None and self.nprobe > self.nlist:
            raise ValueError(
                f"nprobe {self.nprobe} exceeds nlist {self.nlist}; lower nprobe or raise nlist"
            )
        return self


class PlacedIndex(Index):
    """An index of a certain generator, whose order of decoding says which neighbours are known."""

    context: Literal["causal", "full"]  # those decoded before, or all

    @classmethod
    def of(cls, index: Index, context: Literal["causal", "full"]) -> PlacedIndex:
        """``index`` with what follows from the order of decoding."""
        border = index.border or {"causal": "skip", "full": "zero"}[context]
        return cls(**index.model_dump() | {"context": context, "border": border})


def without_unused(part: Model, unused: set[str]) -> dict[str, Any]:
    """As JSON; what is optional and off leaves no trace, so that a new option renames nothing."""
    for field in ("exclude", "published", "masked_distance"):
        if not getattr(part, field, None):
            unused = unused | {field}
    return part.model_dump(mode="json", exclude=unused)
