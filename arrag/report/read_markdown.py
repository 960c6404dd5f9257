"""The tables' Markdown read back: the inverse of ``render.markdown``, and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from arrag.report.render import Block, Cell, Page
from arrag.utils.errors import ArragError

ESCAPED = re.compile(r"\\([\\`*_|<>\[\]#~])")
CELL = re.compile(
    r"(?P<strong>\*\*)?(?P<text>.*?)(?(strong)\*\*)(?:<br><sub>(?P<note>.*)</sub>)?", re.S
)


def read_page(path: str | Path) -> Page:
    """The page that a report's .md was made of. ArragError when it is no such file."""
    path = Path(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ArragError(f"{path}: not a table of this project ({error}); make it again") from None


def parse(markdown: str) -> Page:
    """The same of a text; ValueError when something in it is not of that form."""
    title, head, blocks, footer = None, "", [], []
    for part in markdown.strip("\n").split("\n\n"):
        if part.startswith("# "):
            title = _plain(part[2:])
        elif part.startswith("> "):
            head = _plain(part[2:])
        elif part.startswith("## "):
            blocks.append(Block(_plain(part[3:]), [], []))
        elif part.startswith("| ") and blocks:
            header, rule, *rows = [_cells(line) for line in part.split("\n")]
            blocks[-1].header.extend(_plain(text) for text in header)
            blocks[-1].rows.extend([_cell(text) for text in row] for row in rows)
            if any(len(row) != len(header) for row in (rule, *rows)):
                raise ValueError(f"the rows under {blocks[-1].heading!r} have unequal lengths")
        elif part.startswith("- "):
            # After a table its notes; what closes the page comes after those, or after a table
            # without any: the two cannot be told apart there, and are shown alike.
            lines = [_plain(line[2:]) for line in part.split("\n")]
            (footer if not blocks or blocks[-1].notes else blocks[-1].notes).extend(lines)
        else:
            raise ValueError(f"found {part[:40]!r}")
    if title is None:
        raise ValueError("it has no title")
    return Page(title, head, blocks, footer)


def _cells(line: str) -> list[str]:
    if not line.startswith("| ") or not line.endswith(" |"):
        raise ValueError(f"found {line[:40]!r} in a table")
    cells, here = [], ""
    # A bar is a border unless it is escaped, and pairs of backslashes escape themselves.
    for piece in re.split(r"(\\.|\|)", line[1:-1]):
        if piece == "|":
            cells.append(here)
            here = ""
        else:
            here += piece
    return [cell[1:-1] for cell in [*cells, here]]


def _cell(text: str) -> Cell:
    match = CELL.fullmatch(text)
    assert match is not None  # the pattern takes any text
    return Cell(_plain(match["text"]), _plain(match["note"] or ""), bool(match["strong"]))


def _plain(text: str) -> str:
    return ESCAPED.sub(r"\1", text)
