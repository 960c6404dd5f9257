"""Text-to-image pipelines of diffusers, which the tables compare with.

The pipelines are diffusers' own. What is added: they are loaded without the network, a missing
weight is an error, and an image depends on (seed, prompt, sample) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from arrag.config.generators import Diffusers, Pipeline
from arrag.methods.decoding import seeded_uniforms
from arrag.methods.generator import ImageGenerator
from arrag.methods.pipeline_folder import load_pipeline, read_class
from arrag.methods.registry import MethodContext
from arrag.utils.errors import ConfigError, FormatError
from arrag.utils.hashing import tree_digest


class PipelineSpec(NamedTuple):
    """What is special about a pipeline class of diffusers.

    Attributes:
        pipeline: Name of the class.
        denoiser: Name of its component that removes noise.
        text_lengths: Tokens that each of its tokenizers keeps; None for the tokenizer's own limit.
        overrides: Components and options in place of the folder's.
        call: Fixed arguments of a call.
        one_by_one: Whether an image would depend on the other prompts of its batch.
        negative: Whether it takes a negative prompt.
    """

    pipeline: str
    denoiser: str
    text_lengths: dict[str, int | None]
    overrides: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    call: dict[str, Any] = {}  # noqa: RUF012
    one_by_one: bool = False
    negative: bool = True


# Captions are not cleaned: diffusers does that only where Beautiful Soup is installed.
RAW = {"clean_caption": False}
_LUMINA = PipelineSpec(
    "LuminaPipeline", "transformer", {"tokenizer": 256}, call=RAW, one_by_one=True
)
PIPELINES = {
    "LDMTextToImagePipeline": PipelineSpec(
        # With eta > 0 it would add noise that no seed reaches.
        "LDMTextToImagePipeline", "unet", {"tokenizer": 77}, call={"eta": 0.0}, negative=False
    ),
    "StableDiffusionPipeline": PipelineSpec(
        "StableDiffusionPipeline", "unet", {"tokenizer": None},
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": PipelineSpec(
        "StableDiffusionXLPipeline", "unet", {"tokenizer": None, "tokenizer_2": None},
        {"add_watermarker": False},
    ),
    "StableDiffusion3Pipeline": PipelineSpec(
        "StableDiffusion3Pipeline", "transformer",
        {"tokenizer": None, "tokenizer_2": None, "tokenizer_3": 256},
    ),
    "PixArtAlphaPipeline": PipelineSpec(
        "PixArtAlphaPipeline", "transformer", {"tokenizer": 120},
        call={**RAW, "use_resolution_binning": False},
    ),
    "LuminaPipeline": _LUMINA,
    "LuminaText2ImgPipeline": _LUMINA,  # its former name, which the published folder has
}  # fmt: skip


class DiffusionGenerator(ImageGenerator):
    """A pipeline ready to generate.

    Args:
        pipeline: Loaded, on its device.
        spec: What is special about its class.
        settings: The ``generators`` entry of the configuration.
        weights: Digests of further models that it was loaded from, by role.
        index: Digest of what it retrieves from.

    Attributes:
        num_parameters: Of the denoiser, as most rows of the paper count.
        size: Pixels a side.
        batched: Whether the images of a batch are computed at once.

    Raises:
        ConfigError: The pipeline cannot have these settings.
    """

    def __init__(
        self,
        pipeline: Any,
        spec: PipelineSpec,
        settings: Pipeline,
        weights: dict[str, str] | None = None,
        index: str | None = None,
    ) -> None:
        self.pipeline, self.spec, self.settings = pipeline, spec, settings
        self.weights = {"backbone": tree_digest(settings.checkpoint), **(weights or {})}
        self.index = index
        pipeline.set_progress_bar_config(disable=True)
        self.device = pipeline.device
        self.batched = not spec.one_by_one and self.device.type != "cpu"
        self.denoiser = getattr(pipeline, spec.denoiser)
        self.num_parameters = sum(p.numel() for p in self.denoiser.parameters())
        scale = pipeline.vae_scale_factor
        self.size = settings.size or self.denoiser.config.sample_size * scale
        unit = scale * (getattr(self.denoiser.config, "patch_size", None) or 1)
        if self.size % unit:
            raise ConfigError(
                f"found {self.size}; {settings.checkpoint} generates multiples of {unit} pixels",
                field="size",
            )
        self.negative = getattr(settings, "negative_prompt", None)
        if self.negative is not None and not spec.negative:
            raise ConfigError(
                f"a {spec.pipeline} takes none",
                field="negative_prompt",
                hint=f"remove it for {settings.checkpoint}",
            )

    def truncated_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are truncated for every text encoder."""
        tokenizers = [
            (tokenizer, length or tokenizer.model_max_length)
            for name, length in self.spec.text_lengths.items()
            if (tokenizer := getattr(self.pipeline, name)) is not None
        ]
        # One at a time and without padding: what is counted is the prompt's own tokens.
        return [
            prompt
            for prompt in prompts
            if all(len(read(prompt, verbose=False).input_ids) > n for read, n in tokenizers)
        ]

    def generate(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """Generate one image for each pair of prompt and sample number: uint8 [B, S, S, 3].

        Raises:
            FormatError: A number in an image is not finite, since the dtype is too narrow.
        """
        pixels = self.pixels(prompts, samples, seed)
        if not np.isfinite(pixels).all():
            raise FormatError(
                f"an image is not finite with dtype {self.settings.dtype}",
                path=self.settings.checkpoint,
                hint="use bfloat16 or float32",
            )
        return (pixels * 255).round().astype(np.uint8)

    def pixels(self, prompts: Sequence[str], samples: Sequence[int], seed: int) -> np.ndarray:
        """``generate`` before rounding: float32 [B, S, S, 3] in [0, 1]."""
        jobs = list(zip(prompts, samples, strict=True))
        # Rounding depends on the batch. On a CPU, one image at a time costs nothing.
        size = len(jobs) if self.batched else 1
        parts = [self._call(jobs[i : i + size], seed) for i in range(0, len(jobs), size)]
        return np.concatenate(parts)

    def conditioning(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, Any]:
        """The arguments of the pipeline that say what the images should show."""
        arguments: dict[str, Any] = {"prompt": list(prompts)}
        if self.negative is not None:
            arguments["negative_prompt"] = [self.negative] * len(prompts)
        return arguments

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
            latents=self.initial_latents(generators),
            generator=generators,  # of schedulers that add noise
            output_type=output_type,
            **self.spec.call,
            **self.conditioning(*zip(*jobs, strict=True)),
        ).images

    def initial_latents(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Sample the noise that images start from: [B, C, S / f, S / f]."""
        side = self.size // self.pipeline.vae_scale_factor
        shape = (1, self.denoiser.config.in_channels, side, side)
        noise = [torch.randn(shape, generator=g, dtype=torch.float32) for g in generators]
        return torch.cat(noise).to(self.device, self.denoiser.dtype)


def generator_of(seed: int, prompt: str, sample: int) -> torch.Generator:
    """The random stream of one image, on the CPU: noise is the same for any device."""
    word = int(seeded_uniforms(seed, prompt, sample, 1)[0] * 2**53)  # all bits of a float64
    return torch.Generator().manual_seed(word)


def load_diffusion(settings: Diffusers, device: str | None = None) -> DiffusionGenerator:
    """Load a pipeline from its folder.

    Raises:
        ArragError: The folder is of another pipeline, incomplete or damaged.
    """
    spec = PIPELINES[read_class(settings.checkpoint, PIPELINES)]
    return DiffusionGenerator(load_spec(settings, spec, device), spec, settings)


def load_spec(
    settings: Pipeline, spec: PipelineSpec, device: str | None = None, **overrides: Any
) -> Any:
    """Load the pipeline of ``spec``; ``overrides`` are components in place of the folder's."""
    overrides = {**spec.overrides, **overrides}
    return load_pipeline(settings.checkpoint, spec.pipeline, settings.dtype, device, **overrides)


def build_diffusion(context: MethodContext) -> DiffusionGenerator:
    """Load a pipeline as a method."""
    return load_diffusion(context.settings)
