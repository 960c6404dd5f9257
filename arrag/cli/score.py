"""``arrag score``: verdicts on single images; distances of folders are in ``distance``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli import distance
from arrag.cli.common import command, count, group
from arrag.pipeline.provenance import write_score_record
from arrag.utils.errors import ArragError

# What a command prints of a score; the verdicts of every prompt are in the file.
SHOWN = (
    "metric", "compat", "dependency", "overall", "value", "interval", "unit", "tasks", "l1", "l2",
    "compat_values", "n_items", "n_prompts", "n_images", "n_questions", "correct_images",
    "correct_prompts", "image_sizes", "dropped", "partial", "table_problems", "n_near_yes",
    "rejudged", "prompt_set_sha256", "judge", "versions",
)  # fmt: skip


def add(commands: Any) -> None:
    """Add the group ``score``."""
    scores = group(commands, "score", "score a folder of images", "arrag score geneval --help")
    distance.add_scores(scores)
    add_geneval(scores)
    add_dpg(scores)


def add_geneval(scores: Any) -> None:
    """``score geneval``."""
    parser = command(
        scores,
        "geneval",
        "GenEval's verdicts on a folder of samples, or the sum of recorded ones",
        "arrag score geneval --images results/samples/daid-0123456789 "
        "--detector checkpoints/micro-detector --color checkpoints/micro-clip --out daid.json\n"
        "  arrag score geneval --results results.jsonl --json",
        run_geneval,
    )
    images_options(parser, "folder in GenEval's layout: NNNNN/metadata.jsonl, NNNNN/samples/*.png")
    parser.add_argument("--results", type=Path, help="official results.jsonl, instead of images")
    parser.add_argument(
        "--rejudge",
        action="store_true",
        help="with --results: judge counts and places again from the recorded boxes",
    )
    parser.add_argument(
        "--prompts", type=Path, help="the prompt file (default: what the folders' metadata say)"
    )
    judge_options(parser)
    parser.add_argument(
        "--records", type=Path, help="JSON lines, one an image (default: OUT as .jsonl)"
    )


def add_dpg(scores: Any) -> None:
    """``score dpg``."""
    parser = command(
        scores,
        "dpg",
        "DPG-Bench or DSG: the share of a prompt's questions that are answered with yes",
        "arrag score dpg --images grids --questions dpg_bench.csv --judge checkpoints/vqa "
        "--out dpg.json\n  arrag score dpg --questions dsg-1k-anns.csv --answers mplug_dsg.csv "
        "--where t2i_model=sd2dot1 --dependency dsg --allow-partial --json",
        run_dpg,
    )
    images_options(
        parser, "folder of 2 x 2 grids named item_id.png, or of samples with item_id in metadata"
    )
    parser.add_argument("--questions", type=Path, required=True, help="table like dpg_bench.csv")
    parser.add_argument(
        "--answers",
        type=Path,
        help="recorded answers instead of images: item_id, proposition_id (or question_id), answer "
        "and optionally image",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="use only these rows of --answers (repeatable)",
    )
    parser.add_argument(
        "--compat",
        choices=("official", "corrected"),
        help="with the defects of the official script or without (default: official, unless "
        "--dependency is dsg or none)",
    )
    parser.add_argument(
        "--dependency",
        choices=("none", "dsg", "official"),
        help="zero a question whose parent failed: not, by the parents' answers, or in the order "
        "of the rows (default: official for --compat official, dsg for corrected)",
    )
    parser.add_argument(
        "--judge", default="rules", help="rules (micro world), mplug, or a VQA model's folder"
    )
    judge_options(parser)
    parser.add_argument("--images-per-prompt", type=count, help="images (default: 4 of a grid)")
    parser.add_argument("--resolution", type=count, help="pixels a side of one image (checked)")
    parser.add_argument(
        "--answers-out", type=Path, help="CSV of the judge's answers (default: OUT as .answers.csv)"
    )


def images_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The images as an option or as the only positional argument, and what all scores have."""
    parser.add_argument("folder", nargs="?", type=Path, metavar="IMAGES", help="same as --images")
    parser.add_argument("--images", type=Path, help=what)
    parser.add_argument("--out", type=Path, help="JSON file of the score, with every prompt's")
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="leave out what is missing or damaged and state it in the score",
    )


