"""The page as a whole: its sections in order, and the one file they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arrag
from arrag.config.root import Config
from arrag.data.prompts import first_of_each_task, load_prompt_set
from arrag.pipeline.layout import Layout
from arrag.report.page import markup
from arrag.report.page.about import LEAD, about_section, banner
from arrag.report.page.gallery import Column, cards
from arrag.report.page.markup import element, text
from arrag.report.page.reports import read_sections
from arrag.report.page.run import Redrawer, Run, columns, followed
from arrag.report.page.tables import interval_chart, table_section
from arrag.report.rows import read_scores, table_rows
from arrag.report.tables import make_table
from arrag.utils.files import write_text

TITLE = {"micro": "AR-RAG in the micro world", "paper": "AR-RAG, measured again"}


@dataclass(frozen=True)
class Options:
    """How much the page shows.

    prompts: of each task in the gallery, None for all; images: of each prompt there; followed:
    prompts of each task whose patches are followed, and the images of each; neighbours: retrieved
    patches shown of each position.
    """

    prompts: int | None = None
    images: int = 2
    followed: int = 2
    followed_images: int = 1
    neighbours: int = 6


def write_page(
    config: Config,
    name: str,
    out: str | Path,
    *,
    tables: Sequence[tuple[str, str]],
    benchmark: str | None = None,
    reports: Path = Path("reports"),
    options: Options = Options(),
    redrawer: Redrawer | None = None,
) -> dict[str, Any]:
    """Write one HTML file that needs no other, and say what is in it.

    name: of the configuration file. tables: (name, kind of benchmark) in order. reports: the
    folder with figures and ablations. redrawer: draws samples again whose files hold no codes. The
    same results give the same bytes. Raises ArragError for damaged results; what is not there yet
    is left out, and the page says so.
    """
    run = Run(config, Layout(config), benchmark or config.main_benchmark)
    shown, missing = columns(run)
    sections: list[tuple[str, str, str]] = []  # identity, name of its link or none, HTML
    for table, kind in tables:
        if section := _table(run, table, kind):
            sections.append((table, section[0], section[1]))
    sections += read_sections(reports, {table for table, _ in tables})
    prompts = load_prompt_set(config.benchmark(run.benchmark))
    images = config.benchmark(run.benchmark).images_per_prompt
    chosen = first_of_each_task(prompts, options.followed)
    data = followed(
        run,
        shown,
        [(i, prompts[i]["prompt"]) for i in chosen],
        min(options.followed_images, images),
        options.neighbours,
        redrawer,
    )
    if data["samples"]:
        sections.append(("origins", "Origins of patches", _viewer(data)))
    if shown:
        traced = {(s["method"], s["prompt"], s["sample"]) for s in data["samples"]}
        listed = first_of_each_task(prompts, options.prompts)
        content = _gallery(shown, prompts, listed, min(options.images, images), traced, missing)
        sections.append(("gallery", "Gallery", content))
    sections.append(("run", "What was run", about_section(config, name, shown)))
    write_text(out, _page(config, sections, data))
    return {
        "page": str(out),
        "bytes": Path(out).stat().st_size,
        "sections": [identity for identity, _, _ in sections],
        "columns": [column.key for column in shown],
        "missing": missing,
        "followed": len(data["samples"]),
    }


def _page(config: Config, sections: list[tuple[str, str, str]], data: dict[str, Any]) -> str:
    style, script = markup.source("page.css"), markup.source("page.js")
    links = "".join(
        element("li", element("a", text(name), href=f"#{identity}"))
        for identity, name, _ in sections
        if name
    )
    footer = (
        "Made by arrag report page. This file holds everything it shows and asks no server for "
        "anything. Pictures are compressed for it; the images themselves are in results/samples."
    )
    return markup.fill(
        markup.source("template.html"),
        {
            "title": text(TITLE[config.scale]),
            "lead": text(LEAD[config.scale]),
            "scale": text(config.scale),
            "generator": text(f"arrag {arrag.__version__}"),
            "style": style,
            "style_digest": markup.digest(style),
            "script": script,
            "script_digest": markup.digest(script),
            "banner": banner(config.scale),
            "links": links,
            "content": "\n".join(html for _, _, html in sections),
            "footer": element("p", text(footer)),
            "data": markup.island("data", data if data["samples"] else None),
        },
    )


def _table(run: Run, name: str, kind: str) -> tuple[str, str] | None:
    """A table's name and section; a remark when its scores are not all there, None without one."""
    benchmark = run.config.benchmark_of_kind(kind)
    if benchmark is None:
        return None
    rows = table_rows(run.config, benchmark)
    wanted = [p for row in rows for p in run.layout.scores(row.key, benchmark).values()]
    absent = sum(not path.is_file() for path in wanted)
    title = f"Table {name.removeprefix('table')}"
    if absent:
        told = f"Not made yet: {absent} of its {len(wanted)} score files are missing. "
        how = element("code", text(f"snakemake --cores all reports/{name}.md"))
        body = element("h2", text(title), id=f"{name}-title") + element(
            "p", f"{text(told)}{how} makes them.", class_="missing"
        )
        return title, element("section", body, id=name, aria_labelledby=f"{name}-title")
    scores = read_scores(run.layout, rows, benchmark)
    table, _, page = make_table(kind, rows, scores, run.config.scale, run.config.not_run)
    chart = ""
    if overall := table.measure.overall:
        values = [
            (row.label, estimate, row.kind == "ceiling")
            for row in rows
            if (estimate := table.measure.estimate(scores[row.key], overall)) is not None
        ]
        heading = f"{table.columns[overall]}, with 95 % intervals"
        chart = interval_chart(heading, values, table.measure.digits) if values else ""
    return title, table_section(page, name, chart)


