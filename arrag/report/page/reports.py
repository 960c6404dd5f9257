"""What lies in reports/ beside the tables of scores: Table 4, ablations, figures; each if it is."""

from __future__ import annotations

import re
from pathlib import Path

from arrag.report.page.markup import element, encoded, text
from arrag.report.page.tables import csv_section, table_section
from arrag.report.read_markdown import read_page

Section = tuple[str, str, str]  # identity, name of its link (empty: none), HTML


def read_sections(reports: Path, made: set[str]) -> list[Section]:
    """Sections of what is there, ``made`` tables left out: the page makes those of scores."""
    tables = [p for p in sorted(reports.glob("table*.md")) if p.stem not in made]
    sections = [_table(path, f"Table {path.stem.removeprefix('table')}") for path in tables]
    if plates := "".join(map(plate, sorted((reports / "figures").glob("*.png")))):
        heading = element("h2", "Figures", id="figures-title")
        html = element("section", heading + plates, id="figures", aria_labelledby="figures-title")
        sections.append(("figures", "Figures", html))
    stems = {
        p.with_suffix("") for form in ("md", "csv") for p in reports.glob(f"ablation_*.{form}")
    }
    for i, stem in enumerate(sorted(stems)):
        sections.append(_ablation(stem, "" if i else "Ablations"))
    return sections


def _table(path: Path, link: str, above: str = "") -> Section:
    page = read_page(path)
    identity = _identity(path)
    return identity, link, table_section(page, identity, above, page.head)


def _ablation(stem: Path, link: str) -> Section:
    """Its picture and its tables; of a CSV file alone, that."""
    drawn, page, rows = (stem.with_name(f"{stem.name}.{form}") for form in ("png", "md", "csv"))
    above = plate(drawn) if drawn.is_file() else ""
    if page.is_file():
        return _table(page, link, above)
    identity = _identity(rows)
    content = above + csv_section(rows, f"{identity}-title", title_of(rows))
    return identity, link, element("section", content, id=identity)


def plate(path: Path) -> str:
    """A PNG as it is, called by its file's name."""
    source = f"data:image/png;base64,{encoded(path.read_bytes())}"
    image = element("img", src=source, alt=title_of(path), loading="lazy")
    caption = element("figcaption", text(title_of(path)))
    return element("figure", image + caption, class_="plate")


def title_of(path: Path) -> str:
    """``ablation_lambda_tau.csv``: Lambda tau; ``figure4.png``: Figure 4."""
    words = re.sub(r"[_-]+", " ", path.stem.removeprefix("ablation_"))
    words = re.sub(r"(?<=figure)(?=\d)", " ", words)
    return words[:1].upper() + words[1:]


def _identity(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower())
