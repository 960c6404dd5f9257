"""Figure 4: images of the same prompts by each method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from arrag.config.root import Config
from arrag.data.prompts import first_of_each_task, load_prompt_set
from arrag.data.sample_dir import load_image, prompt_text, sample_path
from arrag.pipeline.layout import Layout
from arrag.pipeline.reports import figure4_methods
from arrag.report.figures.style import WIDTH, apply_style, save, save_rows
from arrag.utils.errors import ConfigError
from arrag.utils.hashing import sha256_file

CAPTION = 1.5  # inches
LINE = 22  # characters of a prompt in a line


def write_figure4(config: Config, out: Path) -> dict[str, Any]:
    """Write Figure 4: the first prompts of each task, from the samples of the workflow."""
    prompts = first_of_each_task(load_prompt_set(config.benchmark()), config.figures.prompts)
    each = min(config.figures.images, config.benchmark().images_per_prompt)
    layout = Layout(config)
    columns = {config.method(m).label: layout.samples(m) for m in figure4_methods(config)}
    figure4(columns, prompts, out.with_suffix(""), each)
    return {"prompts": prompts}


def figure4(
    columns: Mapping[str, str | Path], prompts: Sequence[int], out_stem: str | Path, each: int = 2
) -> None:
    """Draw prompts (rows) by methods (columns), the first ``each`` samples side by side.

    Writes ``out_stem``.png, .pdf and .csv (the file of each picture and its SHA-256).

    Args:
        columns: Folder of samples in GenEval's layout, by label.
        prompts: Indices of the prompts.
        out_stem: Path of the files without their suffix.
        each: Samples of each prompt.

    Raises:
        ConfigError: Nothing to draw.
        MissingError: A sample is missing.
    """
    if not columns or not prompts or each < 1:
        found = f"found {len(columns)} methods, {len(prompts)} prompts, {each} images each"
        raise ConfigError(found, field="figures", hint="each must be at least 1")
    texts = [prompt_text(next(iter(columns.values())), i) for i in prompts]
    roots = columns.values()
    names = [[[sample_path(r, i, k) for k in range(each)] for r in roots] for i in prompts]
    pictures = [[[load_image(path) for path in cell] for cell in row] for row in names]
    with apply_style():
        picture_grid(list(columns), texts, pictures, out_stem)
    rows = [
        [i, text, label, k, path, sha256_file(path)]
        for i, text, row in zip(prompts, texts, names, strict=True)
        for label, cell in zip(columns, row, strict=True)
        for k, path in enumerate(cell)
    ]
    save_rows(out_stem, ("prompt", "text", "method", "sample", "file", "sha256"), rows)


def picture_grid(
    labels: Sequence[str],
    texts: Sequence[str],
    pictures: Sequence[Sequence[Sequence[np.ndarray]]],
    out_stem: str | Path,
    notes: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw a grid of pictures as ``out_stem``.png and .pdf, within ``apply_style``.

    Args:
        labels: Headings of the columns.
        texts: Text of each row.
        pictures: The group of pictures in each cell, uint8 [S, S, 3].
        out_stem: Path of the files without their suffix.
        notes: A line below each cell.
    """
    shape = [len(group) for group in pictures[0]]
    side = (WIDTH - CAPTION) / (sum(shape) + 0.15 * len(shape))
    below = 0.22 if notes else 0.06
    height = 0.3 + len(texts) * (side + below)
    figure = Figure(figsize=(WIDTH, height))
    y = 0.3
    for r, (text, row) in enumerate(zip(texts, pictures, strict=True)):
        lines = "\n".join(textwrap.wrap(text, LINE))
        _text(figure, 0, y + side / 2, lines, ha="left", va="center")
        x = CAPTION
        for g, group in enumerate(row):
            width = len(group) * side
            if r == 0:
                label = dict(ha="center", va="bottom", fontweight="bold")
                _text(figure, x + width / 2, 0.24, labels[g], **label)
            for k, picture in enumerate(group):
                left, low = (x + k * side) / WIDTH, 1 - (y + side) / height
                box = (left, low, 0.98 * side / WIDTH, 0.98 * side / height)
                axes = figure.add_axes(box)
                axes.imshow(picture, interpolation="nearest")
                axes.axis("off")
            if notes:
                under = dict(ha="center", va="top", fontsize=6.5, color="#555555")
                _text(figure, x + width / 2, y + side + 0.02, notes[r][g], **under)
            x += width + 0.15 * side
        y += side + below
    save(figure, out_stem)


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Put text at (x, y) inches from the upper left corner of a figure."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, **style)
