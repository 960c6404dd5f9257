"""What generates images: the interface of every method, and the one for image tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from arrag.backbones.registry import load_backbone
from arrag.methods.augmentation import Augmentation
from arrag.methods.decoding import decode_masked, decode_raster, seeded_uniforms
from arrag.methods.retrieved_images import RetrievedImages
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.device import default_device
from arrag.utils.hashing import tree_digest
from arrag.utils.registry import import_registering

LOADING = {"kind", "checkpoint", "dtype", "name", "module", "decoding"}
"""Fields of a generator that say what to load; the others are arguments of its decoding loop."""


class ImageGenerator(ABC):
    """A method, loaded and ready to generate.

    An image depends on its prompt, its sample number and the seed alone.

    Attributes:
        weights: Digests of everything that was loaded, by role.
        index: Digest of what is retrieved from; None if nothing is.
        num_parameters: Number of weights, counted as the paper's tables count them.
        device: Where the weights are.
    """

    weights: dict[str, str]
    index: str | None
    num_parameters: int
    device: torch.device

    @abstractmethod
    def generate(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """Generate one image for each pair of prompt and sample number.

        Returns:
            uint8 [B, S, S, 3].
        """

    def check_prompts(self, prompts: Sequence[str], samples: int) -> None:  # noqa: B027
        """Raise ArragError unless ``samples`` images of each prompt can be generated."""

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the model reads only the beginning."""
        return []

    def retrieved_images(self, prompt: str, sample: int) -> RetrievedImages | None:
        """The whole images that an image is conditioned on; None without any."""
        return None


@dataclass(frozen=True)
class TokenGenerator(ImageGenerator):
    """A backbone, its decoding loop, and what a method adds to them.

    Attributes:
        settings: The ``generators`` entry of the configuration. Other than the fields that say what
            to load, it holds the keyword arguments of the decoding loop.
        backbone: The model that predicts image tokens.
        image_tokenizer: Turns image tokens into pixels.
        weights: Digests of everything that was loaded, by role.
        num_parameters: Of the backbone and of modules added to it.
        augmentation: Retrieval in the decoding loop.
        index: Digest of what is retrieved from.
        image_retriever: Gives the whole images that a prompt is conditioned on.
    """

    settings: Any
    backbone: Any
    image_tokenizer: ImageTokenizer
    weights: dict[str, str]
    num_parameters: int
    augmentation: Augmentation | None = None
    index: str | None = None
    image_retriever: Callable[[str], RetrievedImages] | None = None

    @classmethod
    def load(cls, settings: Any) -> TokenGenerator:
        """Load the backbone and its image tokenizer, without any augmentation.

        Raises:
            ArragError: The checkpoint is missing or damaged.
        """
        device = default_device()
        kind, module = settings.kind, getattr(settings, "module", None)
        if module is not None:
            import_registering(module)
            kind = settings.name
        backbone = load_backbone(kind, settings.checkpoint, settings.dtype, device)
        image_tokenizer = load_tokenizer(settings.checkpoint, device)
        weights = {
            "backbone": tree_digest(settings.checkpoint),
            "tokenizer": image_tokenizer.digest,
        }
        return cls(settings, backbone, image_tokenizer, weights, backbone.num_parameters)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.device

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which the backbone reads only the beginning."""
        return self.backbone.truncated_prompts(prompts)

    def retrieved_images(self, prompt: str, sample: int) -> RetrievedImages | None:
        """The reference images of a prompt, the same for all its samples."""
        return self.image_retriever(prompt) if self.image_retriever else None

    def generate(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """Generate image tokens and decode them: uint8 [B, S, S, 3]."""
        return self.image_tokenizer.decode(self.generate_codes(prompts, samples, seed))

    def generate_codes(
        self, prompts: Sequence[str], samples: Sequence[int], seed: int
    ) -> torch.Tensor:
        """Generate the image tokens of each pair of prompt and sample number: int64 [B, H, W]."""
        shape: tuple[int, ...] = (math.prod(self.backbone.grid),)
        decode = decode_raster
        if self.backbone.decoding == "masked":
            shape, decode = (self.settings.steps, 2, *shape), decode_masked
        pairs = zip(prompts, samples, strict=True)
        noise = [seeded_uniforms(seed, p, k, math.prod(shape)) for p, k in pairs]
        return decode(
            self.backbone,
            prompts,
            np.stack(noise).reshape(-1, *shape),
            augmentation=self.augmentation,
            **self.settings.model_dump(exclude=LOADING),
        )
