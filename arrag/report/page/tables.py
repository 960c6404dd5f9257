"""Tables as HTML: those of :mod:`arrag.report.tables`, and any CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from arrag.metrics.bootstrap import Estimate
from arrag.report.page.markup import element, listing, text
from arrag.report.render import Block, Cell, Page, number_text
from arrag.utils.errors import ArragError

FOLDED = ("What produced each row",)  # blocks that few readers want at once
ROW, LEFT, WIDTH, RIGHT = 26, 195, 480, 62  # pixels of a chart


def table_section(page: Page, identity: str, chart: str = "", head: str = "") -> str:
    """A page of tables as a section; chart: HTML that comes first, head: a text above all."""
    blocks = "".join(_block(block, f"{identity}-{i}") for i, block in enumerate(page.blocks))
    remarks = element("summary", "Remarks: intervals, prompts, judge, versions")
    remarks = element("details", remarks + listing(page.footer)) if page.footer else ""
    heading = element("h2", text(page.title), id=f"{identity}-title")
    above = element("p", text(head), class_="missing") if head else ""
    content = heading + above + chart + blocks + remarks
    return element("section", content, id=identity, aria_labelledby=f"{identity}-title")


def _block(block: Block, identity: str) -> str:
    content = grid(block.header, block.rows, identity) + listing(block.notes)
    if block.heading in FOLDED:
        summary = element("summary", text(block.heading), id=identity)
        return element("details", summary + content)
    return element("h3", text(block.heading), id=identity) + content


def grid(header: list[str], rows: list[list[Cell]], labelled_by: str) -> str:
    """One table in a frame that scrolls by itself, so that the page never does."""
    head = "".join(element("th", text(name), scope="col") for name in header)
    body = "".join(
        element("tr", element("th", _cell(row[0]), scope="row") + "".join(map(_data, row[1:])))
        for row in rows
    )
    table = element("thead", element("tr", head)) + element("tbody", body)
    table = element("table", table, aria_labelledby=labelled_by)
    return element(
        "div", table, class_="frame", role="region", tabindex=0, aria_labelledby=labelled_by
    )


def _data(cell: Cell) -> str:
    return element("td", _cell(cell))


def _cell(cell: Cell) -> str:
    content = element("strong", text(cell.text)) if cell.strong else text(cell.text)
    return content + (element("small", text(cell.note)) if cell.note else "")


def csv_section(path: Path, identity: str, title: str) -> str:
    """A CSV file as a table. ArragError when it cannot be read or its lines are unequal."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            header, *rows = list(csv.reader(handle))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ArragError(f"{path}: not a readable table ({error}); make it again") from None
    if any(len(row) != len(header) for row in rows):
        raise ArragError(f"{path}: its lines have unequal numbers of cells; make it again")
    cells = [[Cell(_rounded(value)) for value in row] for row in rows]
    heading = element("h3", text(title), id=identity)
    return heading + grid(header, cells, identity)


def _rounded(value: str) -> str:
    """A number with at most four digits after the point; any other text as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if "." not in value else number_text(number, 4)


def interval_chart(title: str, rows: list[tuple[str, Estimate, bool]], digits: int) -> str:
    """Points with intervals, one line a row, on one axis that begins at 0: an SVG.

    rows: label, value with bounds, and whether the row is a ceiling. The first row is the one the
    eye compares with: a line goes through its value.
    """
    top = max(max(e.value, e.high) for _, e, _ in rows) or 1.0
    height = ROW * len(rows) + 8

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * max(value, 0.0) / top, 1)

    base = x(rows[0][1].value)
    parts = [f'<line class="base" x1="{base}" x2="{base}" y1="0" y2="{height}"/>']
    for i, (label, estimate, ceiling) in enumerate(rows):
        y = ROW * i + ROW // 2 + 4
        low, middle, high = (x(v) for v in (estimate.low, estimate.value, estimate.high))
        number = number_text(estimate.value, digits)
        parts.append(
            f'<g class="{"ceiling" if ceiling else "ours"}">'
            f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{text(label)}</text>'
            f'<line class="bar" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{middle}" cy="{y}" r="4.5"/>'
            f'<text class="number" x="{WIDTH - RIGHT + 14}" y="{y + 4}">{number}</text></g>'
        )
    spoken = "; ".join(f"{label} {number_text(e.value, digits)}" for label, e, _ in rows)
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(f"{title}: {spoken}")}">'
        f"{''.join(parts)}</svg>"
    )
    return element("figure", drawing + element("figcaption", text(title)), class_="chart")
