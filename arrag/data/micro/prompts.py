"""Prompts of the micro world: GenEval's metadata, captions of real scenes, and their metadata."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection
from pathlib import Path

from arrag.data.micro.world import (
    CLASSES,
    COLORS,
    NUMBERS,
    RELATIONS,
    TASKS,
    World,
    describe,
    draw_metadata,
)
from arrag.utils.errors import FormatError
from arrag.utils.files import write_text

PER_TASK = 40
SINGLES = 16  # there are sixteen classes, so sixteen prompts of a single object
# Captions of a distribution benchmark, all different: few single objects and counts exist, while
# there are hundreds of pairs. 900 images are more than the 768 features of a wavelet packet.
CAPTIONS = dict(zip(TASKS, (16, 200, 44, 140, 250, 250), strict=True))
_OBJECT = rf"an? (?:({'|'.join(COLORS)}) )?({'|'.join(CLASSES)})"
_COUNTED = rf"({'|'.join(NUMBERS.values())}) ({'|'.join(CLASSES)})s"
_CAPTION = re.compile(
    rf"a photo of (?:{_OBJECT}(?: (and|{'|'.join(RELATIONS)}) {_OBJECT})?|{_COUNTED})"
)


def distinct_prompts(task: str, wanted: int, seed: str, known: Collection[str] = ()) -> list[dict]:
    """Draw ``wanted`` prompts of a task, all different and none of ``known``."""
    rng = random.Random(f"{seed}/{task}")
    seen: dict[str, dict] = {}
    while len(seen) < wanted:
        metadata = draw_metadata(task, rng)
        if metadata["prompt"] not in known:
            seen.setdefault(metadata["prompt"], metadata)
    return list(seen.values())


def benchmark_prompts() -> list[dict]:
    """216 distinct prompts: 16 single objects and 40 of each other task, in GenEval's order."""
    prompts = []
    for task in TASKS:
        count = SINGLES if task == "single_object" else PER_TASK
        prompts += distinct_prompts(task, count, "benchmark")
    return prompts


def write_prompts(path: str | Path) -> None:
    """Write ``benchmark_prompts`` as JSON lines."""
    _write_lines(path, benchmark_prompts())


def metadata_of(caption: str) -> dict:
    """GenEval's metadata of a caption of this world: the inverse of ``draw_metadata``.

    Raises:
        FormatError: The caption is not in the world's grammar.
    """
    match = _CAPTION.fullmatch(caption)
    groups = match.groups() if match else [None] * 7
    color, label, link, other_color, other, number, counted = groups
    objects = [(name, paint) for name, paint in ((label, color), (other, other_color)) if name]
    include = [
        {"class": name, "count": 1} | ({"color": paint} if paint else {}) for name, paint in objects
    ]
    colored = {bool(paint) for _, paint in objects}
    if counted:
        count = next(count for count, word in NUMBERS.items() if word == number)
        tag, include = "counting", [{"class": counted, "count": count}]
    elif link in RELATIONS and colored == {False}:
        tag, include = "position", [include[1], include[0] | {"position": [link, 0]}]
    elif link not in RELATIONS and len(colored) == 1:
        names = ("single_object", "colors", "two_object", "color_attr")
        tag = names[2 * (len(objects) - 1) + colored.pop()]
    else:
        raise FormatError(
            f"{caption!r} is no caption of the micro world",
            hint="use only classes, colours and relations of benchmarks/geneval_micro.jsonl",
        )
    return describe(tag, include) | {"prompt": caption}


def caption_lines(assets: str | Path, per_task: int | None = None) -> list[dict]:
    """Captions of scenes of the reference split, each once: ``{id, category, prompt, scene}``.

    ``category`` is the task and ``scene`` the scene's number for ``World.scene``; at most
    ``per_task`` of a category.
    """
    world = World(assets, "reference")
    lines = []
    for task, wanted in CAPTIONS.items():
        seen: dict[str, int] = {}
        scene = 0
        while len(seen) < min(wanted, per_task or wanted):
            seen.setdefault(world.scene(scene, task).caption, scene)
            scene += 1
        lines += [(task, caption, scene) for caption, scene in seen.items()]
    return [
        {"id": f"{i:05d}", "category": task, "prompt": caption, "scene": scene}
        for i, (task, caption, scene) in enumerate(lines)
    ]


def write_captions(path: str | Path, assets: str | Path, per_task: int | None = None) -> None:
    """Write ``caption_lines`` as JSON lines."""
    _write_lines(path, caption_lines(assets, per_task))


def _write_lines(path: str | Path, lines: list[dict]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
