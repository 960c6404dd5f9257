"""The blocks of a configuration about what is retrieved from: database and index."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from arrag.config.base import FilePath, Hops, Model, Place
from arrag.utils.globs import files_of


def _checked_mode(mode: str) -> str:
    if mode not in ("exact", "ivf", "official") and not mode.startswith("faiss:"):
        raise ValueError(f"found '{mode}'; use exact, ivf, official or faiss:FACTORY_STRING")
    return mode


@lru_cache(maxsize=64)
def _repeated(sources: tuple[str, ...]) -> str | None:
    """A file name that occurs twice in some sources, None if none does."""
    names = Counter(Path(file).name for source in sources for file in files_of(source))
    return next((name for name, count in names.items() if count > 1), None)


class Sample(Model):
    """A number of images from a corpus, chosen by a hash of their names."""

    source: Place = Field(description="a source of `arrag db encode`; tars by a brace pattern")
    images: int | None = Field(default=None, ge=1, description="how many; null = all")
    seed: int = Field(default=0, ge=0, description="of the choice, >= 0")

    @property
    def name(self) -> str:
        """For folders: that of the corpus's own."""
        path = Path(self.source)
        return path.parent.name if path.suffix else path.name


class Database(Model):
    """The images whose patches can be retrieved."""

    source: Place | None = Field(
        default=None,
        description="`micro`, or a source of `arrag db encode`: a folder of images, tars by a "
        "brace pattern, a folder of Hugging Face datasets, Parquet files",
    )
    images: int | None = Field(default=None, ge=1, description="take the first N; null = all")
    sources: list[Sample] | None = Field(
        default=None,
        min_length=1,
        description="in place of `source`: samples of several corpora, encoded in many jobs",
    )
    images_per_job: int = Field(
        default=100_000, ge=1, description="of `sources`: about how many a job encodes"
    )
    exclude: list[Place] = Field(
        default=[],
        description="sources of test images; images of the database that are like one of them are "
        "left out, and listed with the reason in excluded.json beside the codes",
    )
    shard_size: int = Field(default=1000, ge=1, description="images in one shard file")

    @property
    def name(self) -> str:
        """For folders of results."""
        if self.sources is None:
            return Path(self.source).name
        return "joined-" + "+".join(dict.fromkeys(sample.name for sample in self.sources))

    @property
    def samples(self) -> dict[str, Sample]:
        """Its corpora, by field; of one ``source`` the first images are taken, not a choice."""
        if self.sources is None:
            return {"database.source": Sample(source=self.source, images=self.images)}
        return {f"database.sources[{i}]": sample for i, sample in enumerate(self.sources)}

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Database:
        if (self.source is None) == (self.sources is None):
            raise ValueError("source, sources: give one of them")
        if self.sources is not None and self.images is not None:
            raise ValueError("images: of `sources`, each has its own number; write it there")
        if twice := _repeated(tuple(sample.source for sample in self.sources or ())):
            raise ValueError(
                f"sources: two files are called {twice}, and images are named after their file; "
                "rename the files of one corpus"
            )
        return self

    @model_validator(mode="after")
    def _the_micro_world_has_no_end(self) -> Database:
        if self.source == "micro" and self.images is None:
            raise ValueError("source 'micro' is endless; say how many `images`")
        return self


class Index(Model):
    """How patches are keyed and searched (spec: retrieval)."""

    mode: Annotated[str, AfterValidator(_checked_mode)] = Field(
        description="exact: scan everything; ivf: inverted lists; for comparison "
        "faiss:FACTORY_STRING, official: the authors' files",
        json_schema_extra={"pattern": "^(exact|ivf|official|faiss:.*)$"},
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
        if self.masked_distance and self.mode not in ("exact", "ivf"):
            raise ValueError(
                f"mode {self.mode} cannot leave unknown neighbours out of a distance; use exact "
                "or ivf, or masked_distance false"
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
    for field in ("exclude", "sources", "published", "masked_distance"):
        if not getattr(part, field, None):
            unused = unused | {field}
    return part.model_dump(mode="json", exclude=unused)
