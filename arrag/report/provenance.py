"""What stands under every table: what was scored, by whom, with which versions."""

from __future__ import annotations

from typing import Any

from arrag.metrics import stats
from arrag.report.render import NONE, Block, Cell

Scores = dict[str, dict[str, Any]]  # a row's label -> its score file


def provenance_block(scores: Scores) -> Block:
    """One line a row: configuration, seed, images, and the digests of weights and index."""
    table = []
    for label, score in scores.items():
        run = score["run"] or {}
        weights = ", ".join(f"{k} {_short(v)}" for k, v in sorted(run.get("weights", {}).items()))
        texts = [
            label,
            _short(run.get("config_hash")),
            str(run.get("seed", NONE)),
            str(score["n_images"] // score["n_prompts"]),
            str(score["n_images"]),
            weights or NONE,
            _short(run.get("index")),
        ]
        table.append([Cell(text) for text in texts])
    header = ["Row", "Config", "Seed", "Images a prompt", "Images", "Weights", "Index"]
    return Block("What produced each row", header, table)


def footer(scores: Scores) -> list[str]:
    """Remarks on intervals, prompt set, judge and versions; all rows share prompts and judge."""
    first = next(iter(scores.values()))
    judge = first["judge"]
    intervals = (
        f"Intervals: {stats.LEVEL:.0%} percentiles of {stats.RESAMPLES} resamples of the prompts "
        f"within each task (seed {stats.SEED}). Overall is the mean of the task means."
    )
    judged = (
        f"Judge: detector {judge['detector']} ({_short(judge['detector_digest'])}), colours "
        f"{judge['color']} ({_short(judge['color_digest'])}); GenEval's rules, "
        f"compat: {first['compat']}."
    )
    lines = [
        intervals,
        f"Prompts: {first['n_prompts']}, sha256 {first['prompt_set_sha256']}.",
        judged,
        f"Versions when scored: {_versions([s['versions'] for s in scores.values()])}.",
    ]
    runs = [score["run"] for score in scores.values() if score["run"]]
    if generated := _versions([run.get("versions", {}) for run in runs]):
        lines.append(f"Versions when generated: {generated}.")
    if flat := [label for label, score in scores.items() if _has_point_interval(score)]:
        lines.append(
            f"An interval of no width ({', '.join(flat)}) means that all prompts of the task got "
            "the same mean; resampling them cannot show how far the true value may be from it."
        )
    return lines


def _short(digest: str | None) -> str:
    return digest[:12] if digest else NONE


def _versions(found: list[dict[str, str]]) -> str:
    """Library versions, each once; more than one of a library means the rows differ."""
    names = sorted({name for versions in found for name in versions})
    each = {n: sorted({versions[n] for versions in found if n in versions}) for n in names}
    return ", ".join(f"{name} {'/'.join(values)}" for name, values in each.items())


def _has_point_interval(score: dict[str, Any]) -> bool:
    return any(cell["interval"][0] == cell["interval"][1] for cell in score["tasks"].values())
