"""Preprocessing of images for feature networks, as the official scorers do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from arrag.utils.errors import UsageError

MODES = ("clean", "legacy_pytorch")
INCEPTION_PIXELS = 299


class Preprocess(Protocol):
    """RGB image -> float32 [3, S, S]; ``identity`` is what a score states about it."""

    @property
    def identity(self) -> dict[str, Any]: ...

    def __call__(self, image: Image.Image) -> np.ndarray: ...


@dataclass(frozen=True)
class Resize299:
    """clean-fid's resizers to 299 x 299, pixels 0 to 255 without quantisation.

    ``clean``: Pillow's antialiased bicubic on each channel as floats, clipped. ``legacy_pytorch``:
    torch's bilinear without antialiasing, which is what pytorch-fid does.
    """

    mode: str = "clean"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            message = f"is {self.mode!r}, expected one of {', '.join(MODES)}"
            raise UsageError(message, field="mode")

    @property
    def identity(self) -> dict[str, Any]:
        """What a score states about it."""
        return {"resize": self.mode, "pixels": INCEPTION_PIXELS}

    def __call__(self, image: Image.Image) -> np.ndarray:
        """float32 [3, 299, 299]."""
        pixels = np.asarray(image, np.float32)  # [H, W, 3]
        size = (INCEPTION_PIXELS, INCEPTION_PIXELS)
        if self.mode == "legacy_pytorch":
            import torch
            import torch.nn.functional as F

            batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
            resized = F.interpolate(batch, size=size, mode="bilinear", align_corners=False)
            return resized[0].numpy().clip(0, 255)
        channels = [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(3)]
        resized = [np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels]
        return np.stack(resized).clip(0, 255)


@dataclass(frozen=True)
class ClipSquare:
    """CMMD's preprocessing: middle square, Pillow's bicubic to ``pixels``, CLIP's mean and std."""

    pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """Crop, size and normalisation."""
        return {
            "resize": "center-crop bicubic",
            "pixels": self.pixels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __call__(self, image: Image.Image) -> np.ndarray:
        """float32 [3, S, S]."""
        square = center_square(image).resize((self.pixels,) * 2, Image.Resampling.BICUBIC)
        pixels = np.asarray(square, np.float32) / np.float32(255)
        mean, std = np.float32(self.mean), np.float32(self.std)
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def center_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle, its offset rounded down."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
