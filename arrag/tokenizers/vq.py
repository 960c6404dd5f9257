"""Tokenizers whose codebooks are taken as they are: those of aMUSEd and of Emu3.

The library's own quantiser finds the nearest row; nothing is normalised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Emu3Config, Emu3ImageProcessor
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

from arrag.tokenizers.base import Codec
from arrag.utils.checkpoint import digest_tensors, load_assigned, load_weights, read_tensors
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json

EMU3_PREFIXES = ("vqmodel.", "model.vqmodel.")
"""Where it is in a checkpoint: as published and as transformers saves it, or as in its class."""


EMU3_IMAGE_AREA = 720 * 720
"""Pixels of an image of the published checkpoints."""


class AmusedCodec(Codec):
    """diffusers' ``VQModel`` of aMUSEd; its pixels are in [0, 1]."""

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


class Emu3Codec(Codec):
    """transformers' ``Emu3VQVAE``; an image is a video of one step.

    mean, std: of the pixels in [0, 1] that it was trained with, [3].
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


def load_amused_codec(checkpoint: Path, device: str = "cpu") -> AmusedCodec:
    """Load the tokenizer of an aMUSEd folder of diffusers.

    Raises ArragError for missing or damaged files and keys or shapes that differ.
    """
    from diffusers import VQModel

    side = read_json(checkpoint / "transformer" / "config.json")["sample_size"]
    config, state = (
        read_json(checkpoint / "vqvae" / "config.json"),
        read_tensors(checkpoint / "vqvae"),
    )
    model = load_assigned(
        lambda: VQModel.from_config(config), state, checkpoint / "vqvae", "float32"
    )
    # In the published configuration the codebook is looked up by the pipeline's decoder.
    model.register_to_config(lookup_from_codebook=False)
    return AmusedCodec(model.to(device), side, digest_tensors(state))


def load_emu3_codec(checkpoint: Path, raw: dict[str, Any], device: str = "cpu") -> Emu3Codec:
    """Load the tokenizer of an Emu3 folder of transformers whose config.json is ``raw``.

    Raises ArragError for missing or damaged files and keys or shapes that differ.
    """
    config = Emu3Config.from_dict(raw)
    parts = [read_tensors(checkpoint, prefix) for prefix in EMU3_PREFIXES]
    state = next((part for part in parts if part), {})
    model = Emu3VQVAE(config.vq_config)
    load_weights(model, {k: v.float() for k, v in state.items()}, checkpoint)
    try:
        pixels = Emu3ImageProcessor.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ArragError(
            f"{checkpoint}: its preprocessor_config.json cannot be read ({error}); fetch it again"
        ) from error
    mean, std = torch.tensor(pixels.image_mean), torch.tensor(pixels.image_std)
    side = grid_side(config.to_dict())
    return Emu3Codec(model.to(device), side, mean, std, digest_tensors(state))


def grid_side(raw: dict[str, Any]) -> int:
    """Codes a side of the images that a checkpoint's ``config.json`` draws: 90 if it is silent.

    ``image_area`` is in pixels, as in the original's own configuration.
    """
    patch = 2 ** (len(raw["vq_config"]["channel_multiplier"]) - 1)
    return round((raw.get("image_area") or EMU3_IMAGE_AREA) ** 0.5) // patch
