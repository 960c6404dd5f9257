"""What the page's patch viewer reads: chosen samples, what each patch retrieved, and from where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arrag.codec import Codec
from arrag.errors import ArragError
from arrag.index import PatchIndex
from arrag.metrics.samples import load_image
from arrag.report.origins import Blend, Origins, trace
from arrag.report.page.markup import picture
from arrag.sample_codes import read_codes

Redraw = Callable[[list[tuple[str, int]]], np.ndarray]
"""Draws [(prompt's text, sample)] again: int64 [B, H, W]."""


@dataclass
class Base:
    """A database that patches came from; pictures are made of what is used alone.

    used: image of the store -> its place among the page's pictures.
    """

    index: PatchIndex
    codec: Codec
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
            pictures.append(picture(self.codec.decode(_batch(grid))[0]))
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


def sample_codes(
    method: Followed, codec: Codec, jobs: list[tuple[int, str, int]]
) -> dict[tuple[int, int], np.ndarray]:
    """Codes int64 [H, W] of samples (prompt, its text, sample), by (prompt, sample).

    They are read from the images' files; of an image without them (made by an earlier version) the
    drawing is repeated. Left out is what neither gives exactly: codes count only if the tokenizer
    makes this very image of them.
    """
    codes, bare = {}, []
    for prompt, text, sample in jobs:
        found = read_codes(_path(method, prompt, sample))
        if found is None:
            bare.append((prompt, text, sample))
        else:
            codes[prompt, sample] = found
    if bare and method.redraw is not None:
        drawn = method.redraw([(text, sample) for _, text, sample in bare])
        codes |= {(p, s): grid for (p, _, s), grid in zip(bare, drawn, strict=True)}
    return {
        (p, s): codes[p, s]
        for p, _, s in jobs
        if (p, s) in codes and _is_image_of(codec, codes[p, s], _path(method, p, s))
    }


def _path(method: Followed, prompt: int, sample: int) -> Path:
    return method.folder / f"{prompt:05d}" / "samples" / f"{sample:04d}.png"


def _is_image_of(codec: Codec, codes: np.ndarray, path: Path) -> bool:
    if codes.shape != tuple(codec.grid) or codes.max() >= len(codec.codebook):
        raise ArragError(
            f"{path}: its codes are of another tokenizer (grid {list(codes.shape)}); generate it "
            "again"
        )
    # On a GPU the last bit may differ from where it was drawn.
    gap = codec.decode(_batch(codes))[0].astype(int) - load_image(path)
    return int(abs(gap).max()) <= 1


def _batch(grid: np.ndarray):
    import torch

    return torch.from_numpy(grid)[None]


def followed_sample(
    method: Followed,
    base: Base,
    codes: np.ndarray,
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
    origins = trace(codes, base.index, method.k, shown, method.blend)
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
