"""What samples and scores are made of, for their records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrag.config.methods import CEILING_LABELS
from arrag.pipeline.layout import INFERENCE_INPUTS, MICRO_ASSETS, Layout
from arrag.pipeline.records import Source, write_record

RECORDED_WEIGHTS = ("backbone", "adapter", "clip")
"""Roles whose digest in run.json is that of the folder."""


def sample_inputs(
    layout: Layout,
    method: str,
    benchmark: str | None = None,
    given: Mapping[str, Path | None] | None = None,
) -> dict[str, Path]:
    """What a method's (or ceiling's) samples of a benchmark are made of.

    Args:
        layout: The results of the configuration.
        method: A method or ceiling.
        benchmark: A benchmark of the configuration; None is its main one.
        given: Paths by role that are elsewhere than the workflow has them.

    Returns:
        {role: path}: prompts, weights, and what is retrieved from.
    """
    config, given = layout.config, given or {}
    found = {"prompts": config.benchmark(benchmark).prompts}
    if method in CEILING_LABELS:
        found["assets"] = given.get("assets", MICRO_ASSETS)
        if method == "reconstructions":
            found["backbone"] = config.generator_of()[1].checkpoint
        return found
    resolved = config.resolved(method)
    retrieval = resolved.retrieval_settings
    found["backbone"] = resolved.generator.checkpoint
    found |= getattr(resolved.generator, "named_paths", None) or {}
    if clip := getattr(retrieval, "clip", None):
        found["clip"] = clip
    wanted = list(INFERENCE_INPUTS.get(getattr(retrieval, "kind", None), ()))
    wanted += ["adapter"] if hasattr(retrieval, "adapter") else []
    return found | {part: given.get(part) or getattr(layout, part)(method) for part in wanted}


def with_known_digests(inputs: Mapping[str, Path], run: Mapping[str, Any]) -> dict[str, Source]:
    """``sample_inputs`` with the digests of run.json, so that no weights are read once more."""
    known = {role: run["weights"][role] for role in RECORDED_WEIGHTS if role in run["weights"]}
    known["prompts"] = run["prompt_set_sha256"]
    return {role: (path, known[role]) if role in known else path for role, path in inputs.items()}


def write_score_record(
    out: Path,
    score: Mapping[str, Any],
    prompts: Path | None,
    models: Mapping[str, str | Path | None],
    *others: Path,
) -> None:
    """Write the record of a score: of which images, prompts and judges it was made.

    Images that no stage made may change at will, so they are left out.

    Args:
        out: The score's JSON file.
        score: Its contents.
        prompts: The prompt file or question table.
        models: Weights of judges and extractors, by role; those that are not files are left out.
        others: Further files of the score.
    """
    made_of: dict[str, Source | None] = {"prompts": prompts}
    sides = {"samples": ("images", "run.json"), "reference": ("reference", "meta_data.json")}
    for role, (field, last) in sides.items():
        path = Path(score.get(field, {}).get("path", ""))
        if (path / last).is_file():
            made_of[role] = (path, score[field]["sha256"])
        elif path.is_file():
            made_of[role] = path
    for role, model in models.items():
        if model is not None and Path(model).exists():
            made_of[role] = Path(model)
    write_record(out, *others, made_of=made_of)
