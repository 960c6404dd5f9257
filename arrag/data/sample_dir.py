"""Folders of generated images in GenEval's layout: listed, checked and read.

The images of prompt ``i`` are ``{i:05d}/samples/{0000, 0001, ...}.png``; the prompt is in
``{i:05d}/metadata.jsonl`` (djghosh13/geneval), the settings of the run are in ``run.json``. A PNG
also carries the image tokens that it was decoded from, in a text chunk that viewers ignore:
encoding the decoded pixels again would give other tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps
from PIL.PngImagePlugin import PngInfo

from arrag.data.prompts import MAX_COUNT, prompt_problem
from arrag.data.questions import listed
from arrag.utils.errors import FormatError, MismatchError, MissingError
from arrag.utils.files import read_model
from arrag.utils.readers import UNREADABLE, open_picture, parse_json, short_message

NUMBERED = re.compile(r"[0-9]{1,9}\.png")
CODES_CHUNK = "arrag codes"
AGAIN = "generate the samples again"
REPAIR = "delete the folder's run.json and run the same command, which generates what is missing"


@dataclass(frozen=True)
class Sample:
    """One image file: ``path`` is sample ``sample_index`` of prompt ``prompt_index``."""

    prompt_index: int
    sample_index: int
    path: Path


def sample_path(images_dir: str | Path, prompt: int, sample: int) -> Path:
    """The file of sample ``sample`` of prompt ``prompt``."""
    return Path(images_dir) / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def read_run(images_dir: str | Path) -> dict[str, Any] | None:
    """Read the folder's run.json; None if there is none."""
    path = Path(images_dir) / "run.json"
    if not path.exists():
        return None
    run = read_model(path, dict[str, Any])
    for field in ("images_per_prompt", "prompts"):
        if type(count := run.get(field, 1)) is not int or not 1 <= count <= MAX_COUNT:
            message = f"found {str(count)[:40]}, expected a number from 1"
            raise FormatError(message, path=path, field=field, hint=AGAIN)
    return run


def read_metadata(path: Path) -> Any:
    """Read the JSON of a sample folder's metadata.jsonl; None if it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def folder_prompts(images_dir: str | Path) -> dict[int, dict[str, Any]]:
    """Read the prompts from the folders' own metadata.jsonl: {folder number: metadata}.

    Raises:
        MissingError: There is no folder of samples.
        FormatError: A folder's metadata is absent or malformed.
    """
    prompts = {}
    for index, folder in prompt_folders(images_dir).items():
        path = folder / "metadata.jsonl"
        prompts[index] = read_metadata(path)
        if problem := prompt_problem(prompts[index]):
            raise FormatError(problem, path=path, hint=AGAIN)
    if not prompts:
        raise MissingError(
            "contains no folder of samples", path=images_dir, hint="generate them first"
        )
    return prompts


def prompt_text(images_dir: str | Path, prompt_index: int) -> str:
    """Read the prompt that a folder's samples were generated from."""
    path = Path(images_dir) / f"{prompt_index:05d}" / "metadata.jsonl"
    metadata = read_metadata(path)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
        raise FormatError("contains no prompt", path=path, hint=AGAIN)
    return metadata["prompt"]


def prompt_folders(images_dir: str | Path) -> dict[int, Path]:
    """Find the folders whose name is a number, by that number: {0: .../00000, ...}."""
    root = Path(images_dir)
    if not root.is_dir():
        raise MissingError("no such folder of samples", path=root, hint="generate them first")
    folders: dict[int, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdecimal()):
        if (number := int(folder.name)) > MAX_COUNT or number in folders:
            what = f"folders have a number above {MAX_COUNT}, or that of another"
            _refuse(root, what, [folder.name])
        folders[number] = folder
    return dict(sorted(folders.items()))


