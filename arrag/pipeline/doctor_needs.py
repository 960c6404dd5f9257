"""What a configuration needs that is not in the repository: weights, files, corpora, packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arrag.config.assets import asset_path, paths_in
from arrag.config.hub import Reference, reference_of
from arrag.config.root import Config
from arrag.utils.globs import files_of

# Packages that only some kinds of generators use, beyond those that arrag always needs.
OF_KINDS = {"diffusers": ("diffusers",), "rdm": ("diffusers",), "imagerag": ("diffusers",)}


@dataclass(frozen=True)
class Corpus:
    """Images that must be there: their field, their files, how many of them are wanted."""

    field: str
    source: str
    images: int | None

    @property
    def files(self) -> tuple[str, ...]:
        """The files or the folder."""
        return files_of(self.source)

    @property
    def missing(self) -> list[str]:
        """Those that are not there."""
        return [file for file in self.files if not Path(file).exists()]


def repositories(config: Config) -> dict[Reference, list[str]]:
    """The hub's repositories that are used, and the fields that name them."""
    found: dict[Reference, list[str]] = {}
    for field, path in paths_in(config, config.assets):
        if (reference := reference_of(path)) is not None:
            found.setdefault(reference, []).append(field)
    return found


def own_paths(config: Config) -> dict[str, Path]:
    """Files and folders that nothing makes: the user puts them there. By field."""
    return {
        field: path
        for field, path in paths_in(config, config.assets)
        if asset_path(path, config.assets) is None
    }


def corpora(config: Config) -> list[Corpus]:
    """The images of all databases and trainings that methods use, each source once."""
    found: dict[str, Corpus] = {}
    for name in config.methods:
        resolved = config.resolved(name)
        if "database" in resolved.required_blocks:
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
