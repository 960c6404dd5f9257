"""The same features through other libraries: clean-fid's and torchmetrics' formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from arrag.metrics.image_set import Side


def fid_backends(first: Side, second: Side) -> dict[str, Any]:
    """FID by clean-fid's matrix square root and, of features, by torchmetrics' eigenvalues."""
    from cleanfid.fid import frechet_distance

    ours, theirs = first.gaussian, second.gaussian
    clean = frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    found = {"clean-fid": float(clean)}
    if first.features is not None and second.features is not None:
        found["torchmetrics"] = _torchmetrics_fid(first.features, second.features)
    return found


def _torchmetrics_fid(x: np.ndarray, y: np.ndarray) -> float:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        """Hands on features that were extracted before."""

        num_features = x.shape[1]

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    metric = FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    metric.update(torch.from_numpy(np.asarray(y, np.float64)), real=True)
    metric.update(torch.from_numpy(np.asarray(x, np.float64)), real=False)
    return float(metric.compute())


def kid_backends(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Any]:
    """KID as clean-fid averages it, over 100 random subsets of at most 1000 images."""
    from cleanfid.fid import kernel_distance

    state = np.random.get_state()
    np.random.seed(seed)  # clean-fid draws from the global generator
    try:
        value = kernel_distance(np.asarray(y, np.float64), np.asarray(x, np.float64))
    finally:
        np.random.set_state(state)
    return {"clean-fid, 100 subsets": float(value)}
