"""Write a figure of a configuration, and the folder that shows all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrag.config.root import Config
from arrag.pipeline.records import write_record
from arrag.pipeline.reports import FIGURES, lacking_for
from arrag.report.figures.copying import write_figure5
from arrag.report.figures.distances import write_figure6
from arrag.report.figures.grids import write_figure7
from arrag.report.figures.samples import write_figure4
from arrag.utils.errors import ConfigError, MissingError
from arrag.utils.files import write_text
from arrag.utils.outputs import atomic_path

CAPTIONS = {
    "figure4": "Images of the same prompts, by method.",
    "figure5": "Copying from a retrieved image: the share of the generated 3 x 3 windows of codes "
    "that the image contains, and the cosine similarity of the nearest window, compared with "
    "another image of the database. The reference of every method is the one that image-level "
    "retrieval gives the generator.",
    "figure6": "Squared distance between the code of the k-th retrieved patch and the true code, "
    "over the positions of held-out images, compared with random codes.",
    "figure7": "Grids of two settings as heat maps; * where the 95 % interval of the difference to "
    "the baseline excludes 0.",
}
PICTURES = {"figure5": ("figure5-images", "figure5")}
SCALES = {
    "micro": "Micro scale: images and numbers are of a synthetic dataset, not the paper's.",
    "paper": "Paper scale.",
}


def write_figure(
    config: Config,
    config_path: Path,
    name: str,
    out: Path,
    *,
    reports: Path = Path("reports"),
    open_method: Callable[[str], Any],
) -> dict[str, Any]:
    """Write a figure as PNG, PDF and CSV, with its record.

    Args:
        config: The configuration, whose results are read where the workflow has them.
        config_path: Its file, for messages.
        name: ``figure4`` to ``figure7``.
        out: The PNG file; the others are written next to it.
        reports: Folder of the ablation reports, for Figure 7.
        open_method: Loads a method by name, for Figure 5.

    Returns:
        What the figure shows, in numbers.

    Raises:
        ConfigError: The configuration lacks what the figure shows.
        MissingError: A result has not been made.
    """
    if lacks := lacking_for(config, name):
        raise ConfigError(lacks, path=config_path, field=name)
    write, more = {
        "figure4": (write_figure4, ()),
        "figure5": (write_figure5, (open_method,)),
        "figure6": (write_figure6, ()),
        "figure7": (write_figure7, (reports,)),
    }[name]
    about = write(config, out, *more)
    write_record(out, *sorted(out.parent.glob(f"{out.stem}[-.][!r]*")))
    return about


def write_figures(config: Config, drawn: Path, out: Path) -> None:
    """Collect the figures in the folder ``drawn`` in one with a page that shows them.

    Of a figure that the configuration cannot have, the page says why.

    Raises:
        MissingError: A figure has not been drawn.
    """
    lines, copied = ["# Figures", f"> {SCALES[config.scale]}"], []
    for name in FIGURES:
        lines.append(f"## Figure {name[-1]}")
        if lacks := lacking_for(config, name):
            lines.append(f"Not made: {lacks}.")
            continue
        shown = PICTURES.get(name, (name,))
        copied += [f"{file}.{kind}" for file in shown for kind in ("png", "pdf")]
        copied.append(f"{name}.csv")
        lines += [f"![{name}]({file}.png)" for file in shown]
        lines.append(f"{CAPTIONS[name]} [PDF]({name}.pdf), [numbers]({name}.csv).")
    if absent := [file for file in copied if not (drawn / file).is_file()]:
        hint = f"draw it with `arrag report figure {absent[0][6]}`, or make all with "
        hint += "`snakemake --cores all reports/figures`"
        raise MissingError("no such figure", path=drawn / absent[0], hint=hint)
    with atomic_path(out) as partial:
        partial.mkdir()
        for file in copied:
            shutil.copyfile(drawn / file, partial / file)
        write_text(partial / "README.md", "\n\n".join(lines) + "\n")
    write_record(out)
