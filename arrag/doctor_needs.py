"""What a configuration needs that is not in the repository: weights, files, corpora, packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from arrag.config import Config
from arrag.corpora import files_of
from arrag.hub import Reference, reference_of

# Packages that only some kinds of generators use, beyond those that arrag always needs.
OF_KINDS = {"diffusers": ("diffusers",), "rdm": ("diffusers",), "imagerag": ("diffusers",)}


@dataclass(frozen=True)
class Corpus:
    """Images that must be there: their field, their files, how many of them are wanted."""

    field: str
    source: str
    images: int | None

    @property
    def files(self) -> list[str]:
        """The files or the folder."""
        return [file for part in self.source.split("::") for file in files_of(part)]

    @property
    def missing(self) -> list[str]:
        """Those that are not there."""
        return [file for file in self.files if not Path(file).exists()]


def paths_in(part: Any, at: str = "") -> Iterator[tuple[str, Path]]:
    """(field, path) of every file or folder that a block names; texts only if of a hub."""
    if isinstance(part, Path):
        yield at, part
    elif isinstance(part, str):
        if reference_of(part) is not None:
            yield at, Path(part)
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from paths_in(getattr(part, name), f"{at}.{name}".lstrip("."))
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from paths_in(value, f"{at}.{name}".lstrip("."))
    elif isinstance(part, list | tuple):
        for i, value in enumerate(part):
            yield from paths_in(value, f"{at}[{i}]")


def repositories(config: Config) -> dict[Reference, list[str]]:
    """The hub's repositories that are used, and the fields that name them."""
    found: dict[Reference, list[str]] = {}
    for field, path in paths_in(config):
        if (reference := reference_of(path)) is not None:
            found.setdefault(reference, []).append(field)
    return found


def own_paths(config: Config) -> dict[str, Path]:
    """Files and folders that nothing makes: the user puts them there. By field."""
    skipped = ("prepare.",)  # what they are made of is looked at by itself
    return {
        field: path
        for field, path in paths_in(config)
        if reference_of(path) is None
        and str(path) not in config.prepare
        and not (field.startswith(skipped) and str(path) in config.prepare)
    }


def corpora(config: Config) -> list[Corpus]:
    """The images of all databases and trainings that methods use, each source once."""
    found: dict[str, Corpus] = {}
    for name in config.methods:
        resolved = config.resolved(name)
        if "database" in resolved.needs:
            for field, sample in resolved.database.samples.items():
                found.setdefault(sample.source, Corpus(field, sample.source, sample.images))
        if resolved.method.is_trained_here:
            source = resolved.training.source
            found.setdefault(source, Corpus("training.source", source, resolved.training.pairs))
    return [corpus for corpus in found.values() if corpus.source != "micro"]


def packages(config: Config) -> set[str]:
    """Names of the packages that the kinds of generators use beyond the usual ones."""
    kinds = {settings.kind for settings in config.generators.values()}
    return {package for kind in kinds for package in OF_KINDS.get(kind, ())}
