"""Text-to-image pipelines of diffusers: what the tables compare with.

The pipelines are diffusers' own. What is added: they are read from a folder without the network, a
part that is missing is an error, and an image depends on (seed, prompt, sample) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
import transformers
from diffusers.utils import logging

from arrag.config.generators import Diffusers, Pipeline
from arrag.methods.decoding import seeded_uniforms
from arrag.methods.pipeline_folder import INDEX, first_line, load_parts, read_index
from arrag.methods.retrieved_images import RetrievedImages
from arrag.utils.device import default_device
from arrag.utils.errors import ArragError


class Kind(NamedTuple):
    """How a class of diffusers differs from the others.

    denoiser: its component that removes noise; reads: tokens that each tokenizer keeps, None for
    its own limit; given: what replaces a component or option of the folder; call: fixed arguments;
    alone: whether the length of a prompt changes the others of its batch; negative: whether it
    takes a negative prompt.
    """

    pipeline: str
    denoiser: str
    reads: dict[str, int | None]
    given: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    call: dict[str, Any] = {}  # noqa: RUF012
    alone: bool = False
    negative: bool = True


# Captions are not cleaned: diffusers does that only where Beautiful Soup is installed.
RAW = {"clean_caption": False}
_LUMINA = Kind("LuminaPipeline", "transformer", {"tokenizer": 256}, call=RAW, alone=True)
KINDS = {
    "LDMTextToImagePipeline": Kind(
        # With eta > 0 it would draw noise that no seed reaches.
        "LDMTextToImagePipeline", "unet", {"tokenizer": 77}, call={"eta": 0.0}, negative=False
    ),
    "StableDiffusionPipeline": Kind(
        "StableDiffusionPipeline", "unet", {"tokenizer": None},
        given={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": Kind(
        "StableDiffusionXLPipeline", "unet", {"tokenizer": None, "tokenizer_2": None},
        given={"add_watermarker": False},
    ),
    "StableDiffusion3Pipeline": Kind(
        "StableDiffusion3Pipeline", "transformer",
        {"tokenizer": None, "tokenizer_2": None, "tokenizer_3": 256},
    ),
    "PixArtAlphaPipeline": Kind(
        "PixArtAlphaPipeline", "transformer", {"tokenizer": 120},
        call={**RAW, "use_resolution_binning": False},
    ),
    "LuminaPipeline": _LUMINA,
    "LuminaText2ImgPipeline": _LUMINA,  # its former name, which the published folder has
}  # fmt: skip


class Diffusion:
    """A pipeline ready to draw.

    parameters: of its denoiser, as most rows of the paper count; size: pixels a side; together:
    whether the images of a batch are computed at once; weights, index: digests of what it was
    loaded from and retrieves from, which whoever loads it fills in.
    """

    def __init__(self, pipeline: Any, kind: Kind, settings: Pipeline) -> None:
        self.pipeline, self.kind, self.settings = pipeline, kind, settings
        pipeline.set_progress_bar_config(disable=True)
        self.weights: dict[str, str] = {}
        self.index: str | None = None
        self.device = pipeline.device
        self.together = not kind.alone and self.device.type != "cpu"
        self.denoiser = getattr(pipeline, kind.denoiser)
        self.parameters = sum(p.numel() for p in self.denoiser.parameters())
        scale = pipeline.vae_scale_factor
        self.size = settings.size or self.denoiser.config.sample_size * scale
        unit = scale * (getattr(self.denoiser.config, "patch_size", None) or 1)
        if self.size % unit:
            raise ArragError(
                f"size: found {self.size}; {settings.checkpoint} draws multiples of {unit} pixels"
            )
        self.negative = getattr(settings, "negative_prompt", None)
        if self.negative is not None and not kind.negative:
            raise ArragError(
                f"negative_prompt: a {kind.pipeline} takes none; remove it for "
                f"{settings.checkpoint}"
            )

    def check(self, prompts: Sequence[str], samples: int) -> None:
        """Any prompt can be drawn."""

    def retrieved(self, prompt: str, sample: int) -> RetrievedImages | None:
        """Nothing."""
        return None

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which no text encoder reads all."""
        reads = {name: getattr(self.pipeline, name) for name in self.kind.reads}
        limits = {
            name: self.kind.reads[name] or tokenizer.model_max_length
            for name, tokenizer in reads.items()
            if tokenizer is not None
        }
        # One at a time and without padding: what is counted is the prompt's own tokens.
        return [
            prompt
            for prompt in prompts
            if all(len(_tokens(reads[name], prompt)) > limit for name, limit in limits.items())
        ]

    def generate(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """One image for each pair of prompt and sample number: uint8 [B, S, S, 3].

        Raises ArragError when a number in an image is not finite (a dtype too narrow).
        """
        return to_bytes(self.pixels(prompts, samples, seed), self.settings)

    def pixels(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """``draw`` before rounding: float32 [B, S, S, 3] in [0, 1]."""
        jobs = list(zip(prompts, samples, strict=True))
        # Rounding depends on the batch: on a CPU, where nothing is lost by it, each image is alone.
        size = len(jobs) if self.together else 1
        parts = [self._call(jobs[i : i + size], seed) for i in range(0, len(jobs), size)]
        return np.concatenate(parts)

    def condition(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """What the pipeline is told of the images to draw, as its own arguments."""
        told: dict[str, Any] = {"prompt": list(prompts)}
        if self.negative is not None:
            told["negative_prompt"] = [self.negative] * len(prompts)
        return told

    @torch.inference_mode()
    def _call(
        self, jobs: Sequence[tuple[str, int]], seed: int, output_type: str = "np"
    ) -> np.ndarray | torch.Tensor:
        generators = [generator_of(seed, prompt, sample) for prompt, sample in jobs]
        return self.pipeline(
            height=self.size,
            width=self.size,
            num_inference_steps=self.settings.steps,
            guidance_scale=self.settings.guidance_scale,
            latents=self.noise(generators),
            generator=generators,  # of schedulers that add noise
            output_type=output_type,
            **self.kind.call,
            **self.condition(*zip(*jobs, strict=True)),
        ).images

    def noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """The latents that an image starts from, of the pipeline's dtype: [B, C, S / f, S / f]."""
        side = self.size // self.pipeline.vae_scale_factor
        shape = (1, self.denoiser.config.in_channels, side, side)
        drawn = [torch.randn(shape, generator=g, dtype=torch.float32) for g in generators]
        return torch.cat(drawn).to(self.device, self.denoiser.dtype)


def generator_of(seed: int, prompt: str, sample: int) -> torch.Generator:
    """The random stream of one image, on the CPU: noise is the same for any device."""
    word = int(seeded_uniforms(seed, prompt, sample, 1)[0] * 2**53)  # all bits of a float64
    return torch.Generator().manual_seed(word)


def to_bytes(pixels: np.ndarray, settings: Pipeline) -> np.ndarray:
    """Float [B, S, S, 3] in [0, 1] -> uint8; ArragError if a number is not finite."""
    if not np.isfinite(pixels).all():
        raise ArragError(
            f"{settings.checkpoint}: an image holds numbers that are not finite with dtype "
            f"{settings.dtype}; use bfloat16 or float32"
        )
    return (pixels * 255).round().astype(np.uint8)


def load_diffusion(settings: Diffusers, device: str | None = None) -> Diffusion:
    """Load the folder of a pipeline; ArragError names what is wrong with it."""
    index = read_index(settings.checkpoint, tuple(KINDS))
    kind = KINDS[index["_class_name"]]
    return Diffusion(load_pipeline(settings, index, kind, device), kind, settings)


def load_pipeline(
    settings: Pipeline,
    index: dict[str, Any],
    kind: Kind,
    device: str | None = None,
    **given: Any,
) -> Any:
    """diffusers' pipeline of a folder, every part checked.

    index: the folder's, from ``read_index``; given: parts in place of the folder's, as
    ``kind.given``; device: None is the accelerator if there is one.
    """
    logging.set_verbosity_error()  # it warns of every prompt that is cut, and of what is left out
    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    given = {**kind.given, **given}
    parts = load_parts(settings.checkpoint, index, getattr(torch, settings.dtype), given)
    try:
        pipeline = getattr(diffusers, kind.pipeline)(**parts, **given)
    except (TypeError, ValueError, AttributeError) as error:  # a part missing, or not of its class
        raise ArragError(
            f"{settings.checkpoint / INDEX}: what it lists makes no {kind.pipeline} "
            f"({first_line(error)}); fetch that folder again"
        ) from error
    return pipeline.to(device or default_device())


def _tokens(tokenizer: Any, prompt: str) -> list[int]:
    return tokenizer(prompt, verbose=False).input_ids
