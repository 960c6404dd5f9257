"""Fingerprints of images: a digest of the pixels and a perceptual hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an image and its copies.

    Attributes:
        sha256: Hex SHA-256 of the image's size and RGB pixels, whatever the file format.
        phash: 64-bit perceptual hash.
    """

    sha256: str
    phash: int


def fingerprint(image: Image.Image) -> Fingerprint:
    """Compute the fingerprint of an RGB image."""
    pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return Fingerprint(pixels, perceptual_hash(image))


def perceptual_hash(image: Image.Image) -> int:
    """Compute the 64-bit pHash: the signs of the low DCT coefficients of a 32 x 32 thumbnail.

    It survives another file format, JPEG compression and resizing, but not cropping or rotation.
    """
    bits = imagehash.phash(image).hash.reshape(-1)  # bool [64]
    return int.from_bytes(np.packbits(bits).tobytes())
