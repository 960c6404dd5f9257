"""Figure 5: what image-level retrieval copies from its reference, beside patch-level retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from arrag.metrics.bootstrap import OVERALL, Estimate, bootstrap
from arrag.metrics.memorization import WINDOW, nearest_similarity, patch_copy_rate
from arrag.report.figures.samples import picture_grid
from arrag.report.figures.style import COLORS, WIDTH, look, panel, save, save_rows
from arrag.utils.errors import ArragError

MEASURES = {
    "share": f"patches whose {WINDOW} x {WINDOW} codes stand in the image",
    "similarity": "cosine to the nearest window of the image",
}
AGAINST = ("reference", "other")
CSV = ("block", "method", "measure", "against", "prompt", "image", "value", "low", "high")


@dataclass(frozen=True)
class Copying:
    """What was measured: a row an image drawn.

    values: {label: {measure: {"reference" or "other": float64 [n]}}}; prompts: n texts.
    references, others: int64 [n], images of the database: what image-level retrieval shows the
    generator for the prompt, and one at random.
    """

    prompts: Sequence[str]
    references: np.ndarray
    others: np.ndarray
    values: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]

    def estimates(self) -> dict[tuple[str, str, str], Estimate]:
        """{(label, measure, "reference", "other" or "difference"): mean over the prompts}.

        With 95 % intervals over the prompts; the difference is paired.
        """
        found = {}
        for label, measures in self.values.items():
            for measure, values in measures.items():
                pair = dict(values) | {"difference": values["reference"] - values["other"]}
                for against, numbers in pair.items():
                    one = bootstrap([OVERALL] * len(numbers), numbers)[OVERALL]
                    found[label, measure, against] = one
        return found


def measure(
    drawn: Mapping[str, np.ndarray],
    prompts: Sequence[str],
    grids: np.ndarray,
    references: np.ndarray,
    others: np.ndarray,
    vectors: np.ndarray,
) -> Copying:
    """Measure what images drawn hold of a reference and of another image.

    drawn: {label: codes integer [n, H, W]}, an image a prompt; grids: codes [2n, H, W] of the
    references and then of the others; vectors: float [V, d], the codebook.
    """
    n = len(prompts)
    shown = {"reference": grids[:n], "other": grids[n:]}
    values = {}
    for label, codes in drawn.items():
        if len(codes) != n:
            raise ArragError(f"figure 5: {label} drew {len(codes)} images for {n} prompts")
        values[label] = {
            "share": {
                key: np.array([patch_copy_rate(a, b) for a, b in zip(codes, grid, strict=True)])
                for key, grid in shown.items()
            },
            "similarity": {
                key: np.array(
                    [nearest_similarity(a, b, vectors) for a, b in zip(codes, grid, strict=True)]
                )
                for key, grid in shown.items()
            },
        }
    return Copying(prompts, references, others, values)


def figure5(
    copying: Copying, pictures: Mapping[str, np.ndarray], out_stem: str | Path, shown: int = 4
) -> None:
    """Write ``out_stem``.png, .pdf (the measurement), .csv, and ``out_stem``-images.png, .pdf.

    pictures: {heading: uint8 [n, S, S, 3]}; drawn are the ``shown`` prompts of which the first
    label copies most, which is where over-copying can be seen, and the note says so.
    """
    estimates = copying.estimates()
    most = np.argsort(-next(iter(copying.values.values()))["share"]["reference"], kind="stable")
    chosen = np.sort(most[:shown])
    with look():
        figure = panel(WIDTH, 2.4)
        for axes, name in zip(figure.subplots(1, 2), MEASURES, strict=True):
            _dots(axes, name, list(copying.values), estimates)
        figure.axes[0].legend(fontsize=7)
        save(figure, out_stem)
        notes = [[_note(copying, heading, i) for heading in pictures] for i in chosen]
        stem = Path(out_stem)
        picture_grid(
            list(pictures),
            [copying.prompts[i] for i in chosen],
            [[[images[i]] for images in pictures.values()] for i in chosen],
            stem.with_name(f"{stem.name}-images"),
            notes,
        )
    save_rows(out_stem, CSV, _rows(copying, estimates))


def _note(copying: Copying, heading: str, i: int) -> str:
    if heading not in copying.values:
        return f"database image {copying.references[i]}"
    return f"{copying.values[heading]['share']['reference'][i]:.0%} found in it"


def _dots(axes: Axes, name: str, labels: Sequence[str], estimates: Mapping) -> None:
    """Dots, not bars: an axis that need not begin at 0 shows how far two of them are apart."""
    places = np.arange(len(labels))
    texts = {"reference": "the retrieved reference", "other": "another image, at random"}
    for at, (against, text) in enumerate(texts.items()):
        found = [estimates[label, name, against] for label in labels]
        values = np.array([e.value for e in found])
        bounds = np.array([[e.value - e.low, e.high - e.value] for e in found]).T.clip(min=0)
        style = dict(color=COLORS[at], label=text, fmt="os"[at], ms=4, capsize=2, elinewidth=0.8)
        axes.errorbar(places + 0.2 * (at - 0.5), values, yerr=bounds, **style)
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
                numbers = zip(copying.prompts, images[against], values[against], strict=True)
                for prompt, image, value in numbers:
                    yield ["image", label, name, against, prompt, image, value, "", ""]
