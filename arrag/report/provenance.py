"""What a report was made of: remarks below its tables, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrag.config.methods import CEILING_LABELS
from arrag.metrics import bootstrap as stats
from arrag.metrics import mobilenet
from arrag.pipeline.layout import Layout
from arrag.pipeline.provenance import sample_inputs
from arrag.pipeline.records import write_record
from arrag.report.measures import DPG_COLUMNS, Scores
from arrag.report.model import Block, Cell
from arrag.report.render import NONE, number_text

PROVENANCE = "Provenance of each row"
INTERVALS = (
    f"Intervals: {stats.LEVEL:.0%} percentile bootstrap, {stats.RESAMPLES} resamples of the {{}} "
    f"(seed {stats.SEED})."
)

Labelled = Mapping[str, Scores]  # a row's label -> its score files


def provenance_block(labelled: Labelled) -> Block:
    """One line for each row: configuration, seed, images, and digests of weights and index."""
    table = []
    for label, scores in labelled.items():
        score = next(iter(scores.values()))
        run = score["run"] or {}
        weights = ", ".join(f"{k} {_short(v)}" for k, v in sorted(run.get("weights", {}).items()))
        each = run.get("images_per_prompt")
        if each is None and score.get("n_prompts"):
            each = score["n_images"] // score["n_prompts"]
        config, index = _short(run.get("config_hash")), _short(run.get("index"))
        seed, images = run.get("seed", NONE), score["n_images"]
        texts = [label, config, seed, each or NONE, images, weights or NONE, index]
        table.append([Cell(str(text)) for text in texts])
    header = ["Row", "Config", "Seed", "Images per prompt", "Images", "Weights", "Index"]
    return Block(PROVENANCE, header, table)


def footer(kind: str, labelled: Labelled) -> list[str]:
    """Remarks on intervals, prompts, judge and versions, which all rows share."""
    special = {"geneval": _geneval, "dpg": _dpg, "distribution": _distribution}[kind]
    lines = special(labelled)
    every = [score for scores in labelled.values() for score in scores.values()]
    lines.append(f"Versions at scoring: {_versions([s['versions'] for s in every])}.")
    runs = [score["run"] for score in every if score["run"]]
    if generated := _versions([run.get("versions", {}) for run in runs]):
        lines.append(f"Versions at generation: {generated}.")
    for label, scores in labelled.items():
        for metric, score in scores.items():
            if score.get("partial"):
                lines.append(f"Partial: {metric} of {label} lacks {score['partial']}.")
    return lines


def _geneval(labelled: Labelled) -> list[str]:
    scores = {label: found["geneval"] for label, found in labelled.items()}
    first = next(iter(scores.values()))
    lines = [
        INTERVALS.format("prompts within each task") + " Overall is the mean of the task means.",
        f"Prompts: {first['n_prompts']}, sha256 {first['prompt_set_sha256']}.",
        f"Judge: {_judge(first['judge'])}; GenEval's rules, compat: {first['compat']}.",
    ]
    return lines + _flat(scores, "tasks", "task")


def _dpg(labelled: Labelled) -> list[str]:
    scores = {label: found["dpg"] for label, found in labelled.items()}
    first = next(iter(scores.values()))
    lines = [
        "Percent. Overall is the mean over prompts; a category is the mean over its questions.",
        INTERVALS.format("prompts"),
        f"Prompts: {first['n_prompts']}, question table sha256 {first['prompt_set_sha256']}.",
        f"Judge: {_judge(first['judge'])}; rules: compat {first['compat']}, "
        f"dependency {first['dependency']}.",
    ]
    for label, score in scores.items():
        both = ", ".join(f"{k} {number_text(v, 2)}" for k, v in score["compat_values"].items())
        lines.append(f"Overall of {label} by each compat: {both}.")
    asked = {*first["l1"], stats.OVERALL}
    if absent := [label for name, label in DPG_COLUMNS.items() if name not in asked]:
        lines.append(
            f"Empty columns ({', '.join(absent)}): the question table has no such question. The "
            "captions of the synthetic dataset, for example, do not describe the image as a whole."
        )
    return lines + _flat(scores, "l1", "category")


def _distribution(labelled: Labelled) -> list[str]:
    first = next(iter(labelled.values()))
    lines = []
    for score in first.values():
        reference, boot = score["reference"], score["bootstrap"]
        judge = f"{score['judge']['extractor']} ({_short(score['judge']['extractor_digest'])})"
        lines.append(
            f"{score['label']}: features {judge}, {score['dimensions']} dimensions, "
            f"compat: {score['compat']}; {score['n_images']} images against "
            f"{score['n_reference']} (sha256 {_short(reference['sha256'])})."
        )
        interval = boot and f"Interval: {boot['method']}, {boot['resamples']} resamples."
        lines[-1] += f" {interval or 'No interval: resampling would take too long.'}"
    if prompts := next(iter(first.values()))["prompt_set_sha256"]:
        lines.append(f"Prompts: sha256 {prompts}.")
    if CEILING_LABELS["real"] in labelled:
        lines.append(
            "The row of real images holds other scenes of the same captions than the reference: "
            "its distance is what two finite samples of one distribution differ by."
        )
    warned: dict[str, list[str]] = {}
    for label, scores in labelled.items():
        for score in scores.values():
            for text in score["warnings"]:
                warned.setdefault(f"{score['label']}: {text}", []).append(label)
    lines += [f"{text} ({', '.join(labels)})." for text, labels in warned.items()]
    return lines


def _judge(judge: dict[str, Any]) -> str:
    """The judge's models: ``detector NAME (digest), colours NAME (digest)``."""
    if "name" in judge:
        return f"{judge['name']} ({_short(judge['digest'])})"
    names = {"detector": "detector", "color": "colours"}
    models = sorted((n for n in judge if not n.endswith("digest")), key=lambda n: n != "detector")
    return ", ".join(
        f"{names.get(name, name)} {judge[name]} ({_short(judge.get(f'{name}_digest'))})"
        for name in models
    )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else NONE


