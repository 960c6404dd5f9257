"""What the record of a table says of its rows, for ``arrag.report.trace``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrag.config.methods import CEILING_LABELS
from arrag.metrics import mobilenet
from arrag.pipeline.drawn_with import drawn_with
from arrag.pipeline.layout import Layout
from arrag.pipeline.records import write_record


def record_table(
    out: Path,
    forms: tuple[str, ...],
    layout: Layout,
    labels: Mapping[str, str],
    about: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Path]] | None = None,
) -> None:
    """Write the record of a table, ``out`` in other ``forms`` (".csv", ...) and with its rows.

    labels: of the rows, by key. about: ``kind``, ``benchmark``, ``config`` and more of the table;
    scores: {row: {metric: path}}, those of the layout if None.
    """
    benchmark, rows = about["benchmark"], {}
    for key, label in labels.items():
        found = layout.scores(key, benchmark) if scores is None else scores[key]
        rows[key] = {
            "label": label,
            "scores": {metric: str(path) for metric, path in found.items()},
            "parts": {role: str(path) for role, path in parts_of(layout, key, benchmark).items()},
        }
    files = {f"{m} of {key}": p for key, row in rows.items() for m, p in row["scores"].items()}
    others = [out.with_suffix(form) for form in forms]
    write_record(out, *others, made_of=files, about={"table": {**about, "rows": rows}})


def parts_of(layout: Layout, key: str, benchmark: str | None) -> dict[str, Path]:
    """Where everything lies that a row was made of and judged by: {role: path}."""
    found = drawn_with(layout, key, benchmark) | {"samples": layout.samples(key, benchmark)}
    if key not in CEILING_LABELS:
        made = layout.made_for(key)
        if "adapter" in found and found["adapter"] == made.get("trained_adapter"):
            found["pairs"] = made["pairs"]  # those of another adapter lie elsewhere
    drawn, judge = layout.config.benchmark(benchmark), layout.config.scorers
    if drawn.kind == "distribution":
        found["reference"] = layout.reference(benchmark or layout.config.main_benchmark)
        for metric, settings in drawn.metrics.wanted.items():
            if (path := _extractor(getattr(settings, "extractor", None))) is not None:
                found[metric] = path
    elif drawn.kind == "geneval" or judge.vqa is None:
        found |= {"detector": judge.detector, "color": judge.color}
    elif judge.question_models:
        found["judge"] = judge.question_models[0]
    return {role: Path(path) for role, path in found.items()}


def _extractor(name: str | None) -> Path | None:
    """The file or folder whose digest a score has; None if it is not known by its settings."""
    if name is None:
        return None
    if name.partition(":")[0] == mobilenet.NAME:
        return mobilenet.FOLDER / mobilenet.WEIGHTS
    return Path(name) if Path(name).exists() else None
