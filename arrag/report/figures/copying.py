"""Figure 5: how much image-level and patch-level retrieval copy from a retrieved image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from tqdm import tqdm

from arrag.config.root import Config
from arrag.data.clip import OpenClip
from arrag.data.prompts import first_of_each_task, load_prompt_set
from arrag.data.token_store import TokenStore
from arrag.methods.generator import TokenGenerator
from arrag.metrics.bootstrap import OVERALL, Estimate, bootstrap
from arrag.metrics.memorization import WINDOW, nearest_similarity, other_images, patch_copy_rate
from arrag.pipeline.layout import Layout
from arrag.pipeline.reports import figure5_methods
from arrag.report.figures import style
from arrag.report.figures.samples import picture_grid
from arrag.retrieval.image_index import ImageIndex
from arrag.utils.batching import batched_by_memory
from arrag.utils.errors import MismatchError

MEASURES = {
    "share": f"share of {WINDOW} x {WINDOW} windows of codes found in the image",
    "similarity": "cosine to the nearest window of the image",
}
AGAINST = ("reference", "other")
CSV = ("block", "method", "measure", "against", "prompt", "image", "value", "low", "high")


@dataclass(frozen=True)
class Copying:
    """What was measured of n generated images."""

    prompts: Sequence[str]
    references: np.ndarray  # int64 [n], the database image that image-level retrieval gives
    others: np.ndarray  # int64 [n], a random image of the database
    # {label: {measure: {"reference" or "other": float64 [n]}}}
    values: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]

    def estimates(self) -> dict[tuple[str, str, str], Estimate]:
        """Means over the prompts by label, measure, and "reference", "other" or "difference"."""
        found = {}
        for label, measures in self.values.items():
            for measure, values in measures.items():
                pair = dict(values) | {"difference": values["reference"] - values["other"]}
                for against, numbers in pair.items():
                    one = bootstrap([OVERALL] * len(numbers), numbers)[OVERALL]
                    found[label, measure, against] = one
        return found


def write_figure5(
    config: Config, out: Path, open_method: Callable[[str], TokenGenerator]
) -> dict[str, Any]:
    """Write Figure 5, generating one image of each prompt with each method.

    Samples of a benchmark need not hold their codes, and encoding their pixels gives other codes
    than were generated; so the images are generated again, with the same random numbers.
    """
    layout, methods = Layout(config), figure5_methods(config)
    listed = load_prompt_set(config.benchmark())
    numbers = first_of_each_task(listed, config.figures.copying_prompts)
    prompts = [listed[i]["prompt"] for i in numbers]
    store = TokenStore.open(layout.codes(methods[0]))
    clip = OpenClip(config.method(methods[0]).augment.clip)
    index = ImageIndex(layout.image_index(methods[0]), store, clip.digest)
    texts = torch.cat([clip.encode_texts([prompt]) for prompt in prompts])  # as decoding does
    references = index.search(texts, 1)[1][:, 0].numpy()
    others = other_images(references, len(store), config.seed)
    grids = store.grids([*references, *others])
    drawn: dict[str, np.ndarray] = {}
    pictures: dict[str, np.ndarray] = {}
    for name in methods:
        generator, label = open_method(name), config.method(name).label

        def generate(some: Sequence[str], generator: TokenGenerator = generator) -> torch.Tensor:
            return generator.generate_codes(some, [0] * len(some), config.seed).cpu()

        batches = batched_by_memory(generate, prompts, config.resources.batch_size)
        codes = torch.cat([some for _, some in tqdm(batches, desc="codes", unit="batch")])
        drawn[label], pictures[label] = codes.numpy(), generator.image_tokenizer.decode(codes)
        if name == methods[0]:
            shown = torch.from_numpy(grids[: len(prompts)].astype("int64"))
            pictures = {"reference": generator.image_tokenizer.decode(shown), **pictures}
    found = measure(drawn, prompts, grids, references, others, store.codebook)
    figure5(found, pictures, out.with_suffix(""))
    means = {f"{a} {b} {c}": e.value for (a, b, c), e in found.estimates().items() if b == "share"}
    return {"prompts": len(prompts), "shares": means}


def measure(
    drawn: Mapping[str, np.ndarray],
    prompts: Sequence[str],
    grids: np.ndarray,
    references: np.ndarray,
    others: np.ndarray,
    vectors: np.ndarray,
) -> Copying:
    """Measure how much generated images copy from a reference and from another image.

    Args:
        drawn: {label: codes, integer [n, H, W]}, one image for each prompt.
        prompts: The n texts.
        grids: Codes [2n, H, W] of the references and then of the others.
        references, others: int64 [n], their numbers in the database.
        vectors: float [V, d], the codebook.
    """
    n = len(prompts)
    shown = {"reference": grids[:n], "other": grids[n:]}
    rates = {"share": patch_copy_rate, "similarity": partial(nearest_similarity, vectors=vectors)}
    values = {}
    for label, codes in drawn.items():
        if len(codes) != n:
            raise MismatchError(f"{label} has {len(codes)} images of {n} prompts", field="figure 5")
        values[label] = {
            name: {key: np.array([*map(rate, codes, grid)]) for key, grid in shown.items()}
            for name, rate in rates.items()
        }
    return Copying(prompts, references, others, values)


def figure5(
    copying: Copying, pictures: Mapping[str, np.ndarray], out_stem: str | Path, shown: int = 4
) -> None:
    """Write ``out_stem``.png, .pdf (the measurement), .csv, and ``out_stem``-images.png, .pdf.

    ``pictures`` are {heading: uint8 [n, S, S, 3]}, of which those of ``shown`` prompts are drawn
    that the first label copies most, where copying can be seen.
    """
    estimates = copying.estimates()
    most = np.argsort(-next(iter(copying.values.values()))["share"]["reference"], kind="stable")
    chosen = np.sort(most[:shown])
    with style.apply_style():
        figure = style.subplot_figure(style.WIDTH, 2.4)
        for axes, name in zip(figure.subplots(1, 2), MEASURES, strict=True):
            _dots(axes, name, list(copying.values), estimates)
        figure.axes[0].legend(fontsize=7)
        style.save(figure, out_stem)

        def note(heading: str, i: int) -> str:
            if heading not in copying.values:
                return f"database image {copying.references[i]}"
            return f"{copying.values[heading]['share']['reference'][i]:.0%} found in it"

        notes = [[note(heading, i) for heading in pictures] for i in chosen]
        prompts = [copying.prompts[i] for i in chosen]
        cells = [[[images[i]] for images in pictures.values()] for i in chosen]
        stem = Path(out_stem).with_name(f"{Path(out_stem).name}-images")
        picture_grid(list(pictures), prompts, cells, stem, notes)
    style.save_rows(out_stem, CSV, _rows(copying, estimates))


def _dots(axes: Axes, name: str, labels: Sequence[str], estimates: Mapping) -> None:
    """Dots instead of bars: the axis need not start at 0, so that small gaps remain visible."""
    places = np.arange(len(labels))
    texts = {"reference": "the retrieved reference", "other": "another image, at random"}
    for at, (against, text) in enumerate(texts.items()):
        found = [estimates[label, name, against] for label in labels]
        values = np.array([e.value for e in found])
        bounds = np.array([[e.value - e.low, e.high - e.value] for e in found]).T.clip(min=0)
        look = dict(color=style.COLORS[at], label=text, fmt="os"[at], ms=4, capsize=2)
        axes.errorbar(places + 0.2 * (at - 0.5), values, yerr=bounds, elinewidth=0.8, **look)
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_title(MEASURES[name])


def _rows(copying: Copying, estimates: Mapping[tuple[str, str, str], Estimate]):
    for (label, name, against), e in estimates.items():
        yield ["mean", label, name, against, "", "", *e]
    images = {"reference": copying.references, "other": copying.others}
    for label, measures in copying.values.items():
        for name, values in measures.items():
            for against in AGAINST:
                for row in zip(copying.prompts, images[against], values[against], strict=True):
                    yield ["image", label, name, against, *row, "", ""]