def list_samples(
    images_dir: str | Path, prompts: list[dict[str, Any]] | None = None, allow_partial: bool = False
) -> tuple[list[Sample], dict[str, list[str]]]:
    """List all samples of a folder and check that the set is complete.

    Every prompt must have its folder, its own metadata and the same sample numbers as the others
    (``images_per_prompt`` of run.json, else all numbers found). The official code leaves missing
    folders out of its mean instead.

    Args:
        images_dir: Folder of samples.
        prompts: The prompts the folders must belong to. If None, the folders must be numbered from
            0 without a gap.
        allow_partial: Leave missing and damaged images out and return them.

    Returns:
        The samples in (prompt, sample) order, and the gaps as {what: names}.

    Raises:
        MismatchError: Something is missing, damaged or left over; the first names are given.
    """
    root = Path(images_dir)
    folders = prompt_folders(root)
    wanted = range(len(prompts) if prompts is not None else max(folders, default=-1) + 1)
    left_over = [folder.name for i, folder in folders.items() if i not in wanted]
    _refuse(root, "folders belong to no prompt", left_over)
    found = {i: numbered_images(folders[i] / "samples") for i in wanted if i in folders}
    if prompts is not None:
        files = {i: folders[i] / "metadata.jsonl" for i in found}
        strangers = [
            _short(file, 2) for i, file in files.items() if read_metadata(file) != prompts[i]
        ]
        _refuse(root, "metadata files are missing or of another prompt set", strangers)
    count = (read_run(root) or {}).get("images_per_prompt")
    numbers = range(count) if count else sorted({int(p.stem) for ps in found.values() for p in ps})
    samples = [Sample(i, int(p.stem), p) for i, paths in found.items() for p in paths]
    extra = [_short(s.path) for s in samples if s.sample_index not in numbers]
    _refuse(root, f"images are beyond the {len(numbers)} a prompt", extra)
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
    for what, names in gaps.items() if not allow_partial else ():
        _refuse(root, what, names)
    return [s for s in samples if s not in damaged], gaps


def _refuse(root: Path, what: str, names: list[str]) -> None:
    if names:
        raise MismatchError(f"{what}: {listed(names)}", path=root, hint=REPAIR)


def _short(path: Path, parts: int = 3) -> str:
    return "/".join(path.parts[-parts:])


def numbered_images(folder: Path) -> list[Path]:
    """List files like 0000.png in ``folder`` by number; anything else there is not a sample."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if NUMBERED.fullmatch(p.name) and p.is_file()]
    return sorted(found, key=lambda p: (int(p.stem), p.name))


def load_image(path: str | Path) -> np.ndarray:
    """Read an image, turned upright by its EXIF orientation: uint8 RGB [H, W, 3]."""
    try:
        with open_picture(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: Exception) -> FormatError:
    return FormatError(f"not a readable image ({short_message(error)})", path=path, hint=AGAIN)


def image_size(path: Path) -> tuple[int, int] | None:
    """Read (width, height) in pixels of an image whose file is whole, else return None.

    A PNG's chunks are checked by their checksums; nothing is decoded.
    """
    try:
        with open_picture(path) as picture:
            size = picture.size
            picture.verify()
    except UNREADABLE:
        return None
    return size


def codes_chunk(codes: np.ndarray) -> PngInfo:
    """Make the ``pnginfo`` of ``Image.save`` that stores integer codes [H, W] in a PNG."""
    info = PngInfo()
    text = json.dumps(np.asarray(codes).tolist(), separators=(",", ":"))
    info.add_text(CODES_CHUNK, text, zip=True)
    return info


def read_codes(path: str | Path) -> np.ndarray | None:
    """Read the codes int64 [H, W] stored in a PNG; None if it has none."""
    try:
        with open_picture(path) as picture:
            picture.load()
            found = getattr(picture, "text", {}).get(CODES_CHUNK)
        if found is None:
            return None
        codes = np.array(parse_json(found))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if codes.ndim != 2 or codes.dtype.kind != "i" or not codes.size or codes.min() < 0:
        raise FormatError("its codes are no grid of whole numbers", path=path, hint=AGAIN)
    return codes.astype(np.int64)
