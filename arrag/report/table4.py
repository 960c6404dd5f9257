"""Table 4: the cost of generation, from one timing run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from arrag.config import paper
from arrag.config.root import Config
from arrag.methods.timing import overhead, typical
from arrag.metrics.bootstrap import LEVEL, Estimate
from arrag.pipeline.layout import Layout
from arrag.report.model import Block, Cell, Page
from arrag.report.provenance import write_table_record
from arrag.report.render import interval_cell, number_text, write_report
from arrag.utils.errors import FormatError
from arrag.utils.files import read_json

TABLE = "table4"
COLUMNS = ["scale", "block", "key", "method", "batch", "column", "value", "low", "high"]
HEADINGS = {
    "total_seconds": "Seconds in total",
    "seconds_per_image": "Seconds per image",
    "overhead_percent": "Overhead, %",
}
HEAD = {
    "micro": "Micro scale: these times are of small models on the machine named below. They show "
    "what retrieval and adapters add there; they are not the paper's and cannot be compared with "
    "them. The paper's table is reported in a block of its own.",
    "paper": "Paper scale, on the machine named below. The paper's times are of one L40 and are "
    "reported in a block of their own; only overheads in percent can be compared, and only "
    "roughly.",
}
RANDOM = (
    "Random weights: a forward pass costs the same whatever the weights are, but the time of a "
    "search depends on how the codes of the database are distributed, which are random here too."
)


def write_table4(config: Config, config_path: Path, timing_path: Path, out: Path) -> dict[str, Any]:
    """Write Table 4 as Markdown, CSV and LaTeX, with its record.

    Args:
        config: The configuration, for the present labels of the rows.
        config_path: Its file, for the record.
        timing_path: The file that ``arrag benchmark`` wrote.
        out: The Markdown file.

    Returns:
        The timed rows by key.

    Raises:
        FormatError: ``timing_path`` is not a timing run.
    """
    timing = read_json(timing_path)
    for key, row in timing.get("rows", {}).items():
        if key in config.methods:
            method = config.method(key)
            row |= {"label": method.label, "paper_key": method.paper_key}
    frame, page = make_table4({**timing, "not_run": config.skipped}, timing_path)
    write_report(out.with_suffix(""), frame, page)
    labels = {key: row["label"] for key, row in timing["rows"].items() if key in config.methods}
    about = {"kind": "timing", "benchmark": timing["benchmark"], "config": str(config_path)}
    scores = {key: {"timing": timing_path} for key in labels}
    forms, layout = (".csv", ".tex"), Layout(config)
    write_table_record(out.with_suffix(".md"), forms, layout, labels, about, scores)
    return timing["rows"]


def make_table4(timing: Mapping[str, Any], path: Path | None = None) -> tuple[pd.DataFrame, Page]:
    """Make the tidy table (``COLUMNS``) and the page of Table 4.

    Args:
        timing: A timing run, with ``not_run`` of the configuration.
        path: Its file, for messages.

    Raises:
        FormatError: The file is of another kind, or has no row.
    """
    if timing.get("kind") != "timing" or not timing.get("rows"):
        hint = "make one with `arrag benchmark --out FILE`"
        raise FormatError("not a timing run", path=path, hint=hint)
    reported = [
        ["paper", "paper", key, paper.paper_label(key), 1, column, number, None, None]
        for key in paper.paper_rows(TABLE)
        for column, number in paper.paper_values(TABLE, key).items()
    ]
    frame = pd.DataFrame([*_measured(timing), *reported], columns=COLUMNS)
    head = HEAD[timing["scale"]]
    if timing["weights"] == "random":
        head = f"{RANDOM} {head}"
    blocks = timing_blocks(frame, timing)
    return frame, Page("Table 4: cost of generation", head, blocks, _footer(timing))


def paper_ordered(timing: Mapping[str, Any]) -> list[str]:
    """Keys of the rows: those of the paper in its order, then the others as they were timed."""
    rows, order = timing["rows"], timing["order"]
    names = paper.paper_rows(TABLE)
    listed = [key for name in names for key in order if rows[key]["paper_key"] == name]
    return listed + [key for key in order if key not in listed]


def timing_value(timing: Mapping[str, Any], key: str, run: str, column: str) -> Estimate | None:
    """A number of Table 4 (column of ``HEADINGS``), with its interval over rounds.

    ``run`` is ``one`` or ``best``: one image at a time, or the best batch. None if it was not
    timed, or has no bare row of its generator to compare with.
    """
    rows = timing["rows"]
    if (found := rows[key]["runs"].get(run)) is None:
        return None
    if column == "overhead_percent":
        bare = rows.get(rows[key]["bare"], {"runs": {}})["runs"].get(run)
        return overhead(found["seconds"], bare["seconds"]) if bare else None
    total = typical(found["seconds"])
    images = 1 if column == "total_seconds" else found["images"]
    return Estimate(*(seconds / images for seconds in total))


def _measured(timing: Mapping[str, Any]) -> Iterator[list[Any]]:
    for run in ("one", "best"):
        for key in paper_ordered(timing):
            row = timing["rows"][key]
            for column in HEADINGS:
                if (found := timing_value(timing, key, run, column)) is not None:
                    batch = row["runs"][run]["batch"]
                    yield [timing["scale"], run, key, row["label"], batch, column, *found]


def timing_blocks(frame: pd.DataFrame, timing: Mapping[str, Any] | None = None) -> list[Block]:
    """The tables of Table 4; of ``timing``, if given, are remarks that the CSV does not hold."""
    blocks = []
    for run, title in (("one", "One image at a time, as in the paper"), ("best", "The best batch")):
        lines = []
        for key, found in frame[frame.block == run].groupby("key", sort=False):
            row = timing["rows"][key] if timing else {}
            first = Cell(found.method.iloc[0], row.get("dtype") or "")
            end = row["runs"][run].get("end", "") if row else ""
            batch = [Cell(str(found.batch.iloc[0]), end)] if run == "best" else []
            lines.append([first, *batch, *_cells(found)])
        batch = ["Batch"] if run == "best" else []
        notes = _notes(run, timing) if timing else []
        if lines:
            blocks.append(Block(title, ["Method", *batch, *HEADINGS.values()], lines, notes))
    ours = {row["paper_key"]: row["label"] for row in (timing["rows"] if timing else {}).values()}
    lines = []
    for key, found in frame[frame.block == "paper"].groupby("key", sort=False):
        note = f"here: {ours[key]}" if key in ours else ""
        if timing and not note:
            note = paper.not_run(key, timing["not_run"])
        numbers = [Cell(number_text(value, 2)) for value in found.value]
        lines.append([Cell(found.method.iloc[0], note), *numbers])
    title = f"Reported in the paper, on one L40 ({paper.paper_tables()['source']})"
    return [*blocks, Block(title, ["Method", *HEADINGS.values()], lines)]


def _cells(numbers: pd.DataFrame) -> list[Cell]:
    found = {n.column: Estimate(n.value, n.low, n.high) for n in numbers.itertuples()}
    total, each = found["total_seconds"], found["seconds_per_image"]
    added = interval_cell(found.get("overhead_percent"), 1, sign=True, strong=None)
    if found.get("overhead_percent") == (0, 0, 0):
        added = Cell("0", "the bare row")
    return [interval_cell(total, _digits(total)), interval_cell(each, _digits(each)), added]


def _digits(estimate: Estimate) -> int:
    """Three significant digits, at most four after the point."""
    if estimate.value <= 0:
        return 2
    return min(4, max(0, 2 - math.floor(math.log10(estimate.value))))


def _notes(run: str, timing: Mapping[str, Any]) -> list[str]:
    runs = [row["runs"][run] for row in timing["rows"].values() if run in row["runs"]]
    images = " or ".join(map(str, sorted({found["images"] for found in runs})))
    if run == "best":
        return [
            f"Total: {images} images. The batch size of each row was doubled until an image got no "
            "faster, memory ran out, or the largest allowed size was reached; which of them is "
            "given below it."
        ]
    return [
        f"Total: {images} images, from text to pixels; geometric mean of {timing['rounds']} "
        "rounds. Model load and a warm-up are not timed.",
        "Overhead: relative to the bare row of the same generator, in the same round. Intervals: "
        f"Student's t, {LEVEL:.0%}, over rounds, of logarithms. Bold: the interval excludes 0.",
    ]


def _footer(timing: Mapping[str, Any]) -> list[str]:
    machine = timing["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in sorted(timing["versions"].items()))
    lines = [
        f"Machine: {machine['name']} ({machine['device']}), {machine['threads']} threads, "
        f"{machine['cores']} cores, load {machine['load']} at the start.",
        f"Prompts: {timing['benchmark']}, the same for every row, sha256 "
        f"{timing['prompts_sha256'][:12]}. In each round, every row was timed once.",
        f"Weights: {timing['weights']}.",
    ]
    for key, row in timing["rows"].items():
        if key.startswith("upstream"):
            lines.append(
                f"{row['label']}: the library's own loop with the same weights, guidance and "
                "decoder; it draws other random numbers, so other images."
            )
    return [*lines, f"Versions: {versions}."]
