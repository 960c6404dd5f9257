"""Images to codes to vectors and back: the tokenizer of a checkpoint.

The quantiser of Janus and LlamaGen is the original one (FoundationVision/LlamaGen): encoder output
and codebook rows are L2-normalised before the nearest row is taken. transformers' own
``JanusVQVAE.encode`` leaves the normalisation out, which gives other codes wherever the codebook's
rows differ in norm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import JanusConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from arrag.utils.checkpoint import digest_tensors, load_weights, read_tensors
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.readers import short_message

PREFIX = "model.vqmodel."
LIBRARY = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    StrictDataclassError,
)
"""What transformers and diffusers raise at a field of another type."""


class Codec(ABC):
    """A tokenizer in evaluation mode, float32.

    image_size: pixels a side; grid: (H, W) codes; codebook: float32 [V, d], the vectors that
    distances are measured between; digest: SHA-256 of the tokenizer's weights, whatever language
    model they came with.
    """

    def __init__(
        self, image_size: int, grid: tuple[int, int], codebook: torch.Tensor, digest: str
    ) -> None:
        self.image_size, self.grid, self.codebook, self.digest = image_size, grid, codebook, digest

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 images [B, S, S, 3] -> int64 codes [B, H, W].

        Raises ArragError for images of another size: resizing is the caller's decision.
        """
        if images.shape[1:] != (self.image_size, self.image_size, 3):
            raise ArragError(
                f"encode: images are {images.shape[1:]}, the tokenizer takes "
                f"({self.image_size}, {self.image_size}, 3); resize and crop them first"
            )
        device = self.codebook.device
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self._in_chunks(self._encode, pixels)

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor) -> np.ndarray:
        """int64 codes [B, H, W] -> uint8 images [B, S, S, 3]."""
        pixels = self._in_chunks(self._decode, codes.to(self.codebook.device))  # [B, 3, S, S]
        pixels = (pixels.clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    @abstractmethod
    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, S, S] in [-1, 1] -> int64 codes [B, H, W]."""

    @abstractmethod
    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [B, H, W] -> float32 [B, 3, S, S], about [-1, 1]."""

    def _in_chunks(self, function, batch: torch.Tensor) -> torch.Tensor:
        """Apply ``function`` to a batch; on a CPU to one image at a time.

        The library's convolutions round differently for another batch size, enough to move a
        pixel by one; alone, an image is what it is, and on one core no time is lost.
        """
        size = 1 if batch.device.type == "cpu" else len(batch)
        return torch.cat([function(part) for part in batch.split(size)])


class Vq16Codec(Codec):
    """The VQ tokenizer of LlamaGen and Janus; codebook rows have unit length."""

    def __init__(self, vqmodel: JanusVQVAE, image_size: int, digest: str):
        self.vqmodel = vqmodel.eval().requires_grad_(False)
        side = vqmodel.quantize.quant_state_dims[0]
        rows = F.normalize(vqmodel.quantize.embedding.weight.detach().float(), dim=1)
        super().__init__(image_size, (side, side), rows, digest)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latent = self.vqmodel.quant_conv(self.vqmodel.encoder(pixels))  # [B, d, H, W]
        unit = F.normalize(latent, dim=1).permute(0, 2, 3, 1)  # [B, H, W, d]
        # Among unit vectors the nearest in L2 is the one of largest inner product.
        return (unit @ self.codebook.T).argmax(-1)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.vqmodel.decode(codes.flatten(1))


def load_codec(checkpoint: str | Path, device: str = "cpu") -> Codec:
    """Load only the tokenizer of a checkpoint folder of any backbone, or MAGVIT-v2 alone.

    Which one it is stands in its config.json, or in the model_index.json of diffusers. Raises
    ArragError for a missing or truncated checkpoint, naming the file.
    """
    checkpoint = Path(checkpoint)
    index = checkpoint / "model_index.json"
    path = index if index.is_file() else checkpoint / "config.json"
    raw = read_json(path, {})
    kind = raw.get("model_type") or raw.get("_class_name")
    if not isinstance(kind, str) or kind not in _LOADERS:
        raise ArragError(
            f"{path}: model_type is {kind!r}, expected one of "
            f"{', '.join(map(repr, _LOADERS))}; give the folder of a Janus or Emu3 checkpoint in "
            "transformers' format, of an aMUSEd one in diffusers', of a Show-o one, or one that "
            "`arrag convert` made"
        )
    try:
        return _LOADERS[kind](checkpoint, raw, device)
    except LIBRARY as error:
        raise ArragError(
            f"{path}: describes no tokenizer that can be built ({short_message(error)}); restore it"
        ) from error


def _load_janus(checkpoint: Path, raw: dict[str, Any], device: str) -> Codec:
    config = JanusConfig.from_dict(raw)
    state = read_tensors(checkpoint, PREFIX)
    vqmodel = JanusVQVAE(config.vq_config)
    load_weights(vqmodel, {k: v.float() for k, v in state.items()}, checkpoint)
    codec = Vq16Codec(vqmodel.to(device), config.vision_config.image_size, digest_tensors(state))
    patch = 2 ** (len(config.vq_config.channel_multiplier) - 1)
    if codec.image_size != codec.grid[0] * patch:
        raise ValueError(
            f"image_size is {codec.image_size}, num_patches {codec.grid[0]} of {patch} pixels each"
        )
    return codec


def _load_showo(checkpoint: Path, raw: dict[str, Any], device: str) -> Codec:
    from arrag.tokenizers.magvit2 import FOLDER, load_magvit

    return load_magvit(checkpoint / FOLDER, raw["num_vq_tokens"], device)


def _load_magvit(checkpoint: Path, raw: dict[str, Any], device: str) -> Codec:
    from arrag.tokenizers.magvit2 import load_magvit

    return load_magvit(checkpoint, None, device)


def _load_llamagen(checkpoint: Path, raw: dict[str, Any], device: str) -> Codec:
    from arrag.tokenizers.janus_vq import FOLDER, load_vq16

    return load_vq16(checkpoint / FOLDER, raw.get("grid", 16), device)


def _load_amused(checkpoint: Path, raw: dict[str, Any], device: str) -> Codec:
    from arrag.tokenizers.vq import load_amused_codec

    return load_amused_codec(checkpoint, device)


def _load_emu3(checkpoint: Path, raw: dict[str, Any], device: str) -> Codec:
    from arrag.tokenizers.vq import load_emu3_codec

    return load_emu3_codec(checkpoint, raw, device)


_LOADERS = {
    "janus": _load_janus,
    "Showo": _load_showo,
    "MAGVITv2": _load_magvit,
    "LlamaGen": _load_llamagen,
    "AmusedPipeline": _load_amused,
    "emu3": _load_emu3,
}
