"""MJHQ-30K (Li et al. 2024): prompts, categories and reference statistics of its images.

Layout as published: ``meta_data.json`` {hash: {category, prompt, ...}} beside images in
``CATEGORY/HASH.jpg`` (unpacked from mjhq30k_imgs.zip).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arrag.data.images import SUFFIXES
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.readers import is_file_name

OVERALL = "all"
NAMED = 5


@dataclass(frozen=True)
class Entry:
    """One image of the set: its hash, category and prompt."""

    key: str
    category: str
    prompt: str


def load_mjhq(meta: str | Path) -> list[Entry]:
    """The entries in the file's order. Raises ArragError that names the first mistake."""
    held = read_json(meta)
    if not isinstance(held, dict) or not held:
        raise ArragError(f"{meta}: expected a mapping of hashes to entries, as meta_data.json has")
    entries = []
    for key, value in held.items():
        for field in ("category", "prompt"):
            if not isinstance(value, dict) or not isinstance(value.get(field), str):
                raise ArragError(f"{meta}: entry {key}: field {field} is missing; correct it")
        names = (key, value["category"])
        if value["category"] == OVERALL or not all(map(is_file_name, names)):
            raise ArragError(f"{meta}: entry {key}: {value['category']!r} is no category's name")
        entries.append(Entry(key, value["category"], value["prompt"]))
    return entries


def categories(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Entries by category, in order of first appearance."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.category].append(entry)
    return dict(found)


def images(root: str | Path, entries: list[Entry]) -> Iterator[tuple[Entry, Path | None]]:
    """Every entry with its file, None where there is none. ArragError for a missing folder."""
    root = Path(root)
    if not root.is_dir():
        raise ArragError(f"{root}: no such folder; unpack mjhq30k_imgs.zip there")
    for entry in entries:
        stem = root / entry.category / entry.key
        paths = (stem.with_name(stem.name + suffix) for suffix in (".jpg", *sorted(SUFFIXES)))
        yield entry, next((path for path in paths if path.is_file()), None)


def check_images(root: str | Path, entries: list[Entry], allow_partial: bool = False) -> int:
    """Number of images that are missing; ArragError when there are any, unless allowed.

    Files that no entry names are refused in any case: they would be part of the statistics.
    """
    found = list(images(root, entries))
    missing = [f"{entry.category}/{entry.key}" for entry, path in found if path is None]
    known = {path for _, path in found}
    files = (p for p in Path(root).rglob("*") if p.suffix.lower() in SUFFIXES)
    strangers = sorted(str(p.relative_to(root)) for p in files if p not in known)
    if strangers:
        raise ArragError(
            f"{root}: {len(strangers)} images that no entry names: {', '.join(strangers[:NAMED])}; "
            "take them away"
        )
    if missing and not allow_partial:
        raise ArragError(
            f"{root}: {len(missing)} of {len(entries)} images are missing: "
            f"{', '.join(missing[:NAMED])}; unpack them again, or pass --allow-partial, which "
            "states it in the statistics"
        )
    return len(missing)
