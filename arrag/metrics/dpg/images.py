"""Images of DPG-Bench: the official grids, or this project's own folders of samples.

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
from arrag.metrics.types import Gaps
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import is_file_name

GRID = 2  # images a side of a grid
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
HINT = "generate them first"

PixelBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class DpgImage:
    """Image number ``image`` of the prompt ``item``: the part ``box`` (pixels) of a file."""

    item: str
    image: str
    path: Path
    box: PixelBox

    def load(self) -> np.ndarray:
        """uint8 RGB [H, W, 3]. Raises FormatError when damaged."""
        x0, y0, x1, y1 = self.box
        return load_image(self.path)[y0:y1, x0:x1]


def list_dpg_images(
    root: str | Path,
    items: Iterable[str],
    per_prompt: int | None = None,
    resolution: int | None = None,
) -> tuple[list[DpgImage], Gaps]:
    """Every prompt's images in order, and what is missing, damaged or of no prompt.

    Args:
        root: Folder of grids or of samples.
        items: The prompts.
        per_prompt: Images of a prompt; None takes 4 of a grid, all of a folder.
        resolution: Pixels a side of one image; None accepts what the files have.

    Raises:
        ArragError: The sizes differ, or are not those of a grid.
    """
    root, wanted = Path(root), list(items)
    if folders := _prompt_folders(root):
        return _from_folders(root, folders, wanted, per_prompt, resolution)
    return _from_grids(root, wanted, per_prompt or GRID * GRID, resolution)


def _prompt_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise MissingError("no such directory of images", path=root, hint=HINT)
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit())


def _from_grids(
    root: Path, wanted: list[str], count: int, resolution: int | None
) -> tuple[list[DpgImage], Gaps]:
    if not 1 <= count <= GRID * GRID:
        message = f"{count} images a prompt; a grid of {GRID} x {GRID} holds 1 to 4"
        raise UsageError(message, path=root, field="images_per_prompt")
    files: dict[str, list[Path]] = {}
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES):
        files.setdefault(path.name.split(".")[0], []).append(path)  # as the official script does
    _refuse_double(root, "file", {name: len(paths) for name, paths in files.items()})
    sizes = {name: image_size(files[name][0]) for name in wanted if name in files}
    gaps: Gaps = {
        "items without an image": [name for name in wanted if name not in files],
        "images of no item": [name for name in files if name not in set(wanted)],
        "damaged images": [name for name, size in sizes.items() if size is None],
    }
    side = _common_side(root, sizes, 1 if count == 1 else GRID, resolution)
    images = [
        DpgImage(name, str(i), files[name][0], _cell(i, side))
        for name in wanted
        if sizes.get(name)
        for i in range(count)
    ]
    return images, {kind: names for kind, names in gaps.items() if names}


def _from_folders(
    root: Path, folders: list[Path], wanted: list[str], count: int | None, resolution: int | None
) -> tuple[list[DpgImage], Gaps]:
    names = {folder: _item_of(folder) for folder in folders}
    _refuse_double(root, "folder", Counter(names.values()))
    by_name = {name: folder for folder, name in names.items()}
    found = {n: numbered_images(by_name[n] / "samples") for n in wanted if n in by_name}
    count = count or max(map(len, found.values()), default=0)
    paths = [(name, path) for name in wanted for path in found.get(name, [])[:count]]
    sizes = {f"{name}/{path.name}": image_size(path) for name, path in paths}
    gaps: Gaps = {
        "items without an image": [n for n in wanted if not found.get(n)],
        f"items with other than {count} images": [
            n for n, paths in found.items() if paths and len(paths) != count
        ],
        "images of no item": [name for name in names.values() if name not in set(wanted)],
        "damaged images": [name for name, size in sizes.items() if size is None],
    }
    side = _common_side(root, sizes, 1, resolution)
    images = [
        DpgImage(name, str(int(path.stem)), path, (0, 0, side, side))
        for name, path in paths
        if sizes[f"{name}/{path.name}"]
    ]
    return images, {kind: names for kind, names in gaps.items() if names}


def _refuse_double(root: Path, what: str, counts: dict[str, int]) -> None:
    if double := [name for name, n in counts.items() if n > 1]:
        message = f"more than one {what} for: {listed(double)}"
        raise FormatError(message, path=root, hint="keep one")


def _common_side(
    root: Path, found: dict[str, tuple[int, int] | None], cells: int, resolution: int | None
) -> int | None:
    """Pixels a side of one image when all files are squares of one size, ``cells`` a side."""
    sizes = {name: size for name, size in found.items() if size}
    if not sizes:
        return None
    counts = Counter(sizes.values())
    (width, height), _ = counts.most_common(1)[0]
    if len(counts) > 1:
        other = [f"{n} ({w} x {h})" for n, (w, h) in sizes.items() if (w, h) != (width, height)]
        message = f"most images are {width} x {height}, others not: {listed(other)}"
        raise MismatchError(message, path=root, hint="all must have one size")
    if width != height or width % cells:
        raise MismatchError(
            f"images are {width} x {height} pixels; a grid of {cells} x {cells} images is a square "
            "whose side divides by it",
            path=root,
            hint="for one image a file give --images-per-prompt 1",
        )
    side = width // cells
    if resolution not in (None, side):
        message = f"images are {side} pixels a side, expected {resolution}"
        raise MismatchError(message, path=root, field="resolution")
    return side


def _cell(index: int, side: int) -> PixelBox:
    """The box of image ``index`` of a grid: row by row from the top left."""
    row, column = divmod(index, GRID)
    return (column * side, row * side, (column + 1) * side, (row + 1) * side)


def _item_of(folder: Path) -> str:
    path = folder / "metadata.jsonl"
    metadata = read_metadata(path)
    item = metadata.get("item_id") if isinstance(metadata, dict) else None
    if not isinstance(item, str) or not item.strip():
        raise FormatError(
            f"is {item!r}, expected the prompt's name in the question table",
            path=path,
            field="item_id",
            hint="generate the samples of that table again",
        )
    return item


def write_grids(root: str | Path, out: str | Path) -> list[str]:
    """Write own folders of four images a prompt as official 2 x 2 grids.

    Returns:
        The item_ids.

    Raises:
        ArragError: A folder is incomplete.
    """
    root = Path(root)
    folders = _prompt_folders(root)
    items = [_item_of(folder) for folder in folders]
    if not items:
        raise MissingError("holds no folder of samples", path=root, hint=HINT)
    for item in items:
        if not is_file_name(item):
            message = f"is {item[:60]!r}, expected the name of a file"
            raise FormatError(message, path=root, field="item_id", hint="correct the table")
    images, gaps = _from_folders(root, folders, items, GRID * GRID, None)
    for kind, names in gaps.items():
        raise MismatchError(f"{kind}: {listed(names)}", path=root, hint=HINT)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for start in range(0, len(images), GRID * GRID):
            group = images[start : start + GRID * GRID]
            side = group[0].box[2]
            grid = Image.new("RGB", (GRID * side, GRID * side))
            for i, image in enumerate(group):
                grid.paste(Image.fromarray(image.load()), _cell(i, side)[:2])
            grid.save(temporary / f"{group[0].item}.png")
    return items
