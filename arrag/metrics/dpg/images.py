"""Images of DPG-Bench: grids as the official script reads them, or this project's own folders.

Official: one PNG a prompt, named by its item_id, with two by two images, top left, top right,
bottom left, bottom right (or a single image). Own: ``NNNNN/metadata.jsonl`` whose ``item_id`` names
the prompt, with its images in ``NNNNN/samples`` (the layout of arrag.data.sample_dir).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arrag.data.questions import listed
from arrag.data.sample_dir import image_size, load_image, numbered_images, read_metadata
from arrag.utils.errors import ArragError
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import FileName, misfit

SIDE = 2  # images a side of a grid
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Box = tuple[int, int, int, int]
Gaps = dict[str, list[str]]


@dataclass(frozen=True)
class Picture:
    """Image number ``image`` of the prompt ``item``: the part ``box`` (pixels) of a file."""

    item: str
    image: str
    path: Path
    box: Box

    def load(self) -> np.ndarray:
        """uint8 RGB [H, W, 3]. ArragError when damaged."""
        x0, y0, x1, y1 = self.box
        return load_image(self.path)[y0:y1, x0:x1]


def list_pictures(
    root: str | Path,
    items: Iterable[str],
    per_prompt: int | None = None,
    resolution: int | None = None,
) -> tuple[list[Picture], Gaps]:
    """Every prompt's images in order, and what is missing, damaged or of no prompt.

    ``per_prompt`` (default: 4 of a grid, all of a folder) and ``resolution`` (pixels a side of one
    image, default: what the files have) are what is wanted. Raises ArragError when sizes differ or
    are not those of a grid.
    """
    root = Path(root)
    if not root.is_dir():
        raise ArragError(f"{root}: no such directory of images; generate them first")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit())
    wanted = list(items)
    if folders:
        return _from_folders(root, folders, wanted, per_prompt, resolution)
    return _from_grids(root, wanted, per_prompt or SIDE * SIDE, resolution)


def _from_grids(
    root: Path, wanted: list[str], count: int, resolution: int | None
) -> tuple[list[Picture], Gaps]:
    if not 1 <= count <= SIDE * SIDE:
        raise ArragError(f"{root}: {count} images a prompt; a grid of {SIDE} x {SIDE} holds 1 to 4")
    files: dict[str, list[Path]] = {}
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES):
        files.setdefault(path.name.split(".")[0], []).append(path)  # as the official script does
    if double := [name for name, paths in files.items() if len(paths) > 1]:
        raise ArragError(f"{root}: more than one file for: {listed(double)}; keep one")
    gaps: Gaps = {
        "items without an image": [name for name in wanted if name not in files],
        "images of no item": [name for name in files if name not in set(wanted)],
    }
    sizes = {name: image_size(files[name][0]) for name in wanted if name in files}
    gaps["damaged images"] = [name for name, size in sizes.items() if size is None]
    side = _one_size(root, {k: v for k, v in sizes.items() if v}, 1 if count == 1 else SIDE)
    if side is not None and resolution not in (None, side):
        raise ArragError(f"{root}: images are {side} pixels a side, --resolution says {resolution}")
    pictures = [
        Picture(name, str(i), files[name][0], _cell(i, side))
        for name in wanted
        if sizes.get(name)
        for i in range(count)
    ]
    return pictures, {kind: names for kind, names in gaps.items() if names}


def _one_size(root: Path, sizes: dict[str, tuple[int, int]], cells: int) -> int | None:
    """Pixels a side of one image when all files are squares of one size, ``cells`` a side."""
    if not sizes:
        return None
    counts = Counter(sizes.values())
    (width, height), _ = counts.most_common(1)[0]
    if len(counts) > 1:
        other = [f"{n} ({w} x {h})" for n, (w, h) in sizes.items() if (w, h) != (width, height)]
        raise ArragError(
            f"{root}: most images are {width} x {height}, others not: {listed(other)}; "
            "all must have one size"
        )
    if width != height or width % cells:
        raise ArragError(
            f"{root}: images are {width} x {height} pixels; a grid of {cells} x {cells} images is "
            "a square whose side divides by it (for one image a file give --images-per-prompt 1)"
        )
    return width // cells


def _cell(index: int, side: int) -> Box:
    """Where image ``index`` of a grid lies: row by row from the top left."""
    row, column = divmod(index, SIDE)
    return (column * side, row * side, (column + 1) * side, (row + 1) * side)


def _from_folders(
    root: Path, folders: list[Path], wanted: list[str], count: int | None, resolution: int | None
) -> tuple[list[Picture], Gaps]:
    gaps: Gaps = {}
    names = {folder: _item(folder) for folder in folders}
    if double := [name for name, n in Counter(names.values()).items() if n > 1]:
        raise ArragError(f"{root}: more than one folder for: {listed(double)}; keep one")
    unknown = [name for name in names.values() if name not in set(wanted)]
    by_name = {name: folder for folder, name in names.items()}
    found = {n: numbered_images(by_name[n] / "samples") for n in wanted if n in by_name}
    count = count or max(map(len, found.values()), default=0)
    gaps["items without an image"] = [n for n in wanted if not found.get(n)]
    gaps[f"items with other than {count} images"] = [
        n for n, paths in found.items() if paths and len(paths) != count
    ]
    gaps["images of no item"] = unknown
    paths = [(name, path) for name in wanted for path in found.get(name, [])[:count]]
    sizes = {f"{name}/{path.name}": image_size(path) for name, path in paths}
    gaps["damaged images"] = [name for name, size in sizes.items() if size is None]
    side = _one_size(root, {k: v for k, v in sizes.items() if v}, 1)
    if side is not None and resolution not in (None, side):
        raise ArragError(f"{root}: images are {side} pixels a side, --resolution says {resolution}")
    pictures = [
        Picture(name, str(int(path.stem)), path, (0, 0, side, side))
        for name, path in paths
        if sizes[f"{name}/{path.name}"]
    ]
    return pictures, {kind: names for kind, names in gaps.items() if names}


def _item(folder: Path) -> str:
    metadata = read_metadata(folder / "metadata.jsonl")
    item = metadata.get("item_id") if isinstance(metadata, dict) else None
    if not isinstance(item, str) or not item.strip():
        raise ArragError(
            f"{folder / 'metadata.jsonl'}: field item_id is {item!r}, wanted the prompt's name in "
            "the question table; generate the samples of that table again"
        )
    return item


def write_grids(root: str | Path, out: str | Path) -> list[str]:
    """Write own folders of four images a prompt as official 2 x 2 grids; returns the item_ids.

    ``out`` must not hold anything yet: it is replaced. Raises ArragError for an incomplete folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ArragError(f"{root}: no such directory of images; generate them first")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit())
    items = [_item(folder) for folder in folders]
    if not items:
        raise ArragError(f"{root}: holds no folder of samples; generate them first")
    for item in items:
        if problem := misfit(item, FileName, "item_id"):
            raise ArragError(f"{root}: {problem}; correct the question table")
    pictures, gaps = _from_folders(root, folders, items, SIDE * SIDE, None)
    for kind, names in gaps.items():
        raise ArragError(f"{root}: {kind}: {listed(names)}; generate them first")
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for start in range(0, len(pictures), SIDE * SIDE):
            group = pictures[start : start + SIDE * SIDE]
            side = group[0].box[2]
            grid = Image.new("RGB", (SIDE * side, SIDE * side))
            for i, picture in enumerate(group):
                grid.paste(Image.fromarray(picture.load()), _cell(i, side)[:2])
            grid.save(temporary / f"{group[0].item}.png")
    return items
