"""``meta.json``, the description of a patch index, and the check of the files it lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    model_validator,
)

from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError, MismatchError
from arrag.utils.hashing import check_file, sha256_file
from arrag.utils.shards import FileName

META = "meta.json"
FORMAT = 1
REBUILD = "build the index again"
MAX_HOP = 16
"""Or the side of the grid. ``meta.json`` with a hop of millions would never finish loading."""


def _as_neighborhood(value: Any) -> Neighborhood:
    if isinstance(value, Neighborhood):
        return value
    try:
        return Neighborhood(**value)
    except (TypeError, ArragError) as error:
        raise ValueError(str(error)) from None


class FileInfo(BaseModel):
    """Size and SHA-256 of a file of an index."""

    bytes: NonNegativeInt
    sha256: str


class IndexMeta(BaseModel):
    """``meta.json`` of a patch index. All but ``versions`` enters the digest of the index."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal[1]
    mode: str
    neighborhood: Annotated[
        InstanceOf[Neighborhood], BeforeValidator(_as_neighborhood), PlainSerializer(asdict)
    ]
    grid: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    codes: PositiveInt = Field(description="size V of the codebook")
    images: NonNegativeInt
    entries: NonNegativeInt = Field(description="indexed patches")
    border_share: float | None = Field(
        description="share of the entries whose neighbourhood leaves the grid; null if unknown"
    )
    store_digest: str
    tokenizer_digest: str
    bytes_per_patch: int | float | None = Field(default=None, description="what a search scans")
    versions: dict[str, str] = {}
    nprobe: PositiveInt | None = Field(default=None, description="lists a search visits")
    nlist: PositiveInt | None = None
    seed: NonNegativeInt | None = Field(default=None, description="of the clustering")
    trained_images: NonNegativeInt | None = Field(
        default=None, description="the images, from the first, that the centroids were trained on"
    )
    files: dict[FileName, FileInfo] = {}

    @model_validator(mode="after")
    def _check_hop(self) -> Self:
        if self.neighborhood.radius > max(*self.grid, MAX_HOP):
            raise ValueError(f"neighborhood.hop is larger than the grid {self.grid}")
        return self

    def document(self) -> dict[str, Any]:
        """As written to ``meta.json``."""
        return self.model_dump(mode="json", exclude_unset=True)


def check_identity(path: Path, meta: BaseModel, expected: dict[str, Any], made_from: str) -> None:
    """Raise MismatchError unless the fields of ``meta.json`` in ``path`` are the ones in use."""
    for field, ours in expected.items():
        if ours is not None and getattr(meta, field) != ours:
            raise MismatchError(
                f"is {getattr(meta, field)}, but {ours} is in use",
                path=path / META,
                field=field,
                hint=f"{REBUILD} from {made_from}",
            )


def describe_files(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sizes and digests of some files, for the field ``files`` of ``meta.json``."""
    return {
        name: {"bytes": (path / name).stat().st_size, "sha256": sha256_file(path / name)}
        for name in names
    }


def check_files(path: Path, files: dict[str, FileInfo], *, digests: bool = False) -> None:
    """Raise ArragError unless files have the size, and if asked the SHA-256, in ``meta.json``."""
    for name, info in files.items():
        sha256 = info.sha256 if digests else None
        check_file(path / name, says=META, remedy=REBUILD, size=info.bytes, sha256=sha256)
