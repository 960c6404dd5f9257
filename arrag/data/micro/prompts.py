"""Prompts of the micro world: GenEval's metadata, captions of real scenes, and their metadata."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from arrag.data.micro.world import (
    CLASSES,
    COLORS,
    NUMBERS,
    RELATIONS,
    TASKS,
    World,
    draw_metadata,
    plural,
)
from arrag.utils.errors import FormatError
from arrag.utils.files import write_text

PER_TASK = 40
SINGLES = 16  # there are sixteen classes, so sixteen prompts of a single object
# Captions of a distribution benchmark, all different: few single objects and counts exist, while
# there are hundreds of pairs. 900 images are more than the 768 features of a wavelet packet.
CAPTIONS = dict(zip(TASKS, (16, 200, 44, 140, 250, 250), strict=True))


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
    """Write ``benchmark_prompts`` as JSON lines."""
    _write_lines(path, benchmark_prompts())


def metadata_of(caption: str) -> dict:
    """GenEval's metadata of a caption of this world: the inverse of ``draw_metadata``.

    Raises ArragError for a caption that is not in the world's grammar.
    """
    text = caption.removeprefix("a photo of ")
    objects = _objects(text)
    if objects is None or text == caption:
        raise FormatError(
            f"{caption!r} is no caption of the micro world",
            hint="use its own classes, colours and relations, as micro/prompts.py does",
        )
    tag, include = objects
    metadata = {"tag": tag, "include": include, "prompt": caption}
    if tag == "counting":
        only = include[0]
        metadata["exclude"] = [{"class": only["class"], "count": only["count"] + 1}]
    return metadata


def _objects(text: str) -> tuple[str, list[dict]] | None:
    """Task and include clauses of a caption's words after 'a photo of'."""
    for relation in RELATIONS:
        if f" {relation} " in text:
            first, second = (_object(part) for part in text.split(f" {relation} ", 1))
            if first is None or second is None or "color" in first or "color" in second:
                return None
            return "position", [second, first | {"position": [relation, 0]}]
    pair = [_object(part) for part in text.split(" and ")]
    if None in pair or len(pair) > 2:
        return _counted(text)
    colored = ["color" in clause for clause in pair]
    names = {(1, False): "single_object", (1, True): "colors", (2, False): "two_object"}
    if len(set(colored)) > 1:
        return None
    return names.get((len(pair), colored[0]), "color_attr"), pair


def _object(words: str) -> dict | None:
    """The clause of 'a dog' or 'an orange dog'."""
    match = re.fullmatch(rf"an? (?:({'|'.join(COLORS)}) )?({'|'.join(CLASSES)})", words)
    if match is None:
        return None
    color = {"color": match[1]} if match[1] else {}
    return {"class": match[2], "count": 1} | color


def _counted(text: str) -> tuple[str, list[dict]] | None:
    number, _, objects = text.partition(" ")
    counts = {word: count for count, word in NUMBERS.items()}
    labels = {plural(label): label for label in CLASSES}
    if number not in counts or objects not in labels:
        return None
    return "counting", [{"class": labels[objects], "count": counts[number]}]


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
