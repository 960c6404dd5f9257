"""The style of all figures, and their files, whose bytes depend on the data alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from arrag.config.grids import last_word
from arrag.report.render import csv_text
from arrag.utils.files import write_text
from arrag.utils.outputs import atomic_path

WIDTH = 6.9  # inches: a page of two columns
# Okabe and Ito's colours, distinct with any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAP = "cividis"  # perceptually uniform, also in grey and with any colour vision
DPI = 200
SYMBOLS = {"augment.lam": "λ", "augment.tau": "τ", "augment.k": "K"}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}


def apply_style() -> AbstractContextManager:
    """The style of all figures, for a ``with`` block around all of the drawing."""
    return matplotlib.rc_context(STYLE)


def subplot_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches whose panels leave room for their labels."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, stem: str | Path) -> None:
    """Write ``stem``.png and ``stem``.pdf; equal figures give equal bytes."""
    stem = Path(stem)
    forms = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "ModDate": None}}
    for suffix, metadata in forms.items():
        with atomic_path(stem.with_name(stem.name + suffix)) as path:
            figure.savefig(path, dpi=DPI, metadata=metadata)


def save_rows(stem: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write ``stem``.csv: the numbers that the figure shows, unrounded."""
    stem = Path(stem)
    write_text(stem.with_name(stem.name + ".csv"), csv_text(pd.DataFrame(rows, columns=header)))


def axis_label(path: str) -> str:
    """The name of a configuration path on an axis."""
    return SYMBOLS.get(path, last_word(path).replace("_", " "))
