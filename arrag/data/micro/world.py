"""The micro world: composites of real sprites on real textures, with captions and exact truth.

Everything is aligned to the 12 x 12 token grid of a 48-pixel image: a sprite always covers whole
4-pixel patches, in one of two sizes, on a quiet background. That is what lets a model of a few
million parameters, trained for an hour on two cores, draw recognisable things; the price is a
world far simpler than photographs, and no number made in it is a number of the paper.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from arrag.data.micro.assets import CODE_POINTS, load_assets, recolor
from arrag.data.prompts import COLORS, RELATIONS, TASKS

PATCH = 4
GRID = 12
SIZE = PATCH * GRID
LARGE, SMALL = 9, 5  # sprite sizes in patches: 36 and 20 pixels
CLASSES = tuple(sorted(CODE_POINTS))
NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Split:
    """What a split may draw: styles, textures, and the share of all scenes that is its own."""

    styles: tuple[str, ...]
    textures: tuple[str, ...]
    share: range  # of the scene hash modulo 10: the splits are disjoint by construction


_TRAINING_TEXTURES = (
    "brick_wall_1", "cardboard_1", "concrete_3", "grass_1", "water_1", "wood_1",
)  # fmt: skip
SPLITS = {
    "training": Split(("twemoji",), _TRAINING_TEXTURES, range(0, 6)),
    "database": Split(
        ("twemoji", "noto"),
        (*_TRAINING_TEXTURES, "cardboard_4", "marble_1", "water_2", "wood_2"),
        range(6, 9),
    ),
    "reference": Split(
        ("twemoji", "noto"),
        ("cardboard_3", "drywall_1", "grass_2", "stucco_1", "water_3"),
        range(9, 10),
    ),
}


@dataclass(frozen=True)
class Placed:
    """An object in a scene: its corner in patches, its size in patches, its sprite."""

    label: str
    color: str | None
    row: int
    col: int
    side: int


@dataclass(frozen=True)
class Truth:
    """An object as drawn: tight box in pixels ``(x0, y0, x1, y1)`` and bool mask ``[48, 48]``."""

    label: str
    color: str | None
    box: tuple[int, int, int, int]
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A composite: uint8 image ``[48, 48, 3]``, GenEval metadata, and the truth about it."""

    image: np.ndarray
    metadata: dict
    objects: tuple[Truth, ...]

    @property
    def caption(self) -> str:
        """The prompt, in GenEval's grammar."""
        return self.metadata["prompt"]

    @property
    def task(self) -> str:
        """One of the six GenEval task names."""
        return self.metadata["tag"]


def plural(label: str) -> str:
    """Plural of a class name of this world."""
    return label + "s"


