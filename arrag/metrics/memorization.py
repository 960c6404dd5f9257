"""Memorization: the share of an image's patches that are copied from another, by their codes.

A patch counts as copied when the square window of codes around it occurs anywhere in the other
image. Codes are discrete, so there is no threshold; a cosine says how near the other windows come.
Windows that leave the grid are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from arrag.utils.errors import UsageError

WINDOW = 3
"""Codes a side: a patch and the neighbours that its key is made of."""


def windows(codes: np.ndarray, size: int = WINDOW) -> np.ndarray:
    """All windows of a grid: integer [H, W] -> int64 [(H - size + 1) (W - size + 1), size * size].

    Raises:
        UsageError: The grid is smaller than a window.
    """
    if min(codes.shape) < size:
        message = f"copying: the grid is {list(codes.shape)}, the window {size} x {size}"
        raise UsageError(message, hint="use a smaller window")
    return sliding_window_view(codes.astype(np.int64), (size, size)).reshape(-1, size * size)


def patch_copy_rate(codes: np.ndarray, other: np.ndarray, size: int = WINDOW) -> float:
    """Share of the windows of ``codes`` that occur anywhere in ``other``, both integer [H, W]."""
    ours, theirs = windows(codes, size), {tuple(row) for row in windows(other, size)}
    return float(np.mean([tuple(row) in theirs for row in ours]))


def nearest_similarity(
    codes: np.ndarray, other: np.ndarray, vectors: np.ndarray, size: int = WINDOW
) -> float:
    """Mean over the windows of ``codes`` of the largest cosine with a window of ``other``.

    A window's vector is the concatenation of its codes' vectors. The mean is 1 when every window
    is copied.

    Args:
        codes: Integer [H, W].
        other: Integer [H, W].
        vectors: float [V, d], the codebook.
        size: Codes a side of a window.
    """
    ours, theirs = (_unit(windows(grid, size), vectors) for grid in (codes, other))
    return float(np.minimum(ours @ theirs.T, 1).max(axis=1).mean())


def _unit(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Windows of codes [n, s] -> unit vectors float64 [n, s d]."""
    flat = vectors.astype(np.float64)[rows].reshape(len(rows), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def other_images(references: np.ndarray, images: int, seed: int) -> np.ndarray:
    """For each reference another image of the database, at random: int64 [n].

    Raises:
        UsageError: The database has a single image.
    """
    if images < 2:
        raise UsageError("copying: the database holds one image, there is none to compare with")
    steps = np.random.default_rng(seed).integers(1, images, len(references))
    return (references + steps) % images
