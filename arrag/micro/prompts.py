"""The micro benchmark's prompts, in GenEval's own metadata format."""

from __future__ import annotations

import json
import random
from pathlib import Path

from arrag.files import write_text
from arrag.micro.world import TASKS, draw_metadata

PER_TASK = 40
SINGLES = 16  # there are sixteen classes, so sixteen prompts of a single object


def benchmark_prompts() -> list[dict]:
    """216 distinct prompts: 16 single objects and 40 of each other task, in GenEval's order."""
    prompts = []
    for task in TASKS:
        rng = random.Random(f"benchmark/{task}")
        wanted = SINGLES if task == "single_object" else PER_TASK
        seen: dict[str, dict] = {}
        while len(seen) < wanted:
            metadata = draw_metadata(task, rng)
            seen.setdefault(metadata["prompt"], metadata)
        prompts += seen.values()
    return prompts


def write_prompts(path: str | Path) -> None:
    """Write the prompts as JSON lines."""
    lines = [json.dumps(prompt) for prompt in benchmark_prompts()]
    write_text(path, "\n".join(lines) + "\n")
