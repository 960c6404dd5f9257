"""What the figures share: their look, and files whose bytes depend on the data alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from arrag.utils.files import write_text
from arrag.utils.outputs import atomic_path

WIDTH = 6.9  # inches: a page of two columns
# Okabe and Ito's colours, told apart with any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAP = "cividis"  # of numbers: even in grey, and with any colour vision
DPI = 200
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


def look() -> AbstractContextManager:
    """The style of all figures, for a ``with`` block around all of the drawing."""
    return matplotlib.rc_context(STYLE)


def panel(width: float, height: float) -> Figure:
    """A figure of a size in inches whose panels make room for their labels."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, stem: str | Path) -> None:
    """Write ``stem``.png and ``stem``.pdf; equal figures give equal bytes."""
    stem = Path(stem)
    forms = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "ModDate": None}}
    for suffix, metadata in forms.items():
        with atomic_path(stem.with_name(stem.name + suffix)) as path:
            figure.savefig(path, dpi=DPI, metadata=metadata)


def save_rows(stem: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write ``stem``.csv: what the figure shows, unrounded."""
    stem = Path(stem)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(stem.with_name(stem.name + ".csv"), out.getvalue())
