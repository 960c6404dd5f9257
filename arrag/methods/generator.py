"""A configured method, loaded and ready to draw: which loader and loop its generator's kind has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from arrag.backbones.registry import BACKBONES
from arrag.config.root import Config
from arrag.methods.build import ArtifactPaths, equip
from arrag.methods.decoding import decode_masked, decode_raster, seeded_uniforms
from arrag.methods.retrieved_images import RetrievedImages
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.device import default_device
from arrag.utils.hashing import tree_digest

NO_SOURCES = ArtifactPaths()


class ImageGenerator(Protocol):
    """A method ready to draw.

    weights: digests of all that was loaded, by its role; parameters: their number; index: digest of
    what is retrieved from, None if nothing is.
    """

    weights: dict[str, str]
    parameters: int
    index: str | None

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """ArragError unless ``samples`` images of each prompt can be drawn."""

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the generator reads only the beginning."""

    def retrieved(self, prompt: str, sample: int) -> RetrievedImages | None:
        """The whole images that an image is drawn with; None if it is drawn with none."""

    def generate(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """One image for each pair of prompt and sample number: uint8 [B, S, S, 3]."""


class Kind(Protocol):
    """What the ``kind`` of a generator stands for."""

    def open(self, config: Config, method: str, paths: ArtifactPaths) -> ImageGenerator:
        """Load a method whose generator is of this kind."""


@dataclass(frozen=True)
class CodeKind:
    """A generator of codes: how it is loaded and which loop draws with it.

    shape: of an image's random numbers, given the settings and the number of codes. The other
    settings of the kind are the loop's keyword arguments.
    """

    load: Callable[..., Any]
    decode: Callable[..., torch.Tensor]
    shape: Callable[[Any, int], tuple[int, ...]]

    def open(self, config: Config, method: str, paths: ArtifactPaths) -> TokenGenerator:
        """Load backbone, tokenizer and what the method adds."""
        return TokenGenerator(config, method, paths)


class PipelineKind:
    """A pipeline of diffusers, alone or with images that it retrieves."""

    def open(self, config: Config, method: str, paths: ArtifactPaths) -> ImageGenerator:
        """Load it; only here, since diffusers takes seconds to import."""
        from arrag.methods.pipelines import open_pipeline

        return open_pipeline(config, method, paths)


def _one_each(settings: Any, count: int) -> tuple[int, ...]:
    return (count,)


def _two_a_step(settings: Any, count: int) -> tuple[int, ...]:
    return (settings.steps, 2, count)


def _load(kind: str) -> Callable[..., Any]:
    return lambda *args: BACKBONES.get(kind).load(*args)


KINDS: dict[str, Kind] = {
    "janus": CodeKind(_load("janus"), decode_raster, _one_each),
    "showo": CodeKind(_load("showo"), decode_masked, _two_a_step),
    "llamagen": CodeKind(_load("llamagen"), decode_raster, _one_each),
    "emu3": CodeKind(_load("emu3"), decode_raster, _one_each),
    "amused": CodeKind(_load("amused"), decode_masked, _two_a_step),
    "diffusers": PipelineKind(),
    "rdm": PipelineKind(),
    "imagerag": PipelineKind(),
}


def open_method(config: Config, method: str, paths: ArtifactPaths = NO_SOURCES) -> ImageGenerator:
    """Load a method; ArragError when something it needs is missing or of another generator."""
    return KINDS[config.generator_of(method)[1].kind].open(config, method, paths)


class TokenGenerator:
    """A method of a generator of codes, ready to draw: a ``ImageGenerator``.

    Raises ArragError when something it needs is missing or belongs to another generator.
    """

    def __init__(self, config: Config, method: str, paths: ArtifactPaths = NO_SOURCES):
        self.settings = settings = config.generator_of(method)[1]
        self.kind: CodeKind = KINDS[settings.kind]
        device = default_device()
        backbone = self.kind.load(settings.checkpoint, settings.dtype, device)
        self.tokenizer: ImageTokenizer = load_tokenizer(settings.checkpoint, device)
        equipped = equip(config, method, backbone, self.tokenizer.digest, paths)
        self.backbone, self.augmentation = equipped.backbone, equipped.augment
        self.index = equipped.index
        self.parameters = self.backbone.num_parameters + equipped.parameters
        self.weights = {
            "backbone": tree_digest(settings.checkpoint),
            "tokenizer": self.tokenizer.digest,
            **(equipped.weights or {}),
        }

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """Any prompt can be drawn."""

    def retrieved(self, prompt: str, sample: int) -> RetrievedImages | None:
        """The reference of RA-CM3; other methods retrieve patches, or nothing."""
        found = getattr(self.backbone, "retrieved", None)
        return found(prompt) if found else None

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the backbone reads only the beginning."""
        return self.backbone.truncated_prompts(prompts)

    def generate(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """One image for each pair of prompt and sample number: uint8 [B, S, S, 3]."""
        return self.tokenizer.decode(self.generate_codes(prompts, samples, seed))

    def generate_codes(
        self, prompts: Sequence[str], samples: Sequence[int], seed: int
    ) -> torch.Tensor:
        """The same as codes: int64 [B, H, W]."""
        settings = self.settings
        shape = self.kind.shape(settings, self.backbone.grid[0] * self.backbone.grid[1])
        pairs = zip(prompts, samples, strict=True)
        draws = [
            seeded_uniforms(seed, prompt, sample, math.prod(shape)) for prompt, sample in pairs
        ]
        return self.kind.decode(
            self.backbone,
            prompts,
            np.stack(draws).reshape(-1, *shape),
            augmentation=self.augmentation,
            **settings.model_dump(exclude={"kind", "checkpoint", "dtype"}),
        )