def judge_options(parser: argparse.ArgumentParser) -> None:
    """The models that look at images."""
    parser.add_argument("--detector", help="folder of a detector, or mmdet:CONFIG:CHECKPOINT")
    parser.add_argument("--color", type=Path, help="folder of an open_clip model")
    parser.add_argument(
        "--batch-size", type=count, default=8, help="images at a time (%(default)s)"
    )


def run_geneval(args: argparse.Namespace) -> dict[str, Any]:
    """Score images, or sum up recorded verdicts."""
    images = _source(args, args.results, "--results")
    if images is None:
        return _sum_up(args)
    if args.rejudge:
        raise ArragError("--rejudge needs --results; images are judged anyway")
    from arrag.metrics.base import ScoreOptions, load_detector
    from arrag.metrics.color import ColorClassifier
    from arrag.metrics.geneval.score import GenEval

    detector, color = _needed(args.detector, "--detector"), _needed(args.color, "--color")
    records = args.records or (args.out and args.out.with_suffix(".jsonl"))
    options = ScoreOptions(
        out=args.out, records=records, batch_size=args.batch_size, allow_partial=args.allow_partial
    )
    metric = GenEval(load_detector(detector), ColorClassifier(color))
    score = metric.score(images, args.prompts, options).to_json()
    if args.out:
        write_score_record(
            args.out, score, args.prompts, {"detector": detector, "color": color}, records
        )
    return _shown(score, args.out)


def _sum_up(args: argparse.Namespace) -> dict[str, Any]:
    from arrag.metrics.geneval.results import score_results
    from arrag.metrics.geneval.score import write_records

    score, records = score_results(args.results, args.prompts, args.rejudge, args.allow_partial)
    if args.records:
        write_records(args.records, records)
    if args.out:
        score.write(args.out)
    return _shown(score.to_json(), args.out)


def run_dpg(args: argparse.Namespace) -> dict[str, Any]:
    """Score images by a judge, or recorded answers."""
    from arrag.metrics.base import ScoreOptions
    from arrag.metrics.dpg.judges import open_judge
    from arrag.metrics.dpg.score import DPGBench

    rules = {"compat": args.compat, "dependency": args.dependency}
    images = _source(args, args.answers, "--answers")
    if images is None:
        options = ScoreOptions(out=args.out, allow_partial=args.allow_partial)
        score = DPGBench(**rules).score_recorded(
            args.answers, args.questions, _where(args.where), options
        )
        return _shown(score.to_json(), args.out)
    metric = DPGBench(
        open_judge(args.judge, args.detector, args.color),
        per_prompt=args.images_per_prompt,
        resolution=args.resolution,
        **rules,
    )
    answers = args.answers_out or (args.out and args.out.with_suffix(".answers.csv"))
    options = ScoreOptions(out=args.out, records=answers, allow_partial=args.allow_partial)
    score = metric.score(images, args.questions, options).to_json()
    if args.out:
        models = {"judge": args.judge, "detector": args.detector, "color": args.color}
        write_score_record(args.out, score, args.questions, models, answers)
    return _shown(score, args.out)


def _source(args: argparse.Namespace, recorded: Path | None, option: str) -> Path | None:
    """The folder of images, or None when what is scored is recorded; exactly one must be given."""
    given = [source for source in (args.folder, args.images, recorded) if source is not None]
    if len(given) != 1:
        raise ArragError(f"give either --images or {option}, and only one; found {len(given)}")
    return None if recorded else given[0]


def _needed(value: Any, option: str) -> Any:
    if value is None:
        raise ArragError(f"{option} is missing; judging images needs it")
    return value


def _where(conditions: list[str]) -> dict[str, str]:
    pairs = [condition.partition("=") for condition in conditions]
    if bad := [condition for condition, pair in zip(conditions, pairs, strict=True) if not pair[1]]:
        raise ArragError(f"--where {bad[0]}: wanted COLUMN=VALUE")
    return {column: value for column, _, value in pairs}


def _shown(score: dict[str, Any], out: Path | None) -> dict[str, Any]:
    shown = {name: score[name] for name in SHOWN if name in score}
    return ({"score": out} if out else {}) | shown
