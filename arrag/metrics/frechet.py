"""Fréchet distance of Gaussians, and its values for resampled images.

    d²(N1, N2) = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½

The last trace is the sum of the singular values of F1 F2ᵀ for any factors with S = FᵀF (Heusel et
al. 2017 take a matrix square root of S1 S2 instead). Centred features are such a factor, so fewer
images than dimensions are no special case: no epsilon is added, no imaginary part is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arrag.utils.errors import FormatError, MismatchError, UsageError

TOLERANCE = 1e-6  # relative to the largest entry, for symmetry and non-negative eigenvalues
HINT = "compute the statistics again"


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of features.

    Attributes:
        mean: float64 [d].
        factor: float64 [r, d] with covariance = factorᵀ factor.
        n: Number of images; None if unknown.
    """

    mean: np.ndarray
    factor: np.ndarray
    n: int | None = None

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """float64 [d, d]."""
        return self.factor.T @ self.factor

    @property
    def rank_deficient(self) -> bool:
        """Whether the covariance is known to be singular: n images span n - 1 dimensions."""
        return len(self.factor) < self.dim or (self.n is not None and self.n <= self.dim)


def gaussian_of_features(features: np.ndarray) -> Gaussian:
    """Moments of features [n, d]: mean and covariance over n - 1, in float64.

    Raises:
        UsageError: There are fewer than two images.
        FormatError: A number is not finite.
    """
    x = np.asarray(features, dtype=np.float64)
    n, dim = x.shape
    if n < 2:
        raise UsageError(f"a covariance needs at least 2 images, found {n}")
    if not np.isfinite(x).all():
        message = "features hold numbers that are not finite"
        raise FormatError(message, hint="check the weights of the extractor")
    mean = x.mean(0)
    centred = x - mean
    if n <= dim:
        return Gaussian(mean, centred / np.sqrt(n - 1), n)
    return Gaussian(mean, factor(centred.T @ centred / (n - 1)), n)


def gaussian_of_moments(mean: np.ndarray, covariance: np.ndarray, n: int | None = None) -> Gaussian:
    """Gaussian of a mean [d] and a covariance [d, d].

    Raises:
        FormatError: The shapes do not fit, or the matrix is not a covariance.
    """
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise FormatError(
            f"moments of shapes {mean.shape} and {covariance.shape}, expected [d] and [d, d]"
        )
    return Gaussian(mean, factor(covariance), n)


def factor(covariance: np.ndarray) -> np.ndarray:
    """F [r, d] with FᵀF = covariance [d, d]: Cholesky's, or r < d rows of a singular matrix.

    Raises:
        FormatError: The matrix is not symmetric, not finite, or has a negative eigenvalue.
    """
    scale = np.abs(covariance).max(initial=0)
    if not np.isfinite(scale):
        raise FormatError("the covariance holds numbers that are not finite", hint=HINT)
    if np.abs(covariance - covariance.T).max(initial=0) > TOLERANCE * scale:
        raise FormatError("the covariance is not symmetric", hint=HINT)
    try:
        return np.linalg.cholesky(covariance).T
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -TOLERANCE * scale:
        message = f"the covariance has the negative eigenvalue {values[0]:.3g}"
        raise FormatError(message, hint=HINT)
    kept = values > 0
    return (vectors[:, kept] * np.sqrt(values[kept])).T


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet (2-Wasserstein) distance. Raises MismatchError for unequal dimensions."""
    if first.dim != second.dim:
        raise MismatchError(
            f"features of {first.dim} and {second.dim} dimensions cannot be compared",
            hint="use one extractor for both",
        )
    offset = first.mean - second.mean
    singular = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False)
    spread = np.sum(first.factor**2) + np.sum(second.factor**2)
    return float(offset @ offset + spread - 2 * singular.sum())


def resampled_distances(
    features: np.ndarray, reference: Gaussian, weights: np.ndarray
) -> np.ndarray:
    """Distance to ``reference`` for every resample of the images: float64 [R].

    The small eigenvalue errors of this faster form (about 1e-8 of the covariances' scale) do not
    matter in an interval.

    Args:
        features: [n, d].
        reference: The Gaussian of the reference.
        weights: [R, n], how often each image was drawn.
    """
    x = np.asarray(features, dtype=np.float64)
    n = len(x)
    mean = x.mean(0)
    centred = x - mean
    offset = mean - reference.mean
    spread = np.sum(reference.factor**2)
    projected = centred @ reference.factor.T  # [n, r]
    squares = np.sum(centred**2, axis=1)  # [n]
    distances = np.empty(len(weights))
    for i, w in enumerate(weights):
        shift = w @ centred / n  # [d]
        moved = w @ projected / n  # [r]
        cross = ((projected * w[:, None]).T @ projected - n * np.outer(moved, moved)) / (n - 1)
        trace = (w @ squares - n * shift @ shift) / (n - 1)
        roots = np.sqrt(np.maximum(np.linalg.eigvalsh(cross), 0)).sum()
        distances[i] = np.sum((offset + shift) ** 2) + trace + spread - 2 * roots
    return distances
