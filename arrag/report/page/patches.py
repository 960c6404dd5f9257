"""The data of the patch viewer: what each patch of a sample retrieved, and from which image."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from tqdm import tqdm

from arrag.data.sample_dir import load_image, read_codes
from arrag.report.attribution import Blend, attribute_patches
from arrag.report.replay import SampleCodes
from arrag.retrieval.base import PatchIndex
from arrag.tokenizers.base import ImageTokenizer
from arrag.utils.errors import MismatchError

SMALLEST, LARGEST = 96, 256  # pixels of a picture's longer side on the page
QUALITY = 75  # of lossy pictures

Job = tuple[int, str, int]  # prompt, its text, sample


@dataclass
class PatchDatabase:
    """A database that patches were retrieved from.

    ``used`` has the place among the page's pictures of each image of which a patch is shown.
    """

    number: int  # among the page's databases
    index: PatchIndex
    tokenizer: ImageTokenizer
    used: dict[int, int] = field(default_factory=dict)

    def place(self, entry: int) -> int:
        """An entry of the index as the page numbers it: place of its image, and position."""
        size = self.index.store.grid[0] * self.index.store.grid[1]
        image, position = divmod(int(entry), size)
        return self.used.setdefault(image, len(self.used)) * size + position

    def described(self) -> dict[str, Any]:
        """Grid, offsets of the neighbourhood, and names and pictures of the images used."""
        store = self.index.store
        grids = store.grids(np.array(list(self.used), dtype=np.int64)).astype(np.int64)
        shown = tqdm(grids, desc="database pictures", unit="image")
        return {
            "grid": list(store.grid),
            "steps": sorted(set(self.index.neighborhood.offsets)),
            "names": [store.keys(int(image)) for image in self.used],
            "pictures": [data_uri(_decode(self.tokenizer, grid)) for grid in shown],
        }


@dataclass(frozen=True)
class TracedMethod:
    """A method whose patches are traced."""

    key: str
    label: str
    image: Callable[[int, int], Path]  # path of a sample, given its prompt and number
    k: int  # number of retrieved patches
    blend: Blend | None  # how DAiD blends them; None where they are blended into hidden states
    # Generates [(prompt's text, sample)] again; None if it cannot.
    replay: Callable[[list[tuple[str, int]]], list[SampleCodes]] | None = None


def read_sample_codes(
    method: TracedMethod, database: PatchDatabase, jobs: Sequence[Job]
) -> dict[tuple[int, int], SampleCodes]:
    """The codes of samples, by (prompt, sample).

    They are read from the images' files. Where a file has none (an earlier version wrote it), or
    where the order is needed in which they were generated, the generation is repeated. A sample is
    left out if the tokenizer does not decode its codes to the very image.
    """
    in_raster = database.index.neighborhood.context == "causal"
    found, bare = {}, []
    for prompt, text, sample in jobs:
        codes = read_codes(method.image(prompt, sample)) if in_raster else None
        if codes is None:
            bare.append((prompt, text, sample))
        else:
            found[prompt, sample] = SampleCodes(codes)
    if bare and method.replay is not None:
        again = method.replay([(text, sample) for _, text, sample in bare])
        for (prompt, _, sample), codes in zip(bare, again, strict=True):
            order = None if in_raster else codes.order
            found[prompt, sample] = SampleCodes(codes.codes, order)
    return {
        at: codes
        for at, codes in found.items()
        if _decodes_to(database.tokenizer, codes.codes, method.image(*at))
    }


def _decodes_to(tokenizer: ImageTokenizer, codes: np.ndarray, path: Path) -> bool:
    if codes.shape != tuple(tokenizer.grid) or codes.max() >= len(tokenizer.codebook):
        message = f"its codes are of another tokenizer (grid {list(codes.shape)})"
        raise MismatchError(message, path=path, hint="generate it again")
    # On a GPU the last bit may differ from where it was generated.
    gap = _decode(tokenizer, codes).astype(int) - load_image(path)
    return int(abs(gap).max()) <= 1


def _decode(tokenizer: ImageTokenizer, grid: np.ndarray) -> np.ndarray:
    return tokenizer.decode(torch.from_numpy(grid)[None])[0]


def trace_sample(
    method: TracedMethod, database: PatchDatabase, found: SampleCodes, job: Job, neighbours: int
) -> dict[str, Any]:
    """One sample as the viewer reads it.

    ``patches`` is {position: [number of retrieved patches with the generated code, p_ret of that
    code or null, the nearest]}, and each of the nearest is [entry as of ``PatchDatabase.place``,
    its code, distance, weight or null].
    """
    prompt, text, sample = job
    origins = attribute_patches(
        found.codes, database.index, method.k, neighbours, method.blend, found.order
    )
    blended, patches = origins.weights is not None, {}
    for row, position in enumerate(origins.positions):
        nearest = [
            [
                database.place(entry),
                int(origins.codes[row, slot]),
                _rounded(origins.distances[row, slot]),
                _rounded(origins.weights[row, slot]) if blended else None,
            ]
            for slot, entry in enumerate(origins.entries[row])
            if entry >= 0
        ]
        weight = _rounded(origins.drawn_weight[row]) if blended else None
        patches[int(position)] = [int(origins.agreeing[row]), weight, nearest]
    return {
        "method": method.key,
        "label": method.label,
        "prompt": prompt,
        "text": text,
        "sample": sample,
        "base": database.number,
        "k": method.k,
        "lam": method.blend.lam if method.blend else None,
        "picture": data_uri(load_image(method.image(prompt, sample)), lossless=True),
        "codes": found.codes.flatten().tolist(),
        "patches": patches,
    }


def _rounded(value: float) -> float:
    """Four significant digits are more than the page prints."""
    return float(f"{float(value):.4g}")


def data_uri(image: np.ndarray, lossless: bool = False) -> Markup:
    """An image, uint8 [H, W, 3], as a data URI in WebP.

    A lossy picture of a small image is first enlarged, every pixel to a square: WebP stores colours
    at half the resolution. Large ones are shrunk.
    """
    picture = Image.fromarray(image)
    longer = max(picture.size)
    if longer > LARGEST:
        size = [max(1, round(side * LARGEST / longer)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    elif longer < SMALLEST and not lossless:
        times = -(-SMALLEST // longer)
        size = [side * times for side in picture.size]
        picture = picture.resize(size, Image.Resampling.NEAREST)
    out = io.BytesIO()
    picture.save(out, format="WEBP", lossless=lossless, quality=QUALITY, method=4)
    return Markup(f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}")
