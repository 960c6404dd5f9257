"""A seeded sample of images from corpora too large to be held, or to be read by one job.

Every image has a number, a hash of its name and the seed, and the sample is the images with the
smallest numbers. Whether an image is in it therefore depends on neither order nor shards, and once
the largest number that is taken is known, each job decides by itself. A corpus in many files is
listed and encoded in parts, each a run of its files.

A name is that of an image in its tar, whatever the tar is called, or its path in a folder. Rows of
Parquet and Arrow files have no names: theirs are ``file/row``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from tqdm import tqdm

from arrag.data.sources import open_source
from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import read_model, write_json
from arrag.utils.globs import is_tars
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import read_npz
from arrag.utils.resource_errors import disk_space


class SubsampleSpec(BaseModel):
    """Which images of a corpus are in a subsample: those whose number is at most ``largest``.

    Attributes:
        whole_names: Whether a name includes its tar's, because names repeat from tar to tar.
        images, of: Images in the subsample, and in the corpus.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal[1] = 1
    seed: NonNegativeInt
    largest: NonNegativeInt
    whole_names: bool
    images: NonNegativeInt
    of: NonNegativeInt

    def contains(self, key: str, in_tar: bool) -> bool:
        """Whether the subsample has the image ``key``, which comes from a tar or not."""
        return number(name_of(key, in_tar and not self.whole_names), self.seed) <= self.largest

    @classmethod
    def read(cls, path: str | Path) -> SubsampleSpec:
        """Read what ``subsample_corpus`` wrote."""
        return read_model(path, cls, hint="make it with `arrag db subsample`")


def number(name: str, seed: int) -> int:
    """Hash a name to 64 bits, the same on every machine."""
    key = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest(), "little")


def name_of(key: str, inside: bool) -> str:
    """The name that decides: the one inside a tar, or the whole key."""
    return key.partition("/")[2] if inside else key


def list_images(source: str, out: str | Path, seed: int) -> dict[str, Any]:
    """Write the numbers of all images of a source to an .npz file, for ``subsample_corpus``.

    Of tars only the headers are read, of Parquet files only the number of rows.

    Returns:
        ``{"images": count}``.
    """
    tar, inside, whole = is_tars(source), [], []
    items = open_source(source, None, None)
    for key, _ in tqdm(items, desc=f"list {Path(source).name}", unit="image"):
        inside.append(number(name_of(key, tar), seed))
        whole.append(number(key, seed) if tar else inside[-1])
    numbers = {"seed": [seed], "inside": inside, "whole": whole}
    with disk_space(out), atomic_path(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: np.array(held, np.uint64) for name, held in numbers.items()})
    return {"images": len(inside)}


def subsample_corpus(
    lists: Sequence[str | Path], out: str | Path, images: int | None, seed: int
) -> SubsampleSpec:
    """Choose which images of the listed parts of a corpus are taken, and write it as JSON.

    Args:
        lists: What ``list_images`` wrote of all parts.
        out: The file to write.
        images: How many to take; None: all.
        seed: Of the lists.

    Raises:
        MismatchError: The corpus has fewer images, or a list has another seed.
    """
    held = [_read_list(Path(path), seed) for path in lists]
    inside = np.concatenate([part["inside"] for part in held])
    whole_names = len(np.unique(inside)) < len(inside)
    numbers = np.concatenate([part["whole"] for part in held]) if whole_names else inside
    if not len(numbers):
        raise FormatError("lists no image", path=lists[0], hint="correct the source")
    wanted = len(numbers) if images is None else images
    if wanted > len(numbers):
        raise MismatchError(
            f"{images} images are wanted, the corpus has {len(numbers)}",
            path=out,
            hint="download more of it, or ask for fewer in `database.sources`",
        )
    largest = int(np.partition(numbers, wanted - 1)[wanted - 1])
    spec = SubsampleSpec(
        seed=seed,
        largest=largest,
        whole_names=whole_names,
        images=int((numbers <= largest).sum()),
        of=len(numbers),
    )
    write_json(out, spec.model_dump())
    return spec


def _read_list(path: Path, seed: int) -> dict[str, np.ndarray]:
    again = "list that part again"
    held = read_npz(path, again, ("seed", "inside", "whole"))
    if any((a.dtype, a.ndim) != (np.uint64, 1) for a in held.values()) or len(held["seed"]) != 1:
        raise FormatError("is no list of images", path=path, hint=again)
    if int(held["seed"][0]) != seed:
        raise MismatchError(
            f"was listed with seed {held['seed'][0]}, not {seed}", path=path, hint=again
        )
    return held
