"""Maximum mean discrepancies of two sets of features: CMMD and KID, block by block.

CMMD (Jayasumana et al. 2024, google-research/cmmd): Gaussian kernel of bandwidth 10 on unit CLIP
vectors, the biased estimate with its diagonal, times 1000. KID (Bińkowski et al. 2018; clean-fid):
kernel (x·y/d + 1)³, the unbiased estimate. clean-fid averages KID over random subsets of at most
1000 images; here all pairs are taken, which is that average's expectation and the same number
where both sets hold one subset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from arrag.utils.errors import ArragError

BANDWIDTH = 10.0
CMMD_SCALE = 1000.0
ROWS, COLUMNS = 1024, 4096  # kernel values held at a time: 32 MiB

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sums:
    """Sums of kernel values, float64 [R], one for every row w of weights; yy are numbers.

    xx = wᵀ K(x, x) w, its diagonal's part xx_self = Σ w² k(x, x), and xy = wᵀ K(x, y) 1.
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


def cmmd(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """CMMD of features [n, d] and [m, d] for every row of ``weights`` [R, n]: float64 [R].

    Without weights each image of x counts once, and R is 1. The rows are used as they are.
    Raises ArragError for unequal dimensions or an empty set.
    """
    sums, w = _sums(x, y, gaussian_kernel, weights)
    n, m = w.sum(1), len(y)
    return CMMD_SCALE * (sums.xx / n**2 + sums.yy / m**2 - 2 * sums.xy / (n * m))


def kid(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Unbiased KID of features [n, d] and [m, d] for every row of ``weights`` [R, n]: float64 [R].

    An image drawn twice is not paired with itself. Raises ArragError for fewer than two images.
    """
    sums, w = _sums(x, y, cubic_kernel, weights)
    n, m = w.sum(1), len(y)
    if len(x) < 2 or m < 2:
        raise ArragError(f"KID needs at least 2 images on each side, found {len(x)} and {m}")
    xx = (sums.xx - sums.xx_self) / (n**2 - (w**2).sum(1))
    yy = (sums.yy - sums.yy_self) / (m * (m - 1))
    return xx + yy - 2 * sums.xy / (n * m)


def _sums(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, weights: np.ndarray | None
) -> tuple[Sums, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ArragError(
            f"features of shapes {x.shape} and {y.shape} cannot be compared; "
            "use one extractor for both"
        )
    if not len(x) or not len(y):
        raise ArragError("one of the two sets holds no image; give at least one on each side")
    w = np.ones((1, len(x))) if weights is None else np.asarray(weights, np.float64)
    ones = np.ones((1, len(y)))
    xx, xx_self = _weighted(x, x, kernel, w, w)
    yy, yy_self = _weighted(y, y, kernel, ones, ones)
    xy, _ = _weighted(x, y, kernel, w, ones)
    return Sums(xx, xx_self, xy, float(yy[0]), float(yy_self[0])), w


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
