"""CMMD: the maximum mean discrepancy of CLIP features (Jayasumana et al. 2024, arXiv 2401.09603).

As in google-research/cmmd: Gaussian kernel of bandwidth 10 on unit vectors, the biased estimate
with its diagonal, times 1000.
"""

from __future__ import annotations

import numpy as np

from arrag.config.benchmarks import CmmdSettings
from arrag.metrics.base import ScoreOptions
from arrag.metrics.distance import DistanceMetric, Measurement
from arrag.metrics.image_set import ImageSet
from arrag.metrics.kernel import BANDWIDTH, gaussian_kernel, kernel_sums

SCALE = 1000.0


class CMMD(DistanceMetric):
    """Maximum mean discrepancy of two sets of unit CLIP vectors."""

    name = "cmmd"
    Settings = CmmdSettings
    normalize = True

    def measure(self, images: ImageSet, reference: ImageSet, options: ScoreOptions) -> Measurement:
        """See ``DistanceMetric``."""
        x, y = images.require_features(), reference.require_features()
        details = {
            "estimator": "biased, with the diagonal, x 1000",
            "bandwidth": BANDWIDTH,
            "dimensions": x.shape[1],
        }
        return Measurement(float(cmmd(x, y)[0]), lambda weights: cmmd(x, y, weights), details)


def cmmd(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """CMMD of features [n, d] and [m, d] for every row of ``weights`` [R, n]: float64 [R].

    Without weights each image of x counts once, and R is 1. The rows are used as they are.
    """
    sums, w = kernel_sums(x, y, gaussian_kernel, weights)
    n, m = w.sum(1), len(y)
    return SCALE * (sums.xx / n**2 + sums.yy / m**2 - 2 * sums.xy / (n * m))
