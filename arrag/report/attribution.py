"""Where the patches of a generated image came from: the searches of its generation, repeated.

A search depends on the codes, on which of them are known, and on a position. In raster order all
codes before a position are known when it is generated, so that the finished image determines each
search; where codes are generated in another order, that order is needed too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from arrag.methods.daid import retrieval_distribution
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import UsageError


@dataclass(frozen=True)
class Blend:
    """DAiD's settings, by which retrieved patches become a distribution over codes."""

    lam: float
    tau: float
    dedupe: str = "nearest"


@dataclass(frozen=True)
class Attribution:
    """What was retrieved for P positions of one image, and the nearest n patches of each.

    ``weights`` and ``drawn_weight`` are None where nothing is blended into probabilities. All that
    a code gets of p_ret counts for its nearest patch.
    """

    positions: np.ndarray  # int64 [P], flat, in raster order; where something was retrieved
    drawn: np.ndarray  # int64 [P], the image's codes there
    distances: np.ndarray  # float32 [P, n], squared L2
    codes: np.ndarray  # int64 [P, n], the retrieved codes; -1 in an absent slot
    entries: np.ndarray  # int64 [P, n], the entries of the index; -1 in an absent slot
    agreeing: np.ndarray  # int64 [P], how many of all k patches have the image's code
    weights: np.ndarray | None = None  # float32 [P, n], the part of p_ret that each patch gives
    drawn_weight: np.ndarray | None = None  # float32 [P], p_ret of the image's code


def attribute_patches(
    codes: np.ndarray,
    index: PatchIndex,
    k: int,
    shown: int,
    blend: Blend | None = None,
    order: np.ndarray | None = None,
) -> Attribution:
    """Repeat the searches of one image's generation; keep the ``shown`` nearest of the k patches.

    Args:
        codes: Integer [H, W], the generated image.
        index: The index that was searched.
        k, shown: Patches retrieved for each position, and how many of them to keep.
        blend: DAiD's settings, for ``weights``; None without them.
        order: Integer [H, W], the step in which each code was generated, counted from the first
            that retrieves (-1: before it); None for raster order.

    Raises:
        UsageError: The index compares later codes and no order is given.
        ArragError: Another grid, a code outside the codebook, or k out of range.
    """
    height, width = np.shape(codes)
    image = torch.from_numpy(np.array(codes, dtype=np.int64))  # [H, W]
    if order is None:
        if index.neighborhood.context != "causal":
            message = "the index compares codes on all sides, so that the order in which the "
            message += "image's codes were generated is needed"
            hint = "generate the image again"
            raise UsageError(message, path=index.store.path, field="order", hint=hint)
        # A causal neighbourhood holds earlier codes only, so that the finished image gives the
        # same queries as the unfinished one, and one search serves all positions.
        queries = [(torch.ones(height, width, dtype=torch.bool), torch.arange(height * width))]
    else:
        steps = torch.from_numpy(np.array(order, dtype=np.int64))
        queries = [
            (steps < step, (steps == step).flatten().nonzero()[:, 0])
            for step in range(int(steps.max()) + 1)
        ]
    distances = torch.full((height * width, k), torch.inf)
    neighbours = torch.full((height * width, k), -1)
    entries = neighbours.clone()
    for known, at in queries:
        if len(at):
            found = index.search(image[None], known[None], at, k)  # [1, p, k]
            distances[at], neighbours[at] = found.distances[0], found.codes[0]
            entries[at] = found.entries[0]
    positions = (entries >= 0).any(-1).nonzero()[:, 0]  # [P]
    distances, neighbours = distances[positions], neighbours[positions]
    drawn = image.flatten()[positions]
    weights = drawn_weight = None
    if blend is not None:
        size = len(index.store.codebook)
        p_ret = retrieval_distribution(distances, neighbours, size, blend.tau, blend.dedupe)
        drawn_weight = p_ret.gather(-1, drawn[:, None])[:, 0].numpy()
        weights = _shares(p_ret, distances, neighbours, blend)[:, :shown].numpy()
    return Attribution(
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
    """The part of p_ret [P, V] that each retrieved patch gives: [P, k], a row sums to 1."""
    if blend.dedupe == "none":
        absent = (codes < 0) | ~torch.isfinite(distances)
        return torch.softmax((-distances / blend.tau).masked_fill(absent, -torch.inf), dim=-1)
    shares = p_ret.gather(-1, codes.clamp(min=0))
    # Sorted by distance, so that the first patch with a code is its nearest.
    same = codes[:, :, None] == codes[:, None, :]  # [P, k, k]
    repeated = same.tril(diagonal=-1).any(-1)
    return shares.masked_fill(repeated | (codes < 0), 0.0)
