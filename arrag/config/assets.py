"""The block of a configuration about files and folders that are made before anything else.

Each entry is a path and how it comes about, so that a table can be planned while none of it is
there: an entry's identity is that of what it is made from, never of bytes on this machine's disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from arrag.config.base import FilePath, Model
from arrag.config.hub import FOLDER, reference_of

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]


class Download(Model):
    """A file by its address, known by its content."""

    folder: ClassVar[bool] = False

    kind: Literal["file"]
    url: str = Field(pattern=r"^https?://", description="address of the file")
    sha256: Annotated[Hex, Field(min_length=8, max_length=64)] | None = Field(
        default=None, description="SHA-256 of its content in hex; its beginning will do, 8 digits"
    )
    git_blob: Annotated[Hex, Field(min_length=40, max_length=40)] | None = Field(
        default=None, description="in place of a SHA-256: the name git gives its content"
    )
    licence: str | None = Field(default=None, description="for `arrag doctor` to print")

    @model_validator(mode="after")
    def _known_by_content(self) -> Download:
        if (self.sha256 is None) == (self.git_blob is None):
            raise ValueError("sha256, git_blob: give one of them; a file is known by its content")
        return self


class Subset(Model):
    """Every N-th prompt of a prompt file."""

    folder: ClassVar[bool] = False

    kind: Literal["subset"]
    of: FilePath = Field(description="JSON lines, MJHQ-30K's meta_data.json or a question table")
    every: int = Field(ge=1, description="take one of so many")


class Assembled(Model):
    """A checkpoint folder of several: Show-o with its language model's tokenizer and MAGVIT-v2."""

    folder: ClassVar[bool] = True

    kind: Literal["folder"]
    of: FilePath = Field(description="folder whose files are at the top")
    parts: dict[str, FilePath] = Field(min_length=1, description="folders inside, by name")


class ConvertedDetector(Model):
    """mmdetection's Mask2Former, GenEval's detector, in transformers' format."""

    folder: ClassVar[bool] = True

    kind: Literal["mask2former"]
    of: FilePath = Field(description="the .pth file of mmdetection")


class ConvertedPipeline(Model):
    """A pipeline of diffusers with pickled weights (LDM, RDM) as one with safetensors."""

    folder: ClassVar[bool] = True

    kind: Literal["pipeline"]
    of: FilePath = Field(description="folder with model_index.json; a hub's with #*.bin")


class ConvertedLlamaGen(Model):
    """LlamaGen's published files as one checkpoint folder, with its text encoder in ``t5``."""

    folder: ClassVar[bool] = True

    kind: Literal["llamagen"]
    of: FilePath = Field(description="the .pt file of the language model")
    tokenizer: FilePath = Field(description="the .pt file of the VQ")
    t5: FilePath = Field(description="folder of the text encoder (flan-t5-xl)")
    image_size: Literal[256, 512] = Field(description="pixels a side")


class ImportedFaid(Model):
    """The authors' published FAiD checkpoint as an adapter."""

    folder: ClassVar[bool] = True

    kind: Literal["faid"]
    of: FilePath = Field(description="their file, or its folder")
    checkpoint: FilePath = Field(description="the Janus that it was trained from")
    k: int = Field(default=10, ge=1, description="patches blended at a position, >= 1")


Asset = Annotated[
    Download
    | Subset
    | Assembled
    | ConvertedDetector
    | ConvertedPipeline
    | ConvertedLlamaGen
    | ImportedFaid,
    Field(discriminator="kind"),
]


def sources_of(asset: Asset) -> dict[str, Path]:
    """The files and folders that an asset is made from, by field."""
    fields = ("of", "checkpoint", "tokenizer", "t5")
    found = {field: path for field in fields if (path := getattr(asset, field, None)) is not None}
    return found | {f"parts.{name}": path for name, path in getattr(asset, "parts", {}).items()}


def asset_containing(path: Path, assets: dict[str, Any]) -> Path | None:
    """The asset that ``path`` is, or lies in; None if there is none."""
    return next((p for p in (path, *path.parents) if str(p) in assets), None)


def asset_path(path: Path | str, assets: dict[str, Any]) -> Path | None:
    """What rules make of a path: a hub's folder, or an asset; None if the user provides it."""
    reference = reference_of(path)
    return asset_containing(Path(path), assets) if reference is None else reference.folder


def identity_of(path: Path, assets: dict[str, Any]) -> Any:
    """What identifies a path that rules make, as JSON; None for a path of the user's own.

    A hub's folder: its repository at its revision. An asset: its settings and the identities of
    what it is made from. A file: its pinned content alone.
    """
    reference = reference_of(path)
    if reference is not None:
        inside = path.relative_to(FOLDER).parts[1:]
        return {"hub": str(reference), "inside": "/".join(inside)}
    top = asset_containing(path, assets)
    if top is None:
        return None
    asset = assets[str(top)]
    if top != path:
        return {"of": identity_of(top, assets), "inside": str(path.relative_to(top))}
    if asset.kind == "file":
        return {"sha256": asset.sha256} if asset.sha256 else {"git_blob": asset.git_blob}
    settings = asset.model_dump(mode="json", exclude=set(sources_of(asset)) | {"parts"})
    sources = {
        field: identity_of(source, assets) or str(source)
        for field, source in sources_of(asset).items()
    }
    return {**settings, **sources}


def paths_in(part: Any, assets: dict[str, Any], at: str = "") -> Iterator[tuple[str, Path]]:
    """(field, path) of every file or folder that a block names.

    A field that holds other texts too, such as a source of images, counts when rules make what it
    names.
    """
    below = f"{at}." if at else ""
    if isinstance(part, Path):
        yield at, part
    elif isinstance(part, str):
        if asset_path(part, assets) is not None:
            yield at, Path(part)
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from paths_in(getattr(part, name), assets, f"{below}{name}")
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from paths_in(value, assets, f"{below}{name}")
    elif isinstance(part, list | tuple):
        for i, value in enumerate(part):
            yield from paths_in(value, assets, f"{at}[{i}]")
