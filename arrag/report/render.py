"""Write a report as CSV, Markdown and LaTeX.

The Markdown and LaTeX templates escape every value they print (Jinja2's ``finalize``), as the HTML
templates do by autoescape, so that no label or prompt becomes markup.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from arrag.metrics.bootstrap import Estimate
from arrag.report.model import Cell, Page
from arrag.utils.errors import FormatError
from arrag.utils.files import write_text

NONE = "\u2013"  # an empty cell
_LINE_ENDS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")  # a cell is one line
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_|<>\[\]#~])")
_LATEX_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "\u2212": r"$-$",
        "\u2013": "--",
        "\u00a0": "~",
        "\u2026": r"\ldots{}",
        "α": r"$\alpha$",
        "λ": r"$\lambda$",
        "τ": r"$\tau$",
        "×": r"$\times$",
        "±": r"$\pm$",
        "↓": r"$\downarrow$",
        # A bracket right after the row end \\ would be read as its optional argument.
        "[": "{[}",
        "]": "{]}",
    }
)
_NUMBERS = ("value", "low", "high", "difference", "difference_low", "difference_high")


def number_text(number: float | None, digits: int, sign: bool = False) -> str:
    """Format a number with a typographic minus sign; a rounded zero has no sign."""
    if number is None or pd.isna(number):
        return NONE
    text = f"{number:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def interval_cell(
    estimate: Estimate | None, digits: int = 3, sign: bool = False, strong: bool | None = False
) -> Cell:
    """Format a value above its interval.

    Args:
        estimate: The value and its bounds; NaN bounds are left out.
        digits: Digits after the point.
        sign: Whether positive numbers get a plus sign.
        strong: Whether the value is bold; None for bold if the interval excludes 0.
    """
    if estimate is None:
        return Cell(NONE)
    if strong is None:
        strong = not estimate.holds(0)
    low, high = (number_text(bound, digits, sign) for bound in estimate[1:])
    note = f"[{low},\u00a0{high}]" if estimate.low <= estimate.high else ""
    return Cell(number_text(estimate.value, digits, sign), note, strong)


def interval_cells(
    numbers: pd.DataFrame, columns: Iterable[str], digits: int, **style: Any
) -> list[Cell]:
    """Format one row of a table.

    Args:
        numbers: The rows of a tidy table that belong to it, with ``column, value, low, high``.
        columns: The cells' columns; one without a number is an empty cell.
        digits: Digits after the point.
        **style: ``sign`` and ``strong`` of :func:`interval_cell`.
    """
    found = {n.column: Estimate(n.value, n.low, n.high) for n in numbers.itertuples()}
    return [interval_cell(found.get(column), digits, **style) for column in columns]


def write_report(
    stem: str | Path, frame: pd.DataFrame, page: Page, *, with_latex: bool = True
) -> None:
    """Write ``stem``.csv, ``stem``.md and, unless told otherwise, ``stem``.tex."""
    stem = Path(stem)
    forms = {".csv": csv_text(frame), ".md": markdown(page)}
    if with_latex:
        forms[".tex"] = latex(page)
    for suffix, text in forms.items():
        write_text(stem.with_name(stem.name + suffix), text)


def csv_text(frame: pd.DataFrame) -> str:
    """A tidy table as CSV, unrounded; a missing number is an empty field."""
    return frame.to_csv(index=False, lineterminator="\n")


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a report's CSV: its numbers as float64 (NaN if empty), all else as text.

    Raises:
        FormatError: It cannot be read, or its lines have unequal numbers of fields.
    """
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            header, *rows = list(csv.reader(handle, strict=True))
        if any(len(row) != len(header) for row in rows):
            raise ValueError("its lines have unequal numbers of cells")
        frame = pd.DataFrame(rows, columns=header)
        for column in frame.columns.intersection(_NUMBERS):
            frame[column] = [float(text) if text else float("nan") for text in frame[column]]
    except (OSError, ValueError, csv.Error) as error:
        message = f"not a readable table ({error})"
        raise FormatError(message, path=path, hint="make it again") from None
    return frame


def markdown(page: Page) -> str:
    """A report as GitHub-flavoured Markdown."""
    return _render(page, "report.md.j2", lambda text: _MARKDOWN_SPECIAL.sub(r"\\\1", text))


def latex(page: Page) -> str:
    """A report as LaTeX, one table environment a block; needs booktabs and graphicx."""
    return _render(page, "report.tex.j2", lambda text: text.translate(_LATEX_SPECIAL), "<>")


def _render(page: Page, name: str, escape: Callable[[str], str], brackets: str = "{}") -> str:
    opening, closing = brackets

    def finalize(value: Any) -> Markup:
        if isinstance(value, Markup):
            return value
        return Markup(escape(_LINE_ENDS.sub(" ", str(value))))

    environment = Environment(
        loader=PackageLoader("arrag.report"),
        undefined=StrictUndefined,
        autoescape=True,  # what `finalize` returns is Markup, and is not escaped again
        finalize=finalize,
        block_start_string=f"{opening}%",
        block_end_string=f"%{closing}",
        variable_start_string=2 * opening,
        variable_end_string=2 * closing,
        comment_start_string=f"{opening}#",
        comment_end_string=f"#{closing}",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(page=page)