def _section(identity: str, title: str, content: str) -> str:
    heading = element("h2", text(title), id=f"{identity}-title")
    return element("section", heading + content, id=identity, aria_labelledby=f"{identity}-title")


def _viewer(data: dict[str, Any]) -> str:
    """The patch viewer's frame, which the page's script fills."""
    choices = "".join(
        element(
            "label",
            element("input", type="radio", name="followed", value=i)
            + element("img", alt="", data_picture=i)
            + element("b", text(sample["label"]))
            + text(sample["text"]),
        )
        for i, sample in enumerate(data["samples"])
    )
    explained = (
        "At every patch the method looked for the patches of the database whose surroundings are "
        "nearest to what was drawn so far. Choose a sample, then point at a patch, tap it, or walk "
        "with the arrow keys. The database keeps its images as codes; shown are what the tokenizer "
        "makes of them. The searches are those of the drawing, repeated from the sample's codes."
    )
    legend = (
        '<p class="legend"><span class="key patch"></span> patch &nbsp; '
        '<span class="key around"></span> the surroundings that were compared<br>'
        '<label><input type="checkbox" id="shade"> shade patches by how much the retrieval speaks '
        "for the code that was drawn</label></p>"
    )
    stage = (
        '<div class="stage"><div class="canvas"><img alt="">'
        '<div class="patches" role="grid" aria-label="Patches of the sample"></div></div>'
        f"{legend}</div>"
    )
    panel = (
        '<div class="panel"><div aria-live="polite"><h3></h3><p class="said"></p></div>'
        '<ol class="neighbours" aria-label="Retrieved patches, nearest first"></ol></div>'
    )
    return _section(
        "origins",
        "Where each patch came from",
        element("p", text(explained))
        + element("noscript", element("p", "This part needs JavaScript."))
        + element("div", choices, class_="picker", role="radiogroup", aria_label="Samples")
        + element("div", stage + panel, class_="viewer", id="viewer"),
    )


def _gallery(
    shown: list[Column],
    prompts: list[dict[str, Any]],
    listed: list[int],
    images: int,
    traced: set[tuple[str, int, int]],
    missing: list[str],
) -> str:
    tags = list(dict.fromkeys(prompts[i].get("tag", "") for i in listed))
    parts = [
        element(
            "label",
            "Prompt holds" + element("input", type="search", id="words", autocomplete="off"),
        )
    ]
    if any(tags):
        named = [("", "all")] + [(tag, tag.replace("_", " ")) for tag in tags if tag]
        parts.append(_select("Task", "tag", named))
    if any(column.verdicts for column in shown):
        named = [("", "right and wrong"), ("right", "right only"), ("wrong", "wrong only")]
        parts.append(_select("Judged", "verdict", named))
    boxes = "".join(
        element(
            "label",
            element("input", type="checkbox", value=column.key, checked=True) + text(column.label),
        )
        for column in shown
    )
    parts.append(
        element(
            "fieldset",
            element("legend", "Methods") + element("div", boxes, class_="chips"),
            id="methods",
        )
    )
    told = f"The first {images} of each prompt's images. ✓ and × are the judge's verdict; "
    told += "the small coloured square marks images whose patches can be followed. "
    told += "Arrow keys go from image to image, Enter opens one."
    absent = f"Not drawn yet: {', '.join(missing)}." if missing else ""
    return _section(
        "gallery",
        "Gallery",
        element("p", text(told))
        + (element("p", text(absent), class_="missing") if absent else "")
        + element("form", "".join(parts), id="filters", class_="filters", role="search")
        + element("p", "", id="count", class_="count", role="status")
        + element("div", cards(shown, prompts, listed, images, traced), id="cards"),
    )


def _select(label: str, identity: str, named: list[tuple[str, str]]) -> str:
    options = "".join(element("option", text(name), value=value) for value, name in named)
    return element("label", text(label) + element("select", options, id=identity))
