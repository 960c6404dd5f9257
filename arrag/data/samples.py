"""Prompts in GenEval's metadata format, and generated images in GenEval's folder layout.

``prompts.jsonl`` holds one prompt's metadata a line; the images of prompt ``i`` are
``{i:05d}/samples/{0000, 0001, ...}.png`` beside ``{i:05d}/metadata.jsonl`` (djghosh13/geneval).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps

from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.readers import UNREADABLE, numbered_lines, open_picture, parse_json, read_text

# GenEval's six tasks in the order of its prompt file and of the paper's Table 1.
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = (  # the classifier's argmax runs over them in this order
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
NAMED = 5  # how many offenders an error message names
NUMBERED = re.compile(r"[0-9]{1,9}\.png")
MOST = 1_000_000  # objects of a clause, prompts of a set, images of a prompt


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
    prompts = []
    for number, line in numbered_lines(read_text(path, "the prompt file")):
        try:
            prompt = parse_json(line)
        except ValueError as error:
            raise ArragError(f"{path}:{number}: not a JSON object ({error})") from None
        if problem := prompt_problem(prompt):
            raise ArragError(f"{path}:{number}: {problem}; correct that line")
        prompts.append(prompt)
    if not prompts:
        raise ArragError(f"{path}: holds no prompt; give a file in GenEval's metadata format")
    return prompts


def prompt_problem(prompt: Any) -> str | None:
    """What is wrong with one prompt's metadata, or None."""
    if not isinstance(prompt, dict):
        return f"expected a JSON object, found a {type(prompt).__name__}"
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
    if type(count) is not int or not 1 <= count <= MOST:
        return f"count is {str(count)[:40]}, expected a whole number of at least 1"
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
    if not path.exists():
        return None
    run = read_json(path, {})
    for field in ("images_per_prompt", "prompts"):
        count = run.get(field, 1)
        if type(count) is not int or not 1 <= count <= MOST:
            raise ArragError(
                f"{path}: {field} is {str(count)[:40]}, wanted a whole number from 1; generate the "
                "samples again"
            )
    return run


def folder_prompts(images_dir: str | Path) -> dict[int, dict[str, Any]]:
    """Prompts as the sample folders' own metadata.jsonl has them: {folder's number: metadata}.

    Raises ArragError when there is no folder, or when one's metadata is absent or malformed.
    """
    prompts = {}
    for index, folder in prompt_folders(images_dir).items():
        path = folder / "metadata.jsonl"
        prompt = read_metadata(path)
        if problem := prompt_problem(prompt):
            raise ArragError(f"{path}: {problem}; generate this prompt's samples again")
        prompts[index] = prompt
    if not prompts:
        raise ArragError(f"{images_dir}: holds no folder of samples; generate them first")
    return prompts


def prompt_folders(images_dir: str | Path) -> dict[int, Path]:
    """Folders whose name is a number, by that number: {0: .../00000, ...}."""
    root = Path(images_dir)
    if not root.is_dir():
        raise ArragError(f"{root}: no such directory of samples; generate them first")
    folders: dict[int, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdecimal()):
        if int(folder.name) > MOST:
            _refuse(root, f"folders have a number above {MOST}", [folder.name])
        if int(folder.name) in folders:
            _refuse(root, "folders have the number of another", [folder.name])
        folders[int(folder.name)] = folder
    return dict(sorted(folders.items()))


def list_samples(
    images_dir: str | Path, prompts: list[dict[str, Any]] | None = None, allow_partial: bool = False
) -> tuple[list[Sample], dict[str, list[str]]]:
    """All samples in (prompt, sample) order, after checking that the set is whole; and the gaps.

    Every prompt must have its folder, its own metadata and the same sample numbers as the others
    (``images_per_prompt`` of run.json, else all numbers found); no folder may be left over. Without
    ``prompts`` the folders must be numbered from 0 without a gap. The official code leaves missing
    folders out of its mean instead. Raises ArragError with the number of offenders and the first
    names; with ``allow_partial`` missing and damaged ones are left out and returned: {what: names}.
    """
    root = Path(images_dir)
    folders = prompt_folders(root)
    wanted = range(len(prompts) if prompts is not None else max(folders, default=-1) + 1)
    _refuse(
        root, "folders belong to no prompt", [f.name for i, f in folders.items() if i not in wanted]
    )
    found = {i: numbered_images(folders[i] / "samples") for i in wanted if i in folders}
    if prompts is not None:
        strangers = [
            f"{folders[i].name}/metadata.jsonl"
            for i in found
            if read_metadata(folders[i] / "metadata.jsonl") != prompts[i]
        ]
        _refuse(root, "metadata files are missing or of another prompt set", strangers)
    count = (read_run(root) or {}).get("images_per_prompt")
    numbers = range(count) if count else sorted({int(p.stem) for ps in found.values() for p in ps})
    samples = [Sample(i, int(p.stem), p) for i, paths in found.items() for p in paths]
    extra = [s for s in samples if s.sample_index not in numbers]
    _refuse(root, f"images are beyond the {len(numbers)} a prompt", [_short(s.path) for s in extra])
    have = {(s.prompt_index, s.sample_index) for s in samples}
    if len(have) < len(samples):
        _refuse(root, "images have the number of another", [str(len(samples) - len(have))])
    damaged = {s for s in samples if image_size(s.path) is None}
    gaps = {
        "prompt folders are missing": [f"{i:05d}" for i in wanted if i not in folders],
        "images are missing": [
            f"{folders[i].name}/samples/{n:04d}.png"
            for i in found
            for n in numbers or [0]
            if (i, n) not in have
        ],
        "images are damaged": [_short(s.path) for s in samples if s in damaged],
    }
    gaps = {what: names for what, names in gaps.items() if names}
    if not allow_partial:
        for what, names in gaps.items():
            _refuse(root, what, names)
    return [s for s in samples if s not in damaged], gaps


def load_image(path: str | Path) -> np.ndarray:
    """uint8 RGB [H, W, 3], turned upright by its EXIF orientation. ArragError when damaged."""
    try:
        with open_picture(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except UNREADABLE as error:
        raise ArragError(f"{path}: not a readable image ({error}); generate it again") from None


def prompt_text(images_dir: str | Path, prompt_index: int) -> str:
    """The prompt that the samples in a folder were generated from. ArragError when absent."""
    path = Path(images_dir) / f"{prompt_index:05d}" / "metadata.jsonl"
    metadata = read_metadata(path)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
        raise ArragError(f"{path}: no prompt can be read there; generate the samples again")
    return metadata["prompt"]


def _refuse(root: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ArragError(
            f"{root}: {len(names)} {what}: {', '.join(names[:NAMED])}{more}; "
            "make them again (of a run: delete its run.json and repeat the command, which draws "
            "what is not whole)"
        )


def read_metadata(path: Path) -> Any:
    """The JSON of a sample folder's metadata.jsonl, or None when it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def numbered_images(folder: Path) -> list[Path]:
    """Files like 0000.png in ``folder``, by number; anything else there is not a sample."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if NUMBERED.fullmatch(p.name) and p.is_file()]
    return sorted(found, key=lambda p: (int(p.stem), p.name))


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in pixels of an image whose file is whole, else None.

    A PNG's chunks are checked by their checksums; nothing is decoded.
    """
    try:
        with open_picture(path) as picture:
            size = picture.size
            picture.verify()
    except UNREADABLE:
        return None
    return size
