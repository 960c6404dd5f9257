"""The VQ tokenizers of aMUSEd and Emu3, with the quantisers of diffusers and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Emu3Config, Emu3ImageProcessor
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

from arrag.tokenizers.base import ImageTokenizer, register_tokenizer
from arrag.utils.checkpoint import (
    digest_tensors,
    load_assigned,
    load_weights,
    loading,
    read_tensors,
)
from arrag.utils.files import read_json

EMU3_PREFIXES = ("vqmodel.", "model.vqmodel.")
"""Prefixes of its weights in a checkpoint: as published and saved, or as in transformers' class."""


EMU3_IMAGE_AREA = 720 * 720
"""Pixels of an image of the published checkpoints."""


class AmusedVqTokenizer(ImageTokenizer):
    """diffusers' ``VQModel``; its pixels are in [0, 1]."""

    def __init__(self, model: Any, side: int, digest: str):
        self.model = model.eval().requires_grad_(False)
        patch = 2 ** (len(model.config.block_out_channels) - 1)
        rows = model.quantize.embedding.weight.detach()
        super().__init__(side * patch, (side, side), rows, digest)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latent = self.model.encode((pixels + 1) / 2).latents  # [B, d, H, W]
        return self.model.quantize(latent)[2][2].view(-1, *self.grid)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        latent = self.codebook[codes].permute(0, 3, 1, 2)  # [B, d, H, W]
        return self.model.decode(latent, force_not_quantize=True).sample * 2 - 1


class Emu3VqTokenizer(ImageTokenizer):
    """transformers' ``Emu3VQVAE``; an image is a video of one frame.

    Args:
        model: The tokenizer.
        side: Codes a side.
        mean: Mean [3] of the pixels in [0, 1] that it was trained with.
        std: Their standard deviation [3].
        digest: Of its weights.
    """

    def __init__(
        self, model: Emu3VQVAE, side: int, mean: torch.Tensor, std: torch.Tensor, digest: str
    ):
        self.model = model.eval().requires_grad_(False)
        rows = model.quantize.embedding.weight.detach()
        self.mean, self.std = (part.view(3, 1, 1).to(rows) for part in (mean, std))
        super().__init__(side * model.spatial_scale_factor, (side, side), rows, digest)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = ((pixels + 1) / 2 - self.mean) / self.std
        sizes = [pixels.shape[-2:]] * len(pixels)
        return torch.stack(self.model.encode(pixels, image_sizes=sizes).image_tokens)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        return (self.model.decode(codes) * self.std + self.mean) * 2 - 1


@register_tokenizer("AmusedPipeline")
def load_amused_vq(checkpoint: Path, raw: dict[str, Any], device: str = "cpu") -> AmusedVqTokenizer:
    """Load the tokenizer of an aMUSEd checkpoint in diffusers' format."""
    from diffusers import VQModel  # takes seconds, and Emu3 does not need it

    side = read_json(checkpoint / "transformer" / "config.json")["sample_size"]
    folder = checkpoint / "vqvae"
    config, state = read_json(folder / "config.json"), read_tensors(folder)
    model = load_assigned(lambda: VQModel.from_config(config), state, folder, "float32")
    # In the published configuration the codebook is looked up by the pipeline's decoder.
    model.register_to_config(lookup_from_codebook=False)
    return AmusedVqTokenizer(model.to(device), side, digest_tensors(state))


@register_tokenizer("emu3")
def load_emu3_vq(checkpoint: Path, raw: dict[str, Any], device: str = "cpu") -> Emu3VqTokenizer:
    """Load the tokenizer of an Emu3 checkpoint in transformers' format."""
    config = Emu3Config.from_dict(raw)
    parts = [read_tensors(checkpoint, prefix) for prefix in EMU3_PREFIXES]
    state = next((part for part in parts if part), {})
    model = Emu3VQVAE(config.vq_config)
    load_weights(model, {k: v.float() for k, v in state.items()}, checkpoint)
    with loading(checkpoint / "preprocessor_config.json", "the pixels' mean and deviation"):
        pixels = Emu3ImageProcessor.from_pretrained(checkpoint, local_files_only=True)
    mean, std = torch.tensor(pixels.image_mean), torch.tensor(pixels.image_std)
    side = emu3_grid_side(config.to_dict())
    return Emu3VqTokenizer(model.to(device), side, mean, std, digest_tensors(state))


def emu3_grid_side(raw: dict[str, Any]) -> int:
    """Codes a side of an image of an Emu3 checkpoint, from its ``config.json``.

    ``image_area`` is in pixels, as in the original's configuration; without it the side is 90.
    """
    patch = 2 ** (len(raw["vq_config"]["channel_multiplier"]) - 1)
    return round((raw.get("image_area") or EMU3_IMAGE_AREA) ** 0.5) // patch
