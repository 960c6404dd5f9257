"""A page of tables, and its Markdown and LaTeX forms. Every text is escaped here, once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from arrag.metrics.bootstrap import Estimate

NONE = "\u2013"  # an empty cell
LINE_ENDS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")  # a cell is one line
MARKDOWN_SPECIAL = re.compile(r"([\\`*_|<>\[\]#~])")
LATEX_SPECIAL = {
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


@dataclass(frozen=True)
class Cell:
    """A table cell: a text, a smaller note under it, bold or not."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Block:
    """One table with a heading above and notes below; all rows are as long as the header."""

    heading: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A title, a warning or summary, tables, and closing remarks."""

    title: str
    head: str
    blocks: list[Block]
    footer: list[str]


def number_text(number: float | None, digits: int, sign: bool = False) -> str:
    """A number with a real minus sign; a rounded zero has no sign; None is an empty cell."""
    if number is None:
        return NONE
    text = f"{number:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def interval_cell(
    estimate: Estimate | None, digits: int = 3, sign: bool = False, strong: bool = False
) -> Cell:
    """A value over its interval, each with ``digits`` after the point; NaN bounds are left out."""
    if estimate is None:
        return Cell(NONE)
    if not estimate.low <= estimate.high:
        return Cell(number_text(estimate.value, digits, sign), "", strong)
    low, high = (number_text(bound, digits, sign) for bound in estimate[1:])
    return Cell(number_text(estimate.value, digits, sign), f"[{low},\u00a0{high}]", strong)


def markdown(page: Page) -> str:
    """GitHub-flavoured Markdown."""
    parts = [f"# {_md(page.title)}", f"> {_md(page.head)}"]
    for block in page.blocks:
        rule = [":--"] + [":-:"] * (len(block.header) - 1)
        lines = [[_md(text) for text in block.header], rule]
        lines += [[_md_cell(cell) for cell in row] for row in block.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts += [f"## {_md(block.heading)}", table, _md_list(block.notes)]
    parts.append(_md_list(page.footer))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(page: Page) -> str:
    """One table environment a block, for a document that loads booktabs and graphicx."""
    head = rf"\textbf{{{_tex(page.title)}.}} {_tex(page.head)}"
    parts = [r"% needs \usepackage{booktabs,graphicx}", head]
    for block in page.blocks:
        columns = "l" + "c" * (len(block.header) - 1)
        rows = [" & ".join(_tex_cell(cell) for cell in row) + r" \\" for row in block.rows]
        notes = [rf"\par\smallskip {{\footnotesize {_tex(note)}}}" for note in block.notes]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}[t]",
                    r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
                    rf"\caption{{{_tex(block.heading)}}}",
                    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    " & ".join(_tex(text) for text in block.header) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}}",
                    *notes,
                    r"\end{table}",
                ]
            )
        )
    items = "\n".join(rf"\item {_tex(line)}" for line in page.footer)
    parts.append(f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}" if items else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def _md(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", LINE_ENDS.sub(" ", text))


def _md_cell(cell: Cell) -> str:
    text = f"**{_md(cell.text)}**" if cell.strong else _md(cell.text)
    return f"{text}<br><sub>{_md(cell.note)}</sub>" if cell.note else text


def _md_list(lines: list[str]) -> str:
    return "\n".join(f"- {_md(line)}" for line in lines)


def _tex(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def _tex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.strong else _tex(cell.text)
    return rf"\shortstack{{{text}\\{{\tiny {_tex(cell.note)}}}}}" if cell.note else text
