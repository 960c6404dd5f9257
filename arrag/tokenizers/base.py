"""What an image tokenizer is, and loading the one of a checkpoint by name.

A loader is registered under what a checkpoint's ``config.json`` (``model_type`` or
``_class_name``) or diffusers' ``model_index.json`` (``_class_name``) says, and takes (checkpoint
folder, that file's JSON, device).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.utils.checkpoint import loading
from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import read_model
from arrag.utils.registry import Registry

TOKENIZERS: Registry[Callable[[Path, dict[str, Any], str], ImageTokenizer]] = Registry(
    "image tokenizer",
    {
        "AmusedPipeline": "arrag.tokenizers.vq:load_amused_vq",
        "LlamaGen": "arrag.tokenizers.janus_vq:load_llamagen_vq",
        "MAGVITv2": "arrag.tokenizers.magvit2:load_magvit2",
        "Showo": "arrag.tokenizers.magvit2:load_showo_magvit2",
        "emu3": "arrag.tokenizers.vq:load_emu3_vq",
        "janus": "arrag.tokenizers.janus_vq:load_janus_vq",
    },
)
register_tokenizer = TOKENIZERS.register


class ImageTokenizer(ABC):
    """Images to codes (image tokens) and back: float32, in evaluation mode.

    Attributes:
        image_size: Pixels a side.
        grid: (H, W) codes of an image.
        codebook: float32 [V, d], the vectors that distances are measured between.
        digest: SHA-256 of the tokenizer's weights, whatever language model they came with.
    """

    def __init__(
        self, image_size: int, grid: tuple[int, int], codebook: torch.Tensor, digest: str
    ) -> None:
        self.image_size, self.grid, self.codebook, self.digest = image_size, grid, codebook, digest

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> torch.Tensor:
        """Encode uint8 images [B, S, S, 3] to int64 codes [B, H, W].

        Raises:
            MismatchError: The images have another size; resizing is left to the caller.
        """
        size = (self.image_size, self.image_size, 3)
        if images.shape[1:] != size:
            raise MismatchError(
                f"images are {images.shape[1:]}, the tokenizer takes {size}",
                hint="resize and crop them first",
            )
        device = self.codebook.device
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self._in_chunks(self._encode, pixels)

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor) -> np.ndarray:
        """Decode int64 codes [B, H, W] to uint8 images [B, S, S, 3]."""
        pixels = self._in_chunks(self._decode, codes.to(self.codebook.device))  # [B, 3, S, S]
        pixels = (pixels.clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    @abstractmethod
    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, S, S] in [-1, 1] -> int64 codes [B, H, W]."""

    @abstractmethod
    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 codes [B, H, W] -> float32 [B, 3, S, S], about [-1, 1]."""

    def _in_chunks(self, function: Callable, batch: torch.Tensor) -> torch.Tensor:
        """Apply ``function`` to a batch; on a CPU to one image at a time.

        Convolutions round differently for another batch size, enough to move a pixel by one.
        One at a time an image does not depend on its batch, and on one core no time is lost.
        """
        size = 1 if batch.device.type == "cpu" else len(batch)
        return torch.cat([function(part) for part in batch.split(size)])


def load_tokenizer(checkpoint: str | Path, device: str = "cpu") -> ImageTokenizer:
    """Load the image tokenizer, and nothing else, of a checkpoint folder.

    Raises:
        FormatError: The folder is of no known kind, or a file in it is damaged.
        MismatchError: The weights do not fit the configuration.
    """
    checkpoint = Path(checkpoint)
    index = checkpoint / "model_index.json"
    path = index if index.is_file() else checkpoint / "config.json"
    raw = read_model(path, dict[str, Any])
    kind = raw.get("model_type") or raw.get("_class_name")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise FormatError(
            f"is {kind!r}, expected one of {', '.join(TOKENIZERS)}",
            path=path,
            field="model_type",
            hint="give a checkpoint folder in its published format, or one of `arrag convert`",
        )
    with loading(path, "the configuration of an image tokenizer", "restore it"):
        return TOKENIZERS.get(kind)(checkpoint, raw, device)
