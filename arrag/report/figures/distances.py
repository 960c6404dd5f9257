"""Figure 6: how far the k-th retrieved code is from the true one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from arrag.metrics.bootstrap import OVERALL, Estimate, bootstrap
from arrag.report.figures.style import COLORS, WIDTH, look, panel, save, save_rows
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import ArragError

IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Distances:
    """Mean squared L2 distances to the true code's vector.

    by_rank: float64 [n, K], a row an image; the mean over its positions. uniform, database:
    float64 [n], of a code drawn evenly from the codebook, and of the code of a patch drawn from
    the database: what a retrieval that knows nothing of the surroundings would get.
    """

    by_rank: np.ndarray
    uniform: np.ndarray
    database: np.ndarray


def measure(index: PatchIndex, codes: torch.Tensor, k: int) -> Distances:
    """Query ``index`` with every position of held-out images: codes int64 [n, H, W].

    A position knows the neighbours that its key has: those before it in raster order under
    ``causal``, all of them under ``full``. Positions that the border rule leaves out are left out
    here too. Raises ArragError when codes or k do not fit the index, or no image is given.
    """
    if not len(codes):
        raise ArragError("figure 6: no held-out image; name a reference that holds some")
    vectors = index.store.codebook.astype(np.float64)  # [V, d]
    inside = index.neighborhood.valid_positions(*index.store.grid).flatten()  # bool [N]
    here = inside.nonzero()[:, 0]
    rows = []
    for start in range(0, len(codes), IMAGES_AT_ONCE):
        some = codes[start : start + IMAGES_AT_ONCE]
        # What is behind a position is in no causal key, so that all may count as known.
        found = index.search(some, torch.ones_like(some, dtype=torch.bool), here, k)
        truth = vectors[some.flatten(1)[:, here].numpy()]  # [b, P, d]
        near = vectors[found.codes.clamp(min=0).numpy()]  # [b, P, k, d]
        squared = ((near - truth[:, :, None]) ** 2).sum(-1)  # [b, P, k]
        squared[(found.codes < 0).numpy()] = np.nan
        rows.append(np.nanmean(squared, axis=1))
    truth = vectors[codes.flatten(1)[:, here].numpy()]  # [n, P, d]
    stored = np.zeros(len(vectors))
    for shard in index.store.shards:
        stored += np.bincount(np.asarray(shard).ravel(), minlength=len(vectors))
    even = np.full(len(vectors), 1 / len(vectors))
    expected = (_expected(truth, vectors, share).mean(1) for share in (even, stored / stored.sum()))
    return Distances(np.concatenate(rows), *expected)


def _expected(truth: np.ndarray, vectors: np.ndarray, share: np.ndarray) -> np.ndarray:
    """E |e - t|² of a code drawn with probabilities ``share`` [V]: truth [n, P, d] -> [n, P]."""
    norms, mean = share @ (vectors**2).sum(-1), share @ vectors
    return norms - 2 * truth @ mean + (truth**2).sum(-1)


def figure6(distances: Distances, out_stem: str | Path, about: str) -> None:
    """Write ``out_stem``.png, .pdf and .csv; about: what was searched, for the title."""
    k = distances.by_rank.shape[1]
    ranks = [_mean(distances.by_rank[:, rank]) for rank in range(k)]
    levels = {
        "a patch of the database, at random": _mean(distances.database),
        "a code of the codebook, at random": _mean(distances.uniform),
    }
    with look():
        figure = panel(WIDTH / 2, 2.5)
        axes = figure.subplots()
        x = np.arange(1, k + 1)
        lows, highs = ([e[i] for e in ranks] for i in (1, 2))
        axes.fill_between(x, lows, highs, color=COLORS[0], alpha=0.25, lw=0)
        few = "o" if k <= 30 else None
        axes.plot(x, [e.value for e in ranks], color=COLORS[0], marker=few, ms=2.5, lw=1.2)
        axes.annotate("k-th retrieved", (k, ranks[-1].value), (0, -10), **_LABEL, color=COLORS[0])
        for (text, level), color, dash in zip(
            levels.items(), COLORS[1:], ("--", ":"), strict=False
        ):
            axes.axhline(level.value, color=color, ls=dash, lw=1.2)
            axes.annotate(text, (k, level.value), (0, 3), **_LABEL, color=color)
        axes.set(xlabel="rank k", ylabel="squared distance to the true code", ylim=(0, None))
        axes.set_title(about)
        axes.margins(y=0.15)
        axes.set_xlim(min(1, k - 1), k + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        save(figure, out_stem)
    rows = [["retrieved", rank, *e] for rank, e in enumerate(ranks, 1)]
    rows += [[text, "", *e] for text, e in levels.items()]
    save_rows(out_stem, ("what", "k", "squared_distance", "low", "high"), rows)


_LABEL = dict(textcoords="offset points", ha="right", fontsize=7)


def _mean(values: np.ndarray) -> Estimate:
    """The mean over the images that have a value, with its interval over images."""
    values = values[~np.isnan(values)]
    if not len(values):
        raise ArragError("figure 6: nothing was retrieved; use a larger database or a smaller k")
    return bootstrap([OVERALL] * len(values), values)[OVERALL]
