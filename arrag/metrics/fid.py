"""FID: the Fréchet distance of image features (Heusel et al. 2017, arXiv 1706.08500; clean-fid)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from arrag.config.benchmarks import FidSettings
from arrag.metrics.base import ScoreOptions
from arrag.metrics.distance import DistanceMetric, Measurement
from arrag.metrics.frechet import frechet_distance, resampled_distances
from arrag.metrics.image_set import ImageSet
from arrag.metrics.reference_stats import write_arrays
from arrag.utils.errors import UsageError


class FID(DistanceMetric):
    """Fréchet distance of the Gaussians of two sets of features."""

    name = "fid"
    Settings = FidSettings

    @property
    def compat(self) -> str:
        """How images are resized, as clean-fid names it."""
        return self.settings.mode

    def measure(self, images: ImageSet, reference: ImageSet, options: ScoreOptions) -> Measurement:
        """See ``DistanceMetric``; refuses too few images unless the settings allow them."""
        ours, theirs = images.gaussian, reference.gaussian
        for found, gaussian in ((images, ours), (reference, theirs)):
            n, singular = found.report["n"], gaussian.rank_deficient
            if n is not None and singular and not self.settings.allow_rank_deficient:
                raise UsageError(
                    f"{n} images for {gaussian.dim} features: the covariance is singular, and the "
                    "distance depends on the number of images",
                    path=found.path,
                    hint="give more images, use an extractor of fewer features, or pass "
                    "--allow-rank-deficient, which states it in the score",
                )
        details: dict[str, Any] = {
            "dimensions": ours.dim,
            "rank_deficient": ours.rank_deficient or theirs.rank_deficient,
        }
        if options.backends:
            details["backends"] = other_implementations(images, reference)
        resample = None
        if images.features is not None:
            resample = lambda weights: resampled_distances(images.features, theirs, weights)  # noqa: E731
        return Measurement(frechet_distance(ours, theirs), resample, details)

    def store(self, out: str | Path, features: np.ndarray, meta: dict[str, Any]) -> None:
        """Write mean and covariance."""
        x = features.astype(np.float64)
        # Not from a factor: other programs read the covariance itself.
        sigma = np.atleast_2d(np.cov(x, rowvar=False))
        write_arrays(out, meta, mu=x.mean(0), sigma=sigma, n=len(x))


def other_implementations(images: ImageSet, reference: ImageSet) -> dict[str, float]:
    """FID by clean-fid's matrix square root and, of features, by torchmetrics' eigenvalues."""
    from cleanfid.fid import frechet_distance as clean_fid

    ours, theirs = images.gaussian, reference.gaussian
    value = clean_fid(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    found = {"clean-fid": float(value)}
    if images.features is not None and reference.features is not None:
        found["torchmetrics"] = _torchmetrics_fid(images.features, reference.features)
    return found


def _torchmetrics_fid(x: np.ndarray, y: np.ndarray) -> float:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Identity):
        """Passes on features that were extracted before."""

        num_features = x.shape[1]

    metric = FrechetInceptionDistance(feature=Identity(), normalize=True).set_dtype(torch.float64)
    metric.update(torch.from_numpy(np.asarray(y, np.float64)), real=True)
    metric.update(torch.from_numpy(np.asarray(x, np.float64)), real=False)
    return float(metric.compute())
