"""Sums of kernel values over pairs of two sets of features, block by block: for KID and CMMD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from arrag.utils.errors import MismatchError, UsageError

BANDWIDTH = 10.0  # of the Gaussian kernel
ROWS, COLUMNS = 1024, 4096  # kernel values held at a time: 32 MiB

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class KernelSums:
    """Sums of kernel values, float64 [R], one for every row w of weights; ``yy`` are numbers.

    ``xx`` = wᵀ K(x, x) w, its diagonal's part ``xx_self`` = Σ w² k(x, x), ``xy`` = wᵀ K(x, y) 1.
    """

    xx: np.ndarray
    xx_self: np.ndarray
    xy: np.ndarray
    yy: float
    yy_self: float


def gaussian_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp(-|x - y|² / 2σ²) of rows [a, d] and [b, d]: [a, b]."""
    squared = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1)[None, :] - 2 * (x @ y.T)
    return np.exp(-squared / (2 * BANDWIDTH**2))


def cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / d + 1)³ of rows [a, d] and [b, d]: [a, b]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_sums(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, weights: np.ndarray | None = None
) -> tuple[KernelSums, np.ndarray]:
    """Sums of ``kernel`` over features [n, d] and [m, d], and the weights [R, n] that were used.

    Raises:
        MismatchError: The dimensions differ.
        UsageError: A set is empty.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise MismatchError(
            f"features of shapes {x.shape} and {y.shape} cannot be compared",
            hint="use one extractor for both",
        )
    if not len(x) or not len(y):
        raise UsageError("one set holds no image", hint="give at least one on each side")
    w = np.ones((1, len(x))) if weights is None else np.asarray(weights, np.float64)
    ones = np.ones((1, len(y)))
    xx, xx_self = _weighted(x, x, kernel, w, w)
    yy, yy_self = _weighted(y, y, kernel, ones, ones)
    xy, _ = _weighted(x, y, kernel, w, ones)
    return KernelSums(xx, xx_self, xy, float(yy[0]), float(yy_self[0])), w


def _weighted(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Σ left[r,i] k(x_i, y_j) right[r,j] and Σ left[r,i]² k(x_i, x_i), for every r.

    ``right`` may have one row for all r.
    """
    total, own = np.zeros(len(left)), np.zeros(len(left))
    blocks = [(i, j) for i in range(0, len(x), ROWS) for j in range(0, len(y), COLUMNS)]
    for i, j in tqdm(blocks, desc="kernel", unit="block", disable=len(blocks) < 8, leave=False):
        values = kernel(x[i : i + ROWS], y[j : j + COLUMNS])  # [a, b]
        total += np.sum(left[:, i : i + ROWS].T * (values @ right[:, j : j + COLUMNS].T), 0)
    for i in range(0, len(x), ROWS):
        rows = x[i : i + ROWS]
        own += left[:, i : i + ROWS] ** 2 @ _diagonal(rows, kernel)
    return total, own


def _diagonal(rows: np.ndarray, kernel: Kernel) -> np.ndarray:
    """k(x, x) of every row: float64 [a]."""
    return np.array([kernel(row[None], row[None])[0, 0] for row in rows])
