"""``arrag score``: images against prompts, or recorded results; see also ``distances``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from arrag.cli.common import Count, group
from arrag.cli.distances import add_distances
from arrag.pipeline.provenance import write_score_record
from arrag.utils.errors import UsageError

app = group("score", "Score a folder of images, or recorded results.")
add_distances(app)

# What a command prints of a score; the verdicts of every prompt are in the file.
SHOWN = (
    "metric", "compat", "dependency", "overall", "value", "interval", "unit", "tasks", "l1", "l2",
    "compat_values", "n_items", "n_prompts", "n_images", "n_questions", "correct_images",
    "correct_prompts", "image_sizes", "dropped", "partial", "table_problems", "n_near_yes",
    "rejudged", "prompt_set_sha256", "judge", "versions",
)  # fmt: skip


@Parameter(name="*")
@dataclass
class Judges:
    """The models that judge images."""

    detector: str | None = None
    "Folder of a detector, or mmdet:CONFIG:CHECKPOINT."
    color: Path | None = None
    "Folder of an open_clip model, the colour classifier."
    batch_size: Count = 8
    "Images at a time."


@app.command
def geneval(
    *,
    images: Path | None = None,
    results: Path | None = None,
    recompute: bool = False,
    prompts: Path | None = None,
    judges: Judges | None = None,
    out: Path | None = None,
    verdicts: Path | None = None,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """GenEval's verdicts on a folder of samples, or the summary of recorded ones.

    Example: arrag score geneval --images results/samples/geneval/daid-0123456789
    --detector checkpoints/micro-detector --color checkpoints/micro-clip --out daid.json

    Example: arrag score geneval --results results.jsonl

    Args:
        images: Folder in GenEval's layout: NNNNN/metadata.jsonl, NNNNN/samples/*.png.
        results: Official results.jsonl, instead of images.
        recompute: With --results: judge counts and positions again from the recorded boxes.
        prompts: The prompt file; by default what the folders' metadata say.
        out: JSON file of the score, with every prompt's.
        verdicts: JSON lines, one per image; by default OUT with the suffix .jsonl.
        allow_partial: Leave out what is missing or damaged and state it in the score.
    """
    judges = judges or Judges()
    if _one_of(images, "--images", results, "--results") == "--results":
        return _summary(results, prompts, recompute, allow_partial, out, verdicts)
    if recompute:
        raise UsageError("needs --results", field="--recompute", hint="images are judged anyway")
    from arrag.metrics.base import ScoreOptions, load_detector
    from arrag.metrics.color import ColorClassifier
    from arrag.metrics.geneval.score import GenEval

    detector, color = _needed(judges)
    records = verdicts or (out and out.with_suffix(".jsonl"))
    options = ScoreOptions(out, records, batch_size=judges.batch_size, allow_partial=allow_partial)
    metric = GenEval(load_detector(detector), ColorClassifier(color))
    score = metric.score(images, prompts, options).to_json()
    if out:
        write_score_record(out, score, prompts, {"detector": detector, "color": color}, records)
    return _shown(score, out)


def _summary(
    results: Path,
    prompts: Path | None,
    recompute: bool,
    allow_partial: bool,
    out: Path | None,
    verdicts: Path | None,
) -> dict[str, Any]:
    from arrag.metrics.geneval.results import score_results
    from arrag.metrics.geneval.score import write_records

    score, records = score_results(results, prompts, recompute, allow_partial)
    verdicts = verdicts or (out and out.with_suffix(".jsonl"))
    if verdicts:
        write_records(verdicts, records)
    if out:
        score.write(out)
        write_score_record(out, score.to_json(), prompts, {}, verdicts)
    return _shown(score.to_json(), out)


@app.command
def dpg(
    *,
    questions: Path,
    images: Path | None = None,
    answers: Path | None = None,
    filter: list[str] | None = None,
    compat: Literal["official", "corrected"] | None = None,
    dependency: Literal["none", "dsg", "official"] | None = None,
    judge: str = "rules",
    detector: str | None = None,
    color: Path | None = None,
    images_per_prompt: Count | None = None,
    resolution: Count | None = None,
    out: Path | None = None,
    answers_out: Path | None = None,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """DPG-Bench or DSG: the share of a prompt's questions that are answered with yes.

    Example: arrag score dpg --images grids --questions dpg_bench.csv --judge checkpoints/vqa
    --out dpg.json

    Example: arrag score dpg --questions dsg-1k-anns.csv --answers mplug_dsg.csv
    --filter t2i_model=sd2dot1 --dependency dsg --allow-partial

    Args:
        questions: Table like dpg_bench.csv.
        images: Folder of 2 x 2 grids named item_id.png, or of samples with item_id in metadata.
        answers: Recorded answers instead of images: item_id, proposition_id (or question_id),
            answer and optionally image.
        filter: COLUMN=VALUE: use only these rows of the answers. May be repeated.
        compat: With the defects of the official script or without; official unless --dependency
            is dsg or none.
        dependency: Zero a question whose parent failed: not, by the parents' answers, or in the
            order of the rows; official for --compat official, dsg for corrected.
        judge: rules (synthetic dataset), mplug, or the folder of a VQA model.
        detector: For the judge rules: folder of a detector.
        color: For the judge rules: folder of an open_clip model.
        images_per_prompt: Images; by default the 4 of a grid.
        resolution: Pixels per side of one image, checked.
        out: JSON file of the score, with every prompt's.
        answers_out: CSV of the judge's answers; by default OUT with the suffix .answers.csv.
        allow_partial: Leave out what is missing or damaged and state it in the score.
    """
    from arrag.metrics.base import ScoreOptions
    from arrag.metrics.dpg.judges import open_judge
    from arrag.metrics.dpg.score import DPGBench

    rules = {"compat": compat, "dependency": dependency}
    if _one_of(images, "--images", answers, "--answers") == "--answers":
        options = ScoreOptions(out, allow_partial=allow_partial)
        score = DPGBench(**rules).score_recorded(
            answers, questions, _conditions(filter or []), options
        )
        if out:
            write_score_record(out, score.to_json(), questions, {})
        return _shown(score.to_json(), out)
    metric = DPGBench(
        open_judge(judge, detector, color),
        per_prompt=images_per_prompt,
        resolution=resolution,
        **rules,
    )
    records = answers_out or (out and out.with_suffix(".answers.csv"))
    options = ScoreOptions(out, records, allow_partial=allow_partial)
    score = metric.score(images, questions, options).to_json()
    if out:
        models = {"judge": judge, "detector": detector, "color": color}
        write_score_record(out, score, questions, models, records)
    return _shown(score, out)


def _one_of(images: Path | None, name: str, recorded: Path | None, other: str) -> str:
    if (images is None) == (recorded is None):
        raise UsageError("give one of both", field=f"{name}, {other}", hint="see --help")
    return name if recorded is None else other


def _needed(judges: Judges) -> tuple[str, Path]:
    for name in ("detector", "color"):
        if getattr(judges, name) is None:
            raise UsageError("missing", field=f"--{name}", hint="judging images needs it")
    return judges.detector, judges.color


def _conditions(given: list[str]) -> dict[str, str]:
    pairs = {condition: condition.partition("=") for condition in given}
    for condition, (_, equals, _) in pairs.items():
        if not equals:
            raise UsageError(f"found {condition!r}", field="--filter", hint="give COLUMN=VALUE")
    return {column: value for column, _, value in pairs.values()}


def _shown(score: dict[str, Any], out: Path | None) -> dict[str, Any]:
    shown = {name: score[name] for name in SHOWN if name in score}
    return ({"score": out} if out else {}) | shown
