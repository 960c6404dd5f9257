"""What stands under every table: what was scored, by whom, with which versions."""

from __future__ import annotations

from typing import Any

from arrag.config.methods import CEILING_LABELS
from arrag.metrics import bootstrap as stats
from arrag.report.measures import DPG_COLUMNS, Scores
from arrag.report.render import NONE, Block, Cell, number_text

Labelled = dict[str, Scores]  # a row's label -> its score files


def provenance_block(labelled: Labelled) -> Block:
    """One line a row: configuration, seed, images, and the digests of weights and index."""
    table = []
    for label, scores in labelled.items():
        score = next(iter(scores.values()))
        run = score["run"] or {}
        weights = ", ".join(f"{k} {_short(v)}" for k, v in sorted(run.get("weights", {}).items()))
        each = run.get("images_per_prompt")
        if each is None and score.get("n_prompts"):
            each = score["n_images"] // score["n_prompts"]
        texts = [
            label,
            _short(run.get("config_hash")),
            str(run.get("seed", NONE)),
            str(each or NONE),
            str(score["n_images"]),
            weights or NONE,
            _short(run.get("index")),
        ]
        table.append([Cell(text) for text in texts])
    header = ["Row", "Config", "Seed", "Images a prompt", "Images", "Weights", "Index"]
    return Block("What produced each row", header, table)


def footer(kind: str, labelled: Labelled) -> list[str]:
    """Remarks on intervals, prompts, judge and versions; all rows share prompts and judge."""
    special = {"geneval": _geneval, "dpg": _dpg, "distribution": _distribution}[kind]
    lines = special(labelled)
    every = [score for scores in labelled.values() for score in scores.values()]
    lines.append(f"Versions when scored: {_versions([s['versions'] for s in every])}.")
    runs = [score["run"] for score in every if score["run"]]
    if generated := _versions([run.get("versions", {}) for run in runs]):
        lines.append(f"Versions when generated: {generated}.")
    for label, scores in labelled.items():
        for metric, score in scores.items():
            if score.get("partial"):
                lines.append(f"Partial: {metric} of {label} lacks {score['partial']}.")
    return lines


def _geneval(labelled: Labelled) -> list[str]:
    scores = {label: found["geneval"] for label, found in labelled.items()}
    first = next(iter(scores.values()))
    lines = [
        _intervals("prompts within each task") + " Overall is the mean of the task means.",
        f"Prompts: {first['n_prompts']}, sha256 {first['prompt_set_sha256']}.",
        f"Judge: {_judge(first['judge'])}; GenEval's rules, compat: {first['compat']}.",
    ]
    return lines + _flat(scores, "tasks", "task")


def _dpg(labelled: Labelled) -> list[str]:
    scores = {label: found["dpg"] for label, found in labelled.items()}
    first = next(iter(scores.values()))
    lines = [
        "Percent. Overall is the mean over prompts; a category is the mean over its questions.",
        _intervals("prompts"),
        f"Prompts: {first['n_prompts']}, question table sha256 {first['prompt_set_sha256']}.",
        f"Judge: {_judge(first['judge'])}; rules: compat {first['compat']}, "
        f"dependency {first['dependency']}.",
    ]
    for label, score in scores.items():
        both = ", ".join(
            f"{name} {number_text(v, 2)}" for name, v in score["compat_values"].items()
        )
        lines.append(f"Overall of {label} by each compat: {both}.")
    asked = {*first["l1"], stats.OVERALL}
    if absent := [label for name, label in DPG_COLUMNS.items() if name not in asked]:
        lines.append(
            f"Empty columns ({', '.join(absent)}): the table has no such question. Captions of the "
            "micro world, for one, say nothing about the picture as a whole."
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
        if boot:
            lines[-1] += f" Interval: {boot['method']}, {boot['resamples']} resamples."
        else:
            lines[-1] += " No interval: resampling it would take too long."
    if prompts := next(iter(first.values()))["prompt_set_sha256"]:
        lines.append(f"Prompts: sha256 {prompts}.")
    if CEILING_LABELS["real"] in labelled:
        lines.append(
            "The row of real images shows other scenes of the same captions than the reference "
            "has: what remains is how far two finite sets of one kind differ."
        )
    warned: dict[str, list[str]] = {}
    for label, scores in labelled.items():
        for score in scores.values():
            for text in score["warnings"]:
                warned.setdefault(f"{score['label']}: {text}", []).append(label)
    lines += [f"{text} ({', '.join(labels)})." for text, labels in warned.items()]
    return lines


def _intervals(unit: str) -> str:
    return (
        f"Intervals: {stats.LEVEL:.0%} percentiles of {stats.RESAMPLES} resamples of the {unit} "
        f"(seed {stats.SEED})."
    )


def _judge(judge: dict[str, Any]) -> str:
    """``detector NAME (digest), colours NAME (digest)``: every model of the judge."""
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
    """Library versions, each once; more than one of a library means the rows differ."""
    names = sorted({name for versions in found for name in versions})
    each = {n: sorted({versions[n] for versions in found if n in versions}) for n in names}
    return ", ".join(f"{name} {'/'.join(values)}" for name, values in each.items())


def _flat(scores: dict[str, dict[str, Any]], parts: str, name: str) -> list[str]:
    """A remark on the rows in which an interval has no width."""
    flat = [
        label
        for label, score in scores.items()
        if any(low == high for low, high in (part["interval"] for part in score[parts].values()))
    ]
    if not flat:
        return []
    return [
        f"An interval of no width ({', '.join(flat)}) means that all prompts of the {name} got "
        "the same mean; resampling them cannot show how far the true value may be from it."
    ]
