"""Recolouring of sprites into GenEval's ten colour names."""

from __future__ import annotations

import numpy as np

# Hue in degrees, saturation, and the lightness range the sprite's own shading is mapped to.
_RAMPS = {
    "red": (0, 0.85, 0.30, 0.58),
    "orange": (28, 0.95, 0.42, 0.62),
    "yellow": (54, 0.95, 0.44, 0.70),
    "green": (120, 0.65, 0.20, 0.48),
    "blue": (222, 0.85, 0.28, 0.60),
    "purple": (278, 0.70, 0.28, 0.56),
    "pink": (332, 0.90, 0.66, 0.84),
    "brown": (24, 0.60, 0.16, 0.36),
    "black": (0, 0.0, 0.03, 0.22),
    "white": (0, 0.0, 0.86, 1.00),
}


def recolor(pixels: np.ndarray, color: str) -> np.ndarray:
    """Give a sprite (uint8 RGBA [h, w, 4]) one colour; its shading stays, as lightness.

    The lightness of the visible pixels is stretched to the full range first: a white sheep and a
    black tyre keep their drawing in every colour.
    """
    hue, saturation, low, high = _RAMPS[color]
    rgb = pixels[..., :3].astype(np.float32) / 255
    lightness = (rgb.max(-1) + rgb.min(-1)) / 2
    visible = lightness[pixels[..., 3] > 128]
    floor, ceiling = np.percentile(visible, [2, 98])
    shade = np.clip((lightness - floor) / max(ceiling - floor, 1e-3), 0, 1)
    out = _hsl_to_rgb(hue, saturation, low + (high - low) * shade)
    return np.concatenate([np.rint(out * 255).astype(np.uint8), pixels[..., 3:]], axis=-1)


def _hsl_to_rgb(hue: float, saturation: float, lightness: np.ndarray) -> np.ndarray:
    """The standard conversion for one hue (degrees): float [h, w] to float [h, w, 3]."""
    chroma = (1 - np.abs(2 * lightness - 1)) * saturation
    sector = hue / 60
    second = chroma * (1 - abs(sector % 2 - 1))
    zero = np.zeros_like(chroma)
    order = [
        (chroma, second, zero), (second, chroma, zero), (zero, chroma, second),
        (zero, second, chroma), (second, zero, chroma), (chroma, zero, second),
    ][int(sector) % 6]  # fmt: skip
    return np.stack(order, -1) + (lightness - chroma / 2)[..., None]
