"""Figure 4: what the methods draw for the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from arrag.data.sample_dir import load_image, prompt_text
from arrag.report.figures.style import WIDTH, look, save, save_rows
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file

CAPTION = 1.5  # inches
LINE = 22  # letters of a prompt in a line


def figure4(
    columns: Mapping[str, str | Path], prompts: Sequence[int], out_stem: str | Path, each: int = 2
) -> None:
    """Draw prompts (rows) by methods (columns), the first ``each`` samples side by side.

    ``columns``: {label: folder of samples in GenEval's layout}. Writes ``out_stem``.png, .pdf and
    .csv (which file each picture is, and its digest). Raises ArragError when a sample is missing.
    """
    if not columns or not prompts or each < 1:
        raise ArragError(
            f"figure 4: {len(columns)} methods, {len(prompts)} prompts, {each} images each; "
            "each must be at least 1"
        )
    texts = [prompt_text(next(iter(columns.values())), i) for i in prompts]
    names = [
        [[sample_file(root, i, k) for k in range(each)] for root in columns.values()]
        for i in prompts
    ]
    pictures = [[[load_image(path) for path in cell] for cell in row] for row in names]
    with look():
        picture_grid(list(columns), texts, pictures, out_stem)
    rows = [
        [i, text, label, k, path, sha256_file(path)]
        for i, text, row in zip(prompts, texts, names, strict=True)
        for label, cell in zip(columns, row, strict=True)
        for k, path in enumerate(cell)
    ]
    save_rows(out_stem, ("prompt", "text", "method", "sample", "file", "sha256"), rows)


def sample_file(root: str | Path, prompt: int, sample: int) -> Path:
    """Where GenEval's layout has an image."""
    return Path(root) / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def picture_grid(
    labels: Sequence[str],
    texts: Sequence[str],
    pictures: Sequence[Sequence[Sequence[np.ndarray]]],
    out_stem: str | Path,
    notes: Sequence[Sequence[str]] | None = None,
) -> None:
    """Rows of a text and groups of pictures uint8 [S, S, 3] under ``labels``; saved as .png, .pdf.

    notes: a line below each group. To be called within ``look``.
    """
    shape = [len(group) for group in pictures[0]]
    side = (WIDTH - CAPTION) / (sum(shape) + 0.15 * len(shape))
    below = 0.22 if notes else 0.06
    height = 0.3 + len(texts) * (side + below)
    figure = Figure(figsize=(WIDTH, height))
    y = 0.3
    for r, (text, row) in enumerate(zip(texts, pictures, strict=True)):
        place(figure, 0, y + side / 2, wrapped(text), ha="left", va="center")
        x = CAPTION
        for g, group in enumerate(row):
            width = len(group) * side
            if r == 0:
                label = dict(ha="center", va="bottom", fontweight="bold")
                place(figure, x + width / 2, 0.24, labels[g], **label)
            for k, picture in enumerate(group):
                left, low = (x + k * side) / WIDTH, 1 - (y + side) / height
                box = (left, low, 0.98 * side / WIDTH, 0.98 * side / height)
                axes = figure.add_axes(box)
                axes.imshow(picture, interpolation="nearest")
                axes.axis("off")
            if notes:
                under = dict(ha="center", va="top", fontsize=6.5, color="#555555")
                place(figure, x + width / 2, y + side + 0.02, notes[r][g], **under)
            x += width + 0.15 * side
        y += side + below
    save(figure, out_stem)


def place(figure: Figure, x: float, y: float, text: str, **style) -> None:
    """Text at (x, y) inches from the upper left corner of a figure."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, **style)


def wrapped(text: str) -> str:
    """A prompt in short lines."""
    import textwrap

    return "\n".join(textwrap.wrap(text, LINE))
