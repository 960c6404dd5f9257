"""KID: the kernel distance of image features (Bińkowski et al. 2018, arXiv 1801.01401).

Kernel (x·y/d + 1)³, unbiased estimate. clean-fid averages over random subsets of at most 1000
images. Here all pairs are taken, which is the expectation of that average, and the same number
where both sets fit into one subset.
"""

from __future__ import annotations

import numpy as np

from arrag.config.benchmarks import FidSettings
from arrag.metrics.base import ScoreOptions
from arrag.metrics.distance import DistanceMetric, Measurement
from arrag.metrics.image_set import ImageSet
from arrag.metrics.kernel import cubic_kernel, kernel_sums
from arrag.utils.errors import UsageError

CLEAN_FID_SEED = 0


class KID(DistanceMetric):
    """Kernel distance of two sets of features, unbiased also for few images."""

    name = "kid"
    Settings = FidSettings
    floor = -np.inf  # the unbiased estimate may be negative

    @property
    def compat(self) -> str:
        """How images are resized, as clean-fid names it."""
        return self.settings.mode

    def measure(self, images: ImageSet, reference: ImageSet, options: ScoreOptions) -> Measurement:
        """See ``DistanceMetric``."""
        x, y = images.require_features(), reference.require_features()
        details = {"estimator": "unbiased, all pairs", "dimensions": x.shape[1]}
        if options.backends:
            details["backends"] = {"clean-fid, 100 subsets": clean_fid_kid(x, y)}
        return Measurement(float(kid(x, y)[0]), lambda weights: kid(x, y, weights), details)


def kid(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Unbiased KID of features [n, d] and [m, d] for every row of ``weights`` [R, n]: float64 [R].

    An image drawn twice is not paired with itself.

    Raises:
        UsageError: There are fewer than two images on a side.
    """
    sums, w = kernel_sums(x, y, cubic_kernel, weights)
    n, m = w.sum(1), len(y)
    if len(x) < 2 or m < 2:
        raise UsageError(f"KID needs at least 2 images on each side, found {len(x)} and {m}")
    xx = (sums.xx - sums.xx_self) / (n**2 - (w**2).sum(1))
    yy = (sums.yy - sums.yy_self) / (m * (m - 1))
    return xx + yy - 2 * sums.xy / (n * m)


def clean_fid_kid(x: np.ndarray, y: np.ndarray) -> float:
    """KID as clean-fid averages it, over 100 random subsets of at most 1000 images."""
    from cleanfid.fid import kernel_distance

    state = np.random.get_state()
    np.random.seed(CLEAN_FID_SEED)  # clean-fid draws from the global generator
    try:
        return float(kernel_distance(np.asarray(y, np.float64), np.asarray(x, np.float64)))
    finally:
        np.random.set_state(state)
