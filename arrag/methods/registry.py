"""The methods by name: the ``kind`` of an ``augment`` block, or of a generator that is a pipeline.

A method is a function ``build(context) -> ImageGenerator``, decorated by ``register_method``. Those
listed here are imported when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrag.config.resolve import ResolvedMethod
from arrag.config.root import Config
from arrag.data.clip import OpenClip
from arrag.data.token_store import TokenStore
from arrag.methods.generator import ImageGenerator, TokenGenerator
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.image_index import ImageIndex
from arrag.retrieval.index import open_index
from arrag.utils.errors import MissingError
from arrag.utils.registry import Registry


@dataclass(frozen=True)
class ArtifactPaths:
    """Folders of results that a method may need.

    Attributes:
        store: The token store of the database.
        index: The index of its patches.
        image_index: The index of its images.
        adapter: An adapter, instead of the one that the method's settings name.
    """

    store: Path | None = None
    index: Path | None = None
    image_index: Path | None = None
    adapter: Path | None = None


NO_ARTIFACTS = ArtifactPaths()


@dataclass(frozen=True)
class MethodContext:
    """What a method is built from: its settings, and the artifacts it may open."""

    name: str
    resolved: ResolvedMethod
    paths: ArtifactPaths

    @property
    def settings(self) -> Any:
        """The block of the configuration that the method is registered for."""
        return self.resolved.method.augment or self.resolved.generator

    def load_backbone(self) -> TokenGenerator:
        """Load the generator of image tokens, without any augmentation."""
        return TokenGenerator.load(self.resolved.generator)

    def open_patch_index(self, tokenizer_digest: str) -> PatchIndex:
        """Open the index of patches.

        Raises:
            ArragError: It is not given, damaged, or of another image tokenizer.
        """
        return open_index(self._given("index"), self._store(), tokenizer_digest)

    def open_image_index(self) -> tuple[ImageIndex, OpenClip]:
        """Open the index of whole images, and the CLIP model that it was made with.

        Raises:
            ArragError: It is not given, damaged, or of another CLIP model.
        """
        clip = OpenClip(self.settings.clip)
        return ImageIndex(self._given("image_index"), self._store(), clip.digest), clip

    def _store(self) -> TokenStore:
        return TokenStore.open(self._given("store"))

    def _given(self, part: str) -> Path:
        path = getattr(self.paths, part)
        if path is None:
            raise MissingError(
                f"method '{self.name}' needs it and no path is given",
                field=part,
                hint="name the folder",
            )
        return path


METHODS: Registry[Callable[[MethodContext], ImageGenerator]] = Registry(
    "method",
    {
        "daid": "arrag.methods.daid:build_daid",
        "diffusers": "arrag.methods.diffusion:build_diffusion",
        "faid": "arrag.methods.faid.adapter:build_faid",
        "finetune": "arrag.methods.adapter_folder:load_finetuned",
        "imagerag": "arrag.methods.imagerag:build_imagerag",
        "racm3": "arrag.methods.racm3:build_racm3",
        "rdm": "arrag.methods.rdm:build_rdm",
    },
)
register_method = METHODS.register


def open_method(config: Config, method: str, paths: ArtifactPaths = NO_ARTIFACTS) -> ImageGenerator:
    """Load a method of a configuration.

    Args:
        config: The configuration.
        method: Name of one of its ``methods``.
        paths: The artifacts that the method retrieves from, and its adapter.

    Raises:
        ArragError: Something it needs is missing, damaged, or belongs to another generator.
    """
    context = MethodContext(method, config.resolved(method), paths)
    if context.resolved.method.augment is None and context.settings.kind not in METHODS:
        return context.load_backbone()
    return METHODS.get(context.settings.kind)(context)
