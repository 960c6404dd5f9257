"""Write the web page: collect its sections and render them by the templates.

The page is one file that makes no request: pictures are data URIs, and a content security policy
allows its own script and style sheet alone. Autoescape keeps texts from becoming markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import arrag
from arrag.config.root import Config
from arrag.data.prompts import first_of_each_task, load_prompt_set
from arrag.metrics.bootstrap import Estimate
from arrag.pipeline.layout import Layout
from arrag.pipeline.records import write_record
from arrag.pipeline.reports import TABLES
from arrag.report.ablation import FIXED, NUMBERS, grid_blocks
from arrag.report.measures import MEASURES
from arrag.report.model import Block, Cell, Page, Table
from arrag.report.page.facts import run_facts
from arrag.report.page.run import Run, columns, gallery_cards, traced_samples
from arrag.report.provenance import PROVENANCE
from arrag.report.render import number_text, read_frame
from arrag.report.table4 import timing_blocks
from arrag.report.tables import make_table, read_scores, table_rows
from arrag.utils.files import write_text

TITLE = {"micro": "AR-RAG at micro scale", "paper": "AR-RAG, measured again"}
LEAD = {
    "micro": "What patch-level retrieval changes in autoregressive image generation, on a small "
    "synthetic dataset whose images two CPU cores generate and judge.",
    "paper": "What patch-level retrieval changes in autoregressive image generation: the paper's "
    "methods, measured again.",
}
BANNER = {
    "micro": (
        "Micro scale.",
        "Images, prompts, generator and judge are small and this project's own. None of the "
        "measured numbers is a number of the paper or comparable with one; what the paper reports "
        "is set apart and labelled so.",
    )
}
ROW, LEFT, WIDTH, RIGHT = 26, 195, 480, 62  # pixels of a chart

Section = dict[str, Any]  # kind, id, link (text in the navigation, empty for none), and its content


@dataclass(frozen=True)
class Options:
    """How much the page shows."""

    prompts: int | None = None  # of each task in the gallery; None for all
    images: int = 2  # of each prompt in the gallery
    traced_prompts: int = 2  # of each task
    traced_images: int = 1  # of each of those prompts
    neighbours: int = 6  # retrieved patches shown for each position


def write_page(
    config: Config,
    config_path: Path,
    out: str | Path,
    *,
    benchmark: str | None = None,
    reports: Path = Path("reports"),
    options: Options = Options(),
    open_method: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Write the page of a configuration's results; what is missing is left out, and named.

    The same results give the same bytes.

    Args:
        config: The configuration.
        config_path: Its file, whose name the page shows.
        out: The HTML file.
        benchmark: The benchmark whose samples are shown; None for the main one.
        reports: Folder with Table 4, ablations and figures.
        options: How much is shown.
        open_method: Loads a method by name, to repeat the generation of samples whose files hold
            no codes; None leaves those samples out.

    Returns:
        What the page holds: ``sections``, ``columns``, ``missing`` methods, number of ``traced``
        samples, and its size in ``bytes``.

    Raises:
        ArragError: A result is damaged.
    """
    run = Run(config, Layout(config), benchmark or config.main_benchmark)
    shown, missing = columns(run)
    prompts = load_prompt_set(config.benchmark(run.benchmark))
    images = config.benchmark(run.benchmark).images_per_prompt
    sections = [s for name in TABLES if (s := _table(run, name))]
    if (path := reports / "table4.csv").is_file():
        remark = "Machine, prompts, weights and versions: see table4.md."
        page = Page("Table 4: cost of generation", "", timing_blocks(read_frame(path)), [remark])
        sections.append({"kind": "report", "id": "table4", "link": "Table 4", **_report(page)})
    if pictures := [_picture(path) for path in sorted((reports / "figures").glob("*.png"))]:
        figures = {"kind": "figures", "id": "figures", "link": "Figures", "pictures": pictures}
        sections.append(figures)
    sections += _ablations(config, reports)
    chosen = first_of_each_task(prompts, options.traced_prompts)
    each = range(min(options.traced_images, images))
    jobs = [(i, prompts[i]["prompt"], sample) for i in chosen for sample in each]
    data = traced_samples(run, shown, jobs, options.neighbours, open_method)
    if data["samples"]:
        sections.append({"kind": "viewer", "id": "origins", "link": "Origins of patches"})
    if shown:
        traced = {(s["method"], s["prompt"], s["sample"]) for s in data["samples"]}
        listed = first_of_each_task(prompts, options.prompts)
        shown_images = min(options.images, images)
        cards = gallery_cards(shown, prompts, listed, shown_images, traced)
        tags = list(dict.fromkeys(card["tag"] for card in cards if card["tag"]))
        gallery = {"kind": "gallery", "id": "gallery", "link": "Gallery"}
        gallery |= {"images": shown_images, "missing": missing, "columns": shown, "cards": cards}
        gallery["tags"] = [(tag, tag.replace("_", " ")) for tag in tags]
        gallery["judged"] = any(column.verdicts for column in shown)
        sections.append(gallery)
    facts = run_facts(config, config_path.name, [column.folder for column in shown])
    sections.append({"kind": "facts", "id": "run", "link": "What was run", "facts": facts})
    templates = files("arrag.report") / "templates"
    style, script = (
        Markup((templates / f"page.{kind}").read_text("utf-8")) for kind in ("css", "js")
    )
    template = _environment().get_template("page.html.j2")
    html = template.render(
        title=TITLE[config.scale],
        lead=LEAD[config.scale],
        banner=BANNER.get(config.scale),
        scale=config.scale,
        generator=f"arrag {arrag.__version__}",
        style=style,
        script=script,
        sections=sections,
        data=data if data["samples"] else None,
    )
    write_text(out, html)
    write_record(out)
    return {
        "page": str(out),
        "bytes": Path(out).stat().st_size,
        "sections": [section["id"] for section in sections],
        "columns": [column.key for column in shown],
        "missing": missing,
        "traced": len(data["samples"]),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("arrag.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    compact = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    environment.policies["json.dumps_kwargs"] = compact

    def csp_digest(content: str) -> Markup:
        """A script or style sheet as a Content-Security-Policy names it."""
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        return Markup(f"'sha256-{digest}'")

    environment.filters["csp_digest"] = csp_digest
    return environment


def _table(run: Run, name: str) -> Section | None:
    """Table 1, 2 or 3 from its scores; None if the configuration has no such benchmark."""
    kind = TABLES[name]
    benchmark = run.config.benchmark_of_kind(kind)
    if benchmark is None:
        return None
    section = {"id": name, "link": f"Table {name.removeprefix('table')}"}
    rows = table_rows(run.config, benchmark)
    wanted = [p for row in rows for p in run.layout.scores(row.key, benchmark).values()]
    if absent := sum(not path.is_file() for path in wanted):
        command = f"snakemake --cores all reports/{name}.md"
        found = {"absent": absent, "wanted": len(wanted), "command": command}
        return {"kind": "missing", **section, **found}
    scores = read_scores(run.layout, rows, benchmark)
    table = Table(kind, rows, scores, run.config.scale, run.config.skipped)
    page = replace(make_table(table)[1], head="")  # the web page has a banner of its own
    return {"kind": "report", **section, **_report(page), "chart": interval_chart(table)}


def _report(page: Page, picture: Section | None = None) -> Section:
    return {"page": page, "chart": None, "picture": picture, "folded": PROVENANCE}


def interval_chart(table: Table) -> dict[str, Any] | None:
    """The overall column with its intervals, as coordinates of an SVG on an axis from 0."""
    overall, digits = table.measure.overall, table.measure.digits
    found: list[tuple[Any, Estimate]] = [
        (row, estimate)
        for row in table.rows
        if overall and (estimate := table.measure.estimate(table.scores[row.key], overall))
    ]
    if not found:
        return None
    top = max(max(e.value, e.high) for _, e in found) or 1.0

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * max(value, 0.0) / top, 1)

    lines = [
        {
            "label": row.label,
            "ceiling": row.kind == "ceiling",
            "number": number_text(e.value, digits),
            "y": ROW * i + ROW // 2 + 4,
            "low": x(e.low),
            "middle": x(e.value),
            "high": x(e.high),
        }
        for i, (row, e) in enumerate(found)
    ]
    return {
        "title": f"{table.columns[overall]}, with 95 % intervals",
        "rows": lines,
        "width": WIDTH,
        "height": ROW * len(lines) + 8,
        "left": LEFT,
        "right": WIDTH - RIGHT + 14,
    }


def _ablations(config: Config, reports: Path) -> list[Section]:
    sections = []
    for i, path in enumerate(sorted(reports.glob("ablation_*.csv"))):
        picture = path.with_suffix(".png")
        report = _report(_ablation(config, path), _picture(picture) if picture.is_file() else None)
        about = {
            "id": re.sub(r"[^a-z0-9]+", "-", path.stem.lower()),
            "link": "" if i else "Ablations",
        }
        sections.append({"kind": "report", **about, **report})
    return sections


def _ablation(config: Config, path: Path) -> Page:
    """The tables of a grid's CSV; of a CSV that is of no grid of the configuration, its lines."""
    frame, grid = read_frame(path), config.grids.get(path.stem.removeprefix("ablation_"))
    if grid is None or not {*FIXED, *NUMBERS, *grid.axes} <= {*frame.columns}:
        rows = [[Cell(_rounded(value)) for value in row] for row in frame.to_numpy().tolist()]
        return Page(_title(path), "", [Block(path.name, list(frame.columns), rows)])
    measure = MEASURES[config.benchmark(grid.benchmark).kind]
    columns = frame.column.unique()
    headings = {column: measure.paper_columns.get(column, column) for column in columns}
    drawn = grid.metric or measure.overall or "fid"
    drawn = drawn if drawn in headings else columns[0]
    blocks = grid_blocks(frame, grid.values or {}, headings, measure, drawn)
    remark = f"Intervals, prompts, judge and versions: see {path.stem}.md."
    title = grid.title or f"{config.method(grid.method).label}, {' and '.join(grid.axes)}"
    return Page(f"Ablation: {title}", "", blocks, [remark])


def _rounded(value: Any) -> str:
    """A number with at most four digits after the point; any other text as it is."""
    try:
        return number_text(float(value), 4) if "." in str(value) else str(value)
    except ValueError:
        return value


def _picture(path: Path) -> Section:
    """A PNG as it is, titled by its file's name."""
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"source": Markup(source), "title": _title(path)}


def _title(path: Path) -> str:
    """``ablation_lambda_tau.csv``: Lambda tau; ``figure4.png``: Figure 4."""
    words = re.sub(r"[_-]+", " ", path.stem.removeprefix("ablation_"))
    words = re.sub(r"(?<=figure)(?=\d)", " ", words)
    return words[:1].upper() + words[1:]