def draw_metadata(task: str, rng: random.Random) -> dict:
    """Draw one prompt of ``task``; see ``describe``."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; one of {TASKS}")
    first, second = rng.sample(CLASSES, 2)
    colors = rng.sample(COLORS, 2)
    include = [{"class": first, "count": 1}]
    if task in ("two_object", "color_attr"):
        include.append({"class": second, "count": 1})
    if task in ("colors", "color_attr"):
        include = [c | {"color": color} for c, color in zip(include, colors, strict=False)]
    if task == "counting":
        include[0]["count"] = rng.choice(sorted(NUMBERS))
    if task == "position":
        subject = include[0] | {"position": [rng.choice(RELATIONS), 0]}
        include = [{"class": second, "count": 1}, subject]
    return describe(task, include)


def describe(task: str, include: list[dict]) -> dict:
    """The prompt that shows some clauses, in the format of GenEval's evaluation_metadata.jsonl."""

    def phrase(clause: dict) -> str:
        if clause["count"] > 1:
            return f"{NUMBERS[clause['count']]} {plural(clause['class'])}"
        words = f"{clause['color']} {clause['class']}" if "color" in clause else clause["class"]
        return ("an " if words[0] in "aeiou" else "a ") + words

    text = " and ".join(map(phrase, include))
    if task == "position":
        text = f"{phrase(include[1])} {include[1]['position'][0]} {phrase(include[0])}"
    metadata = {"tag": task, "include": include, "prompt": f"a photo of {text}"}
    if task == "counting":
        metadata["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
    return metadata


def place(metadata: dict, rng: random.Random) -> tuple[Placed, ...]:
    """Lay out the objects of a prompt on the token grid; every choice comes from ``rng``."""
    include = metadata["include"]
    wanted = [(i["class"], i.get("color")) for i in include for _ in range(i["count"])]
    if len(wanted) == 1:
        corner = [rng.randrange(GRID - LARGE + 1) for _ in range(2)]
        return (Placed(*wanted[0], *corner, LARGE),)
    half, slack = GRID // 2, GRID // 2 - SMALL
    if metadata["tag"] == "counting":
        cells = rng.sample([(0, 0), (0, half), (half, 0), (half, half)], len(wanted))
    else:
        middle = (GRID - SMALL) // 2
        pairs = {
            "left of": [(middle, half), (middle, 0)],
            "right of": [(middle, 0), (middle, half)],
            "above": [(half, middle), (0, middle)],
            "below": [(0, middle), (half, middle)],
        }
        relation = include[1].get("position", [rng.choice(RELATIONS)])[0]
        cells = pairs[relation]
    corners = [(r + rng.randint(0, slack), c + rng.randint(0, slack)) for r, c in cells]
    return tuple(
        Placed(*what, row, col, SMALL) for what, (row, col) in zip(wanted, corners, strict=True)
    )


class World:
    """Scenes of one split, each a function of (split, index) alone.

    ``assets``: the directory made by :func:`arrag.data.micro.assets.fetch_assets`.
    """

    def __init__(self, assets: str | Path, split: str = "training"):
        self.split = split
        self.rules = SPLITS[split]
        self._assets = load_assets(assets)
        self._sprite = cache(self._scaled_sprite)
        self._canvas = cache(self._make_canvas)

    def scene(self, index: int, task: str | None = None) -> Scene:
        """Scene number ``index`` of the split, of ``task`` or of a task drawn at random."""
        rng = random.Random(f"{self.split}/{index}/{task or ''}")
        return self._compose(lambda: draw_metadata(task or rng.choice(TASKS), rng), rng)

    def scene_for(self, metadata: dict, index: int) -> Scene:
        """A scene of this split that shows the given prompt (``index`` numbers its variants)."""
        rng = random.Random(f"{self.split}/{metadata['prompt']}/{index}")
        return self._compose(lambda: metadata, rng)

    def _compose(self, draw: Callable[[], dict], rng: random.Random) -> Scene:
        """Draw prompt, layout, style and background until they belong to this split."""
        while True:
            metadata = draw()
            objects = place(metadata, rng)
            style = rng.choice(self.rules.styles)
            texture = rng.choice(self.rules.textures)
            corner = rng.randrange(4)
            key = repr((style, texture, corner, sorted(map(repr, objects))))
            if hashlib.sha256(key.encode()).digest()[0] % 10 in self.rules.share:
                image, truths = self.draw(objects, style, self._canvas(texture, corner))
                return Scene(image, metadata, truths)

    def draw(
        self, objects: tuple[Placed, ...], style: str, canvas: np.ndarray
    ) -> tuple[np.ndarray, tuple[Truth, ...]]:
        """Paste ``objects`` on ``canvas`` (float32 [48, 48, 3]): uint8 image and the truths."""
        image = canvas.copy()
        truths = []
        for item in objects:
            sprite = self._sprite(style, item.label, item.color, item.side)  # [s, s, 4]
            top, left, side = item.row * PATCH, item.col * PATCH, item.side * PATCH
            window = (slice(top, top + side), slice(left, left + side))
            alpha = sprite[..., 3:] / 255
            image[window] = image[window] * (1 - alpha) + sprite[..., :3] * alpha
            mask = np.zeros((SIZE, SIZE), dtype=bool)
            mask[window] = alpha[..., 0] > 0.5
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)
            truths.append(Truth(item.label, item.color, box, mask))
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), tuple(truths)

    def _scaled_sprite(self, style: str, label: str, color: str | None, side: int) -> np.ndarray:
        """A sprite scaled into a square of ``side`` patches, centred: float32 [s, s, 4]."""
        pixels = self._assets[f"sprite/{style}/{label}"]
        if color is not None:
            pixels = recolor(pixels, color)
        target = side * PATCH
        scale = target / max(pixels.shape[:2])
        size = tuple(max(1, round(length * scale)) for length in pixels.shape[1::-1])
        small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        square = Image.new("RGBA", (target, target))
        square.paste(small, ((target - size[0]) // 2, (target - size[1]) // 2))
        return np.asarray(square).astype(np.float32)

    def _make_canvas(self, texture: str, corner: int) -> np.ndarray:
        """One of four 48-pixel quarters of a texture, brightened: float32 [48, 48, 3]."""
        top, left = (corner // 2) * SIZE, (corner % 2) * SIZE
        quarter = self._assets[f"texture/{texture}"][top : top + SIZE, left : left + SIZE]
        # Pale backgrounds keep all ten object colours distinct from what is behind them.
        return quarter.astype(np.float32) * 0.5 + 110