def _versions(found: list[dict[str, str]]) -> str:
    """Library versions; several of one library mean that the rows differ."""
    names = sorted({name for versions in found for name in versions})
    each = {n: sorted({versions[n] for versions in found if n in versions}) for n in names}
    return ", ".join(f"{name} {'/'.join(values)}" for name, values in each.items())


def _flat(scores: dict[str, dict[str, Any]], parts: str, name: str) -> list[str]:
    """A remark on rows with an interval of zero width."""
    intervals = {k: [p["interval"] for p in score[parts].values()] for k, score in scores.items()}
    flat = [label for label, found in intervals.items() if any(low == high for low, high in found)]
    return flat and [
        f"An interval of zero width ({', '.join(flat)}) means that all prompts of the {name} have "
        "the same mean; the bootstrap then says nothing about the uncertainty."
    ]


def write_table_record(
    out: Path,
    forms: tuple[str, ...],
    layout: Layout,
    labels: Mapping[str, str],
    about: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Path]] | None = None,
) -> None:
    """Write the record of a table: its files, and what each row was made of.

    Args:
        out: The Markdown file.
        forms: Suffixes of the report's other files.
        layout: Where the workflow has the results.
        labels: Label of each row, by its key.
        about: ``kind``, ``benchmark``, ``config`` and further fields of the table.
        scores: Score files by row and metric; None for those of the layout.
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
    write_record(out, *others, made_of=files, table={**about, "rows": rows})


def parts_of(layout: Layout, key: str, benchmark: str | None) -> dict[str, Path]:
    """Path of everything that a row was made of and judged by, by role."""
    found = sample_inputs(layout, key, benchmark) | {"samples": layout.samples(key, benchmark)}
    if key not in CEILING_LABELS:
        made = layout.artifacts_for(key)
        if "adapter" in found and found["adapter"] == made.get("trained_adapter"):
            found["pairs"] = made["pairs"]  # an adapter that was not trained here has other pairs
    drawn, judge = layout.config.benchmark(benchmark), layout.config.scorers
    if drawn.kind == "distribution":
        found["reference"] = layout.reference(benchmark or layout.config.main_benchmark)
        for metric, settings in drawn.metrics.wanted.items():
            name = getattr(settings, "extractor", None) or ""
            if name.partition(":")[0] == mobilenet.NAME:
                found[metric] = mobilenet.FOLDER / mobilenet.WEIGHTS
            elif name and Path(name).exists():
                found[metric] = name
    elif drawn.kind == "geneval" or judge.vqa is None:
        found |= {"detector": judge.detector, "color": judge.color}
    elif judge.question_models:
        found["judge"] = judge.question_models[0]
    return {role: Path(path) for role, path in found.items()}
