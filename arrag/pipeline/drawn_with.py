"""What samples are made of: prompts, weights, and what is retrieved from; by role, with digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrag.config.methods import CEILING_LABELS
from arrag.pipeline.layout import MICRO_ASSETS, RETRIEVES, Layout

KNOWN = ("backbone", "adapter", "clip")
"""Roles whose digest in run.json is that of the folder."""


def drawn_with(
    layout: Layout,
    method: str,
    benchmark: str | None = None,
    given: Mapping[str, Path | None] | None = None,
) -> dict[str, Path]:
    """What a method's (or ceiling's) samples of a benchmark are made of: {role: path}.

    given: what lies elsewhere than the workflow has it.
    """
    config, given = layout.config, given or {}
    found = {"prompts": config.benchmark(benchmark).prompts}
    if method in CEILING_LABELS:
        found["assets"] = given.get("assets", MICRO_ASSETS)
        if method == "reconstructions":
            found["backbone"] = config.generator_of()[1].checkpoint
        return found
    resolved = config.resolved(method)
    retriever = resolved.retrieval_settings
    found["backbone"] = resolved.generator.checkpoint
    found |= getattr(resolved.generator, "named_paths", None) or {}
    if clip := getattr(retriever, "clip", None):
        found["clip"] = clip
    wanted = list(RETRIEVES.get(getattr(retriever, "kind", None), ()))
    wanted += ["adapter"] if hasattr(retriever, "adapter") else []
    return found | {part: given.get(part) or getattr(layout, part)(method) for part in wanted}


def with_digests(parts: Mapping[str, Path], run: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the digests that run.json has already: weights are not read once more."""
    known = {role: run["weights"][role] for role in KNOWN if role in run["weights"]}
    known["prompts"] = run["prompt_set_sha256"]
    return {role: (path, known[role]) if role in known else path for role, path in parts.items()}
