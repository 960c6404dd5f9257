"""Sources of images to token stores."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from arrag.codec import Codec, load_codec
from arrag.errors import ArragError
from arrag.files import write_json
from arrag.store import StoreWriter

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def encode_source(
    source: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    batch_size: int = 64,
    shard_size: int = 1000,
    limit: int | None = None,
    assets: str | Path | None = None,
) -> dict:
    """Encode every image of ``source`` with the tokenizer of ``checkpoint`` into a store.

    ``source``: a folder of images (found recursively, in name order), or ``micro:SPLIT`` for that
    split of the built-in world (``limit`` scenes; needs ``assets``). Goes on after a kill at the
    first shard that is not whole. An unreadable image of a folder is skipped, counted, and listed
    in ``skipped.json``. Returns counts; raises ArragError for a source that cannot be used.
    """
    codec = load_codec(checkpoint)
    images = _open_source(source, codec, limit, assets)
    skipped: list[str] = []
    with StoreWriter(
        out,
        tokenizer_digest=codec.digest,
        grid=codec.grid,
        codebook=codec.codebook.numpy(),
        source=f"{source} ({limit} images)" if limit else source,
        shard_size=shard_size,
    ) as writer:
        stored = writer.done
        todo = islice(_readable(images, skipped), stored, None)
        with tqdm(desc=f"encode {source}", unit="image", initial=stored, total=limit) as bar:
            while batch := list(islice(todo, batch_size)):
                keys, pixels = zip(*batch, strict=True)
                writer.add(list(keys), codec.encode(np.stack(pixels)).numpy().astype(np.uint16))
                bar.update(len(batch))
                stored += len(batch)
        if not stored:
            raise ArragError(f"{source}: no readable image there; give a folder of images")
    if skipped:
        write_json(Path(out) / "skipped.json", skipped)
    return {"images": stored, "skipped": len(skipped), "grid": list(codec.grid), "store": str(out)}


def _open_source(source: str, codec: Codec, limit: int | None, assets: str | Path | None):
    """Pairs (key, function that returns uint8 [S, S, 3])."""
    if source.partition(":")[0] == "micro":
        return _micro_scenes(source.partition(":")[2] or "database", limit, assets)
    folder = Path(source)
    if not folder.is_dir():
        raise ArragError(f"{source}: no such folder; give a folder of images or `micro:database`")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return (
        (str(p.relative_to(folder)), lambda p=p: read_square(p, codec.image_size))
        for p in files[:limit]
    )


def _micro_scenes(split: str, limit: int | None, assets: str | Path | None) -> Iterator:
    from arrag.micro.world import SPLITS, World

    if split not in SPLITS:
        raise ArragError(f"micro:{split}: no such split; one of {', '.join(SPLITS)}")
    if limit is None or assets is None:
        raise ArragError(f"micro:{split}: is endless; say how many images (and where the assets)")
    world = World(assets, split)
    return ((f"{split}/{i}", lambda i=i: world.scene(i).image) for i in range(limit))


def _readable(images, skipped: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for key, read in images:
        try:
            yield key, read()
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            skipped.append(f"{key}: {error}")


def read_square(path: Path, size: int) -> np.ndarray:
    """Scale the shorter side to ``size`` (bicubic) and crop the middle: uint8 [S, S, 3]."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    scale = size / min(image.size)
    fitted = [max(size, round(side * scale)) for side in image.size]
    image = image.resize(fitted, Image.Resampling.BICUBIC)
    left, top = (fitted[0] - size) // 2, (fitted[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
