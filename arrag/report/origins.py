"""Where the patches of a finished image came from: the retrievals of its drawing, found again.

A search sees codes, what is known and a position. In raster order everything before a position is
known when it is drawn, so the image's own codes say what was asked there; where codes are settled
in another order, that order is needed too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from arrag.methods.daid import retrieval_distribution
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import ArragError


@dataclass(frozen=True)
class Blend:
    """How a distribution over codes is made of what was retrieved: DAiD's settings."""

    lam: float
    tau: float
    dedupe: str = "nearest"


@dataclass(frozen=True)
class Origins:
    """What was retrieved for one image, P positions in raster order and the nearest n of each.

    positions: int64 [P], flat; only those for which something was retrieved. drawn: int64 [P], the
    codes that stand there. distances: float32 [P, n], squared L2; codes, entries: int64 [P, n], as
    in :class:`arrag.retrieval.base.SearchResult`, -1 in an absent slot. agreeing: int64 [P], how
    many of all k
    retrieved have the drawn code. weights: float32 [P, n], the part of p_ret that each neighbour
    gives (all that a code gets stands at its nearest patch), drawn_weight: float32 [P], p_ret of
    the drawn code; both None where nothing is blended into probabilities.
    """

    positions: np.ndarray
    drawn: np.ndarray
    distances: np.ndarray
    codes: np.ndarray
    entries: np.ndarray
    agreeing: np.ndarray
    weights: np.ndarray | None = None
    drawn_weight: np.ndarray | None = None


def trace(
    codes: np.ndarray,
    index: PatchIndex,
    k: int,
    shown: int,
    blend: Blend | None = None,
    order: np.ndarray | None = None,
) -> Origins:
    """Repeat the searches of one image's drawing; keep the ``shown`` nearest of the k.

    codes: integer [H, W], the finished image. order: integer [H, W], the step in which each code
    was settled, counted from the first that retrieves (-1: before it); None for raster order.
    Raises ArragError where the index looks at later codes and no order is given, for another grid,
    a code outside the codebook, or k out of range.
    """
    height, width = np.shape(codes)
    image = torch.from_numpy(np.array(codes, dtype=np.int64))  # [H, W]
    if order is None:
        if index.neighborhood.context != "causal":
            raise ArragError(
                f"index of {index.store.path}: it looks at codes on all sides, and the image does "
                "not say in which order its codes were settled; draw it again"
            )
        # A causal neighbourhood reads earlier codes only, so the finished image asks what the
        # unfinished one asked, and one search serves all positions.
        asked = [(torch.ones(height, width, dtype=torch.bool), torch.arange(height * width))]
    else:
        steps = torch.from_numpy(np.array(order, dtype=np.int64))
        asked = [
            (steps < step, (steps == step).flatten().nonzero()[:, 0])
            for step in range(int(steps.max()) + 1)
        ]
    distances = torch.full((height * width, k), torch.inf)
    neighbours = torch.full((height * width, k), -1)
    entries = neighbours.clone()
    for known, at in asked:
        if len(at):
            found = index.search(image[None], known[None], at, k)  # [1, p, k]
            distances[at], neighbours[at], entries[at] = (
                part[0] for part in (found.distances, found.codes, found.entries)
            )
    positions = (entries >= 0).any(-1).nonzero()[:, 0]  # [P]
    distances, neighbours = distances[positions], neighbours[positions]
    drawn = image.flatten()[positions]
    weights = drawn_weight = None
    if blend is not None:
        size = len(index.store.codebook)
        p_ret = retrieval_distribution(distances, neighbours, size, blend.tau, blend.dedupe)
        drawn_weight = p_ret.gather(-1, drawn[:, None])[:, 0].numpy()
        weights = _shares(p_ret, distances, neighbours, blend)[:, :shown].numpy()
    return Origins(
        positions.numpy(),
        drawn.numpy(),
        distances[:, :shown].numpy(),
        neighbours[:, :shown].numpy(),
        entries[positions, :shown].numpy(),
        (neighbours == drawn[:, None]).sum(-1).numpy(),
        weights,
        drawn_weight,
    )


def _shares(
    p_ret: torch.Tensor, distances: torch.Tensor, codes: torch.Tensor, blend: Blend
) -> torch.Tensor:
    """What each retrieved patch gives to p_ret [P, V]: [P, k], summing to 1 over a row."""
    if blend.dedupe == "none":
        absent = (codes < 0) | ~torch.isfinite(distances)
        return torch.softmax((-distances / blend.tau).masked_fill(absent, -torch.inf), dim=-1)
    shares = p_ret.gather(-1, codes.clamp(min=0))
    # Sorted by distance, so that the first patch with a code is its nearest.
    same = codes[:, :, None] == codes[:, None, :]  # [P, k, k]
    repeated = same.tril(diagonal=-1).any(-1)
    return shares.masked_fill(repeated | (codes < 0), 0.0)
