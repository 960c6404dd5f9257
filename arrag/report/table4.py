"""Table 4 from one timing run: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arrag.config import paper
from arrag.methods.timing import overhead, typical
from arrag.metrics.bootstrap import LEVEL, Estimate
from arrag.report import render
from arrag.report.render import Block, Cell, Page, interval_cell, number_text
from arrag.utils.errors import ArragError
from arrag.utils.files import write_text

TABLE = "table4"
HEAD = {
    "micro": "Micro scale. These times are of the built-in micro world's small models on the "
    "machine named below. They say what retrieval and adapters add here; they are not the paper's "
    "and not comparable with them. What the paper reports stands in a block of its own.",
    "paper": "Paper scale, on the machine named below. The paper's times are of one L40 and stand "
    "in a block of their own; only the overheads in percent can be compared, and only roughly.",
}
RANDOM = (
    "Random weights. A forward costs the same whatever the weights are; the time "
    "of a search depends on how the database's codes are spread, which here are random too."
)
FIELDS = ("scale", "block", "key", "method", "batch", "column", "value", "low", "high")


def write_table4(timing: Mapping[str, Any], out_stem: str | Path) -> None:
    """Write ``out_stem``.md, .csv and .tex from what ``arrag time`` wrote.

    Raises ArragError when the file is of another kind or has no row.
    """
    if timing.get("kind") != "timing" or not timing.get("rows"):
        raise ArragError("Table 4: not a timing run; make one with `arrag time --out FILE`")
    keys = in_paper_order(timing)
    blocks = [_one(timing, keys), *_best(timing, keys), _reported(timing)]
    head = HEAD[timing["scale"]]
    if timing["weights"] == "random":
        head = f"{RANDOM} {head}"
    page = Page("Table 4: cost of generation", head, blocks, _footer(timing))
    stem = Path(out_stem)
    write_text(stem.with_name(stem.name + ".md"), render.markdown(page))
    write_text(stem.with_name(stem.name + ".tex"), render.latex(page))
    write_text(stem.with_name(stem.name + ".csv"), _csv(timing, keys))


def in_paper_order(timing: Mapping[str, Any]) -> list[str]:
    """Keys of rows: those of the paper's in its order, then the others as they were timed."""
    rows, order = timing["rows"], timing["order"]
    names = paper.paper_rows(TABLE)
    listed = [key for name in names for key in order if rows[key]["paper_key"] == name]
    return listed + [key for key in order if key not in listed]


def seconds(timing: Mapping[str, Any], key: str, run: str) -> Estimate | None:
    """Seconds for all images of a row in a round; None if that was not timed."""
    found = timing["rows"][key]["runs"].get(run)
    return typical(found["seconds"]) if found else None


def overhead_of(timing: Mapping[str, Any], key: str, run: str) -> Estimate | None:
    """Percent over the bare row of the same generator; None if it has none in this run."""
    rows = timing["rows"]
    bare = rows[key]["bare"]
    if bare is None or run not in rows[key]["runs"] or run not in rows[bare]["runs"]:
        return None
    return overhead(rows[key]["runs"][run]["seconds"], rows[bare]["runs"][run]["seconds"])


def each_image(timing: Mapping[str, Any], key: str, run: str) -> Estimate | None:
    """Seconds for one image of a row."""
    total = seconds(timing, key, run)
    if total is None:
        return None
    return Estimate(*(x / timing["rows"][key]["runs"][run]["images"] for x in total))


def _measured(timing: Mapping[str, Any], key: str, run: str) -> list[Cell]:
    total, each = seconds(timing, key, run), each_image(timing, key, run)
    extra = overhead_of(timing, key, run)
    if timing["rows"][key]["bare"] == key:
        added = Cell("0", "the bare row")
    else:
        strong = extra is not None and not extra.holds(0)
        added = interval_cell(extra, 1, sign=True, strong=strong)
    return [interval_cell(total, _digits(total)), interval_cell(each, _digits(each)), added]


def _digits(estimate: Estimate | None) -> int:
    """Three significant digits, at most four after the point."""
    if estimate is None or estimate.value <= 0:
        return 2
    return min(4, max(0, 2 - math.floor(math.log10(estimate.value))))


def _label(timing: Mapping[str, Any], key: str) -> Cell:
    row = timing["rows"][key]
    return Cell(row["label"], f"{row['dtype']}" if row.get("dtype") else "")


