"""MJHQ-30K (Li et al. 2024): prompts, categories and images of the reference set.

Layout as published: ``meta_data.json`` {hash: {category, prompt, ...}} and images in
``CATEGORY/HASH.jpg`` (unpacked from mjhq30k_imgs.zip).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, field_validator

from arrag.data.images import SUFFIXES
from arrag.data.questions import listed
from arrag.utils.errors import FormatError, MismatchError, MissingError
from arrag.utils.files import read_model
from arrag.utils.shards import FileName

OVERALL = "all"


@dataclass(frozen=True)
class Entry:
    """One image of the set: its hash, category and prompt."""

    key: str
    category: str
    prompt: str


class _MetaData(BaseModel):
    category: FileName
    prompt: str

    @field_validator("category")
    @classmethod
    def _not_all(cls, category: str) -> str:
        if category == OVERALL:
            raise ValueError(f"{OVERALL!r} is the name of all categories together")
        return category


def load_mjhq(meta: str | Path) -> list[Entry]:
    """Read the entries of meta_data.json in the file's order; FormatError if one is malformed."""
    hint = "give MJHQ-30K's meta_data.json"
    held = read_model(meta, dict[FileName, _MetaData], hint)
    if not held:
        raise FormatError("has no entry", path=meta, hint=hint)
    return [Entry(key, value.category, value.prompt) for key, value in held.items()]


def categories(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Entries by category, in order of first appearance."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.category].append(entry)
    return dict(found)


def images(root: str | Path, entries: list[Entry]) -> Iterator[tuple[Entry, Path | None]]:
    """Yield every entry with its file, None where there is none."""
    root = Path(root)
    if not root.is_dir():
        raise MissingError("no such folder", path=root, hint="unpack mjhq30k_imgs.zip there")
    for entry in entries:
        stem = root / entry.category / entry.key
        paths = (stem.with_name(stem.name + suffix) for suffix in (".jpg", *sorted(SUFFIXES)))
        yield entry, next((path for path in paths if path.is_file()), None)


def check_images(root: str | Path, entries: list[Entry], allow_partial: bool = False) -> int:
    """Count the images that are missing.

    Raises:
        MismatchError: Images are missing, unless ``allow_partial``; or there are images that no
            entry names, which would be part of the statistics.
    """
    found = list(images(root, entries))
    missing = [f"{entry.category}/{entry.key}" for entry, path in found if path is None]
    known = {path for _, path in found}
    files = (p for p in Path(root).rglob("*") if p.suffix.lower() in SUFFIXES)
    strangers = sorted(str(p.relative_to(root)) for p in files if p not in known)
    if strangers:
        raise MismatchError(
            f"images that no entry names: {listed(strangers)}", path=root, hint="remove them"
        )
    if missing and not allow_partial:
        raise MismatchError(
            f"images are missing: {listed(missing)}",
            path=root,
            hint="unpack them again, or pass --allow-partial, which the statistics then state",
        )
    return len(missing)
