"""What the page's patch viewer reads: chosen samples, what each patch retrieved, and from where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from arrag.data.sample_dir import load_image, read_codes
from arrag.report.origins import Blend, Origins, trace
from arrag.report.page.markup import picture
from arrag.retrieval.index import PatchIndex
from arrag.tokenizers.base import ImageTokenizer
from arrag.utils.errors import ArragError


class Drawing(NamedTuple):
    """A sample's codes, int64 [H, W], and where they were not settled in raster order, the step of
    each: int64 [H, W], below 0 before the steps that retrieve."""

    codes: np.ndarray
    order: np.ndarray | None = None


Redraw = Callable[[list[tuple[str, int]]], list[Drawing]]
"""Draws [(prompt's text, sample)] again."""


@dataclass
class Base:
    """A database that patches came from; pictures are made of what is used alone.

    used: image of the store -> its place among the page's pictures.
    """

    index: PatchIndex
    tokenizer: ImageTokenizer
    used: dict[int, int] = field(default_factory=dict)

    def place(self, entry: int) -> int:
        """An entry as the page numbers it: place of its image times the grid, plus position."""
        size = self.index.store.grid[0] * self.index.store.grid[1]
        image, position = divmod(int(entry), size)
        return self.used.setdefault(image, len(self.used)) * size + position

    def described(self) -> dict[str, Any]:
        """Grid, the neighbourhood's steps, and names and pictures of the images that were used."""
        store = self.index.store
        images = np.array(list(self.used), dtype=np.int64)
        grids = store.grids(images).astype(np.int64)
        pictures = []
        for grid in tqdm(grids, desc="database pictures", unit="image"):
            pictures.append(picture(self.tokenizer.decode(_batch(grid))[0]))
        return {
            "grid": list(store.grid),
            "steps": sorted(set(self.index.neighborhood.offsets)),
            "names": [store.keys(int(image)) for image in images],
            "pictures": pictures,
        }


@dataclass(frozen=True)
class Followed:
    """A method whose patches are followed, and where its samples are.

    key, label: the method's; base: number of its database among the page's; k: patches retrieved.
    """

    key: str
    label: str
    folder: Path
    base: int
    k: int
    blend: Blend | None
    redraw: Redraw | None = None


def sample_drawings(
    method: Followed, base: Base, jobs: list[tuple[int, str, int]]
) -> dict[tuple[int, int], Drawing]:
    """How samples (prompt, its text, sample) were drawn, by (prompt, sample).

    Codes are read from the images' files. The drawing is repeated where there are none (an earlier
    version wrote it) or where an order is needed, which no file holds. Left out is what neither
    gives exactly: codes count only if the tokenizer makes this very image of them.
    """
    in_raster = base.index.neighborhood.context == "causal"
    found, bare = {}, []
    for prompt, text, sample in jobs:
        codes = read_codes(_path(method, prompt, sample)) if in_raster else None
        if codes is None:
            bare.append((prompt, text, sample))
        else:
            found[prompt, sample] = Drawing(codes)
    if bare and method.redraw is not None:
        drawn = method.redraw([(text, sample) for _, text, sample in bare])
        for (prompt, _, sample), drawing in zip(bare, drawn, strict=True):
            order = None if in_raster else drawing.order
            found[prompt, sample] = Drawing(drawing.codes, order)
    return {
        (p, s): found[p, s]
        for p, _, s in jobs
        if (p, s) in found and _is_image_of(base.tokenizer, found[p, s].codes, _path(method, p, s))
    }


def _path(method: Followed, prompt: int, sample: int) -> Path:
    return method.folder / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def _is_image_of(tokenizer: ImageTokenizer, codes: np.ndarray, path: Path) -> bool:
    if codes.shape != tuple(tokenizer.grid) or codes.max() >= len(tokenizer.codebook):
        raise ArragError(
            f"{path}: its codes are of another tokenizer (grid {list(codes.shape)}); generate it "
            "again"
        )
    # On a GPU the last bit may differ from where it was drawn.
    gap = tokenizer.decode(_batch(codes))[0].astype(int) - load_image(path)
    return int(abs(gap).max()) <= 1


def _batch(grid: np.ndarray):
    import torch

    return torch.from_numpy(grid)[None]


def followed_sample(
    method: Followed,
    base: Base,
    drawing: Drawing,
    prompt: int,
    text: str,
    sample: int,
    shown: int,
) -> dict[str, Any]:
    """One sample for the viewer.

    ``patches`` is {position: [retrieved patches with the drawn code, p_ret of it or null, the
    nearest]}, and of each of the nearest [entry, its code, distance, weight or null], the entry as
    ``Base.place`` has it.
    """
    codes, order = drawing
    origins = trace(codes, base.index, method.k, shown, method.blend, order)
    return {
        "method": method.key,
        "label": method.label,
        "prompt": prompt,
        "text": text,
        "sample": sample,
        "base": method.base,
        "k": method.k,
        "lam": method.blend.lam if method.blend else None,
        "picture": picture(load_image(_path(method, prompt, sample)), lossless=True),
        "codes": codes.flatten().tolist(),
        "patches": {
            int(position): _patch(origins, row, base)
            for row, position in enumerate(origins.positions)
        },
    }


def _patch(origins: Origins, row: int, base: Base) -> list[Any]:
    nearest = [
        [
            base.place(origins.entries[row, slot]),
            int(origins.codes[row, slot]),
            _rounded(origins.distances[row, slot]),
            None if origins.weights is None else _rounded(origins.weights[row, slot]),
        ]
        for slot in range(origins.entries.shape[1])
        if origins.entries[row, slot] >= 0
    ]
    drawn = None if origins.drawn_weight is None else _rounded(origins.drawn_weight[row])
    return [int(origins.agreeing[row]), drawn, nearest]


def _rounded(value: float) -> float:
    """Four significant digits are more than the page prints."""
    return float(f"{float(value):.4g}")