HEADER = ["Seconds in total", "Seconds an image", "Overhead, %"]


def _one(timing: Mapping[str, Any], keys: list[str]) -> Block:
    lines = [[_label(timing, key), *_measured(timing, key, "one")] for key in keys]
    notes = [
        f"Total: {_images(timing, 'one')} images, from text to pixels, the geometric "
        f"mean of {timing['rounds']} rounds. Model load and a warm-up are outside the clock.",
        "Overhead: against the bare row of the same generator, round by round. Intervals: "
        f"Student's {LEVEL:.0%} over rounds, of logarithms. Bold: it does not hold 0.",
    ]
    return Block("One image at a time, as in the paper", ["Method", *HEADER], lines, notes)


def _images(timing: Mapping[str, Any], run: str) -> str:
    found = {row["runs"][run]["images"] for row in timing["rows"].values() if run in row["runs"]}
    return " or ".join(map(str, sorted(found)))


def _best(timing: Mapping[str, Any], keys: list[str]) -> list[Block]:
    keys = [key for key in keys if "best" in timing["rows"][key]["runs"]]
    lines, notes = [], []
    for key in keys:
        run = timing["rows"][key]["runs"]["best"]
        batch = Cell(str(run["batch"]), run["end"])
        lines.append([_label(timing, key), batch, *_measured(timing, key, "best")])
    if not lines:
        return []
    notes.append(
        f"Total: {_images(timing, 'best')} images. The best batch of each row: doubled until an "
        "image got no faster, memory ended, or the largest that was allowed; under it stands what "
        "ended the search."
    )
    return [Block("The best batch", ["Method", "Batch", *HEADER], lines, notes)]


def _reported(timing: Mapping[str, Any]) -> Block:
    ours = {row["paper_key"]: row["label"] for row in timing["rows"].values() if row["paper_key"]}
    lines = []
    for key in paper.paper_rows(TABLE):
        note = f"here: {ours[key]}" if key in ours else paper.not_run(key, timing["not_run"])
        numbers = [Cell(number_text(v, 2)) for v in paper.paper_values(TABLE, key).values()]
        lines.append([Cell(paper.paper_label(key), note), *numbers])
    heading = f"Reported in the paper, on one L40 ({paper.paper_tables()['source']})"
    return Block(heading, ["Method", *HEADER], lines)


def _footer(timing: Mapping[str, Any]) -> list[str]:
    machine = timing["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in sorted(timing["versions"].items()))
    about = f"Machine: {machine['name']} ({machine['device']}), {machine['threads']} threads"
    lines = [
        f"{about}, {machine['cores']} cores, load {machine['load']} when it began.",
        f"Prompts: {timing['benchmark']}, the same for every row, sha256 "
        f"{timing['prompts_sha256'][:12]}. Every row was timed once a round, in turn.",
        f"Weights: {timing['weights']}.",
    ]
    for key, row in timing["rows"].items():
        if key.startswith("upstream"):
            lines.append(
                f"{row['label']}: the library's own loop with the same weights, guidance and "
                "decoder; it draws other random numbers, so other images."
            )
    return [*lines, f"Versions: {versions}."]


def _csv(timing: Mapping[str, Any], keys: list[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for name in ("one", "best"):
        for key in keys:
            writer.writerows(_csv_rows(timing, key, name))
    for key in paper.paper_rows(TABLE):
        for column, number in paper.paper_values(TABLE, key).items():
            shown = "" if number is None else number
            label = paper.paper_label(key)
            writer.writerow(["paper", "paper", key, label, 1, column, shown, "", ""])
    return out.getvalue()


def _csv_rows(timing: Mapping[str, Any], key: str, name: str) -> Iterator[list[Any]]:
    total = seconds(timing, key, name)
    if total is None:
        return
    row, scale = timing["rows"][key], timing["scale"]
    found = {
        "total_seconds": total,
        "seconds_per_image": each_image(timing, key, name),
        "overhead_percent": overhead_of(timing, key, name),
    }
    for column, estimate in found.items():
        if estimate is not None:
            numbers = ["" if math.isnan(x) else x for x in estimate]
            batch = row["runs"][name]["batch"]
            yield [scale, name, key, row["label"], batch, column, *numbers]
