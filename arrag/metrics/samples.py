"""Prompts in GenEval's metadata format, and generated images in GenEval's folder layout.

``prompts.jsonl`` holds one prompt's metadata a line; the images of prompt ``i`` are
``{i:05d}/samples/{0000, 0001, ...}.png`` beside ``{i:05d}/metadata.jsonl`` (djghosh13/geneval).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from arrag.errors import ArragError
from arrag.files import read_json
from arrag.metrics.color import COLORS

# GenEval's six tasks in the order of its prompt file and of the paper's Table 1.
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
NAMED = 5  # how many offenders an error message names


@dataclass(frozen=True)
class Sample:
    """One image file: ``path`` is sample ``sample_index`` of prompt ``prompt_index``."""

    prompt_index: int
    sample_index: int
    path: Path


def load_prompts(path: str | Path) -> list[dict[str, Any]]:
    """Read and check a GenEval prompt file: one JSON object a line, blank lines allowed.

    Raises ArragError that names the line and the field of the first mistake, or an empty file.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArragError(f"{path}: the prompt file cannot be read ({error})") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)
        except json.JSONDecodeError as error:
            raise ArragError(f"{path}:{number}: not a JSON object ({error})") from None
        if problem := _problem(prompt):
            raise ArragError(f"{path}:{number}: {problem}; correct that line")
        prompts.append(prompt)
    if not prompts:
        raise ArragError(f"{path}: holds no prompt; give a file in GenEval's metadata format")
    return prompts


def _problem(prompt: Any) -> str | None:
    """What is wrong with one prompt's metadata, or None."""
    if not isinstance(prompt, dict):
        return f"expected a JSON object, found {prompt!r}"
    if prompt.get("tag") not in TASKS:
        return f"field tag is {prompt.get('tag')!r}, expected one of {', '.join(TASKS)}"
    if not isinstance(prompt.get("prompt"), str) or not prompt["prompt"].strip():
        return f"field prompt is {prompt.get('prompt')!r}, expected a text"
    if not isinstance(prompt.get("include"), list) or not prompt["include"]:
        return f"field include is {prompt.get('include')!r}, expected a list of clauses"
    if not isinstance(prompt.get("exclude", []), list):
        return f"field exclude is {prompt['exclude']!r}, expected a list of clauses"
    for field in ("include", "exclude"):
        for i, clause in enumerate(prompt.get(field, [])):
            if problem := _clause_problem(clause, i):
                return f"field {field}[{i}]: {problem}"
    return None


def _clause_problem(clause: Any, index: int) -> str | None:
    if not isinstance(clause, dict) or not isinstance(clause.get("class"), str):
        return f"expected an object with class and count, found {clause!r}"
    count = clause.get("count")
    if type(count) is not int or count < 1:
        return f"count is {count!r}, expected a whole number of at least 1"
    if clause.get("color", COLORS[0]) not in COLORS:
        return f"color is {clause['color']!r}, expected one of {', '.join(COLORS)}"
    if "position" not in clause:
        return None
    match clause["position"]:
        case [str(relation), int(target)] if relation in RELATIONS and 0 <= target < index:
            return None
    return (
        f"position is {clause['position']!r}, expected [relation, index of an earlier clause] "
        f"with a relation of {', '.join(RELATIONS)}"
    )


def read_run(images_dir: str | Path) -> dict[str, Any] | None:
    """Contents of run.json beside the samples, or None when there is none."""
    path = Path(images_dir) / "run.json"
    return read_json(path) if path.exists() else None


def list_samples(images_dir: str | Path, prompts: list[dict[str, Any]]) -> list[Sample]:
    """All samples in (prompt, sample) order, after checking that the set is whole.

    Every prompt must have its folder, its own metadata and the same number of readable images as
    the others (``images_per_prompt`` of run.json, else the largest number found); no folder may be
    left over. The official code leaves missing folders out of its mean instead. Raises ArragError
    with the number of offenders and the first names.
    """
    root = Path(images_dir)
    if not root.is_dir():
        raise ArragError(f"{root}: no such directory of samples; generate them first")
    wanted = [f"{i:05d}" for i in range(len(prompts))]
    present = {p.name for p in root.iterdir() if p.is_dir() and p.name.isdigit()}
    _refuse(root, "prompt folders are missing", [n for n in wanted if n not in present])
    _refuse(root, "folders belong to no prompt", sorted(present - set(wanted)))
    strangers = [
        f"{name}/metadata.jsonl"
        for name, prompt in zip(wanted, prompts, strict=True)
        if _metadata(root / name / "metadata.jsonl") != prompt
    ]
    _refuse(root, "metadata files are missing or of another prompt set", strangers)
    found = [_numbered(root / name / "samples") for name in wanted]
    count = (read_run(root) or {}).get("images_per_prompt", max(map(len, found)))
    names = [f"{s:04d}.png" for s in range(max(count, 1))]
    samples = [
        Sample(p, s, root / folder / "samples" / name)
        for p, folder in enumerate(wanted)
        for s, name in enumerate(names)
    ]
    missing = [s for s in samples if s.path.name not in found[s.prompt_index]]
    _refuse(root, "images are missing", [_short(s.path) for s in missing])
    extra = [f"{f}/samples/{n}" for f, have in zip(wanted, found, strict=True) for n in have]
    extra = [name for name in extra if name.rsplit("/", 1)[1] not in names]
    _refuse(root, f"images are beyond the {count} a prompt", extra)
    _refuse(root, "images are damaged", [_short(s.path) for s in samples if not _whole(s.path)])
    return samples


def load_image(path: str | Path) -> np.ndarray:
    """uint8 RGB [H, W, 3], turned upright by its EXIF orientation. ArragError when damaged."""
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ArragError(f"{path}: not a readable image ({error}); generate it again") from None


def prompt_text(images_dir: str | Path, prompt_index: int) -> str:
    """The prompt that the samples in a folder were generated from. ArragError when absent."""
    path = Path(images_dir) / f"{prompt_index:05d}" / "metadata.jsonl"
    metadata = _metadata(path)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
        raise ArragError(f"{path}: no prompt can be read there; generate the samples again")
    return metadata["prompt"]


def _refuse(root: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ArragError(
            f"{root}: {len(names)} {what}: {', '.join(names[:NAMED])}{more}; "
            "generate the samples of this prompt file again"
        )


def _metadata(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _numbered(folder: Path) -> set[str]:
    """Names like 0000.png in ``folder``; anything else there is not a sample."""
    if not folder.is_dir():
        return set()
    return {p.name for p in folder.iterdir() if re.fullmatch(r"\d+\.png", p.name)}


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _whole(path: Path) -> bool:
    """Whether the PNG's chunks are all there with the right checksums (nothing is decoded)."""
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
