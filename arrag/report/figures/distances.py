"""Figure 6: distance between the code of the k-th retrieved patch and the true code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arrag.config.root import Config
from arrag.data.images import decode_all
from arrag.data.sources import open_source
from arrag.data.token_store import TokenStore
from arrag.metrics.bootstrap import OVERALL, Estimate, bootstrap
from arrag.pipeline.layout import Layout
from arrag.pipeline.reports import find_method
from arrag.report.figures.style import COLORS, WIDTH, apply_style, save, save_rows
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.index import open_index
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import MissingError, UsageError

IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Distances:
    """Squared L2 distances to the true code's vector, means over the positions of n images.

    A random patch of the database is what retrieval would give that knows no neighbour.
    """

    by_rank: np.ndarray  # float64 [n, K], of the k-th retrieved patch
    uniform: np.ndarray  # float64 [n], of a code drawn uniformly from the codebook
    database: np.ndarray  # float64 [n], of the code of a random patch of the database


def write_figure6(config: Config, out: Path) -> dict[str, Any]:
    """Write Figure 6: encode held-out images and query the index with each position.

    Raises:
        MissingError: The reference has no readable image.
    """
    layout, figures = Layout(config), config.figures
    method, benchmark = find_method(config, "daid"), config.benchmark_of_kind("distribution")
    folder = layout.reference(benchmark)
    items = list(open_source(str(folder), None, None))
    items = items[:: max(1, len(items) // figures.held_out)][: figures.held_out]
    tokenizer = load_tokenizer(config.generator_of(method)[1].checkpoint)
    images = [image.pixels for image in decode_all(iter(items), tokenizer.image_size)]
    images = [pixels for pixels in images if pixels is not None]
    if not images:
        hint = "make the reference first"
        raise MissingError("no readable image", path=folder, field="figure 6", hint=hint)
    codes = tokenizer.encode(np.stack(images)).cpu()
    store = TokenStore.open(layout.codes(method))
    index = open_index(layout.index(method), store, tokenizer.digest)
    found = measure(index, torch.as_tensor(codes), min(figures.k, index.meta.entries))
    about = f"{len(images)} held-out images, {len(store):,} stored"
    figure6(found, out.with_suffix(""), about)
    return {"images": len(images), "nearest": float(found.by_rank[:, 0].mean())}


def measure(index: PatchIndex, codes: torch.Tensor, k: int) -> Distances:
    """Query ``index`` with every position of held-out images.

    A position knows the neighbours that its key has: those before it in raster order under
    ``causal``, all of them under ``full``. Positions that the border rule leaves out are left out.

    Args:
        index: The index.
        codes: int64 [n, H, W], the held-out images.
        k: Patches retrieved for each position.

    Raises:
        MissingError: There is no image.
    """
    if not len(codes):
        raise MissingError("no held-out image", field="figure 6", hint="name a reference with some")
    vectors = index.store.codebook.astype(np.float64)  # [V, d]
    inside = index.neighborhood.valid_positions(*index.store.grid).flatten()  # bool [N]
    here = inside.nonzero()[:, 0]
    rows = []
    for start in range(0, len(codes), IMAGES_AT_ONCE):
        some = codes[start : start + IMAGES_AT_ONCE]
        # No causal key holds a later position, so that all positions can count as known.
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
    """Write ``out_stem``.png, .pdf and .csv, with ``about`` (what was searched) as the title."""
    k = distances.by_rank.shape[1]
    ranks = [_mean(distances.by_rank[:, rank]) for rank in range(k)]
    levels = {
        "a patch of the database, at random": _mean(distances.database),
        "a code of the codebook, at random": _mean(distances.uniform),
    }
    with apply_style():
        figure = Figure(figsize=(WIDTH / 2, 2.5), layout="constrained")
        axes = figure.subplots()
        x = np.arange(1, k + 1)
        lows, highs = ([e[i] for e in ranks] for i in (1, 2))
        axes.fill_between(x, lows, highs, color=COLORS[0], alpha=0.25, lw=0)
        few = "o" if k <= 30 else None
        axes.plot(x, [e.value for e in ranks], color=COLORS[0], marker=few, ms=2.5, lw=1.2)
        axes.annotate("k-th retrieved", (k, ranks[-1].value), (0, -10), **_LABEL, color=COLORS[0])
        for text, color, dash in zip(levels, COLORS[1:3], ("--", ":"), strict=True):
            level = levels[text]
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
        hint = "use a larger database or a smaller k"
        raise UsageError("nothing was retrieved", field="figure 6", hint=hint)
    return bootstrap([OVERALL] * len(values), values)[OVERALL]
