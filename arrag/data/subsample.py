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
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from arrag.data.sources import open_source
from arrag.data.store_format import EXCLUDED, SKIPPED, Names
from arrag.data.token_store import TokenStore, merge_stores
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json
from arrag.utils.globs import is_tars
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import misfit, read_npz
from arrag.utils.resource_errors import disk_space

FORMAT = 1
CHOICE = {"seed": int, "largest": int, "whole_names": bool, "images": int, "of": int}
OF_A_STORE = re.compile(
    r"shard-\d+\.(npy|keys\.json)|codebook\.safetensors|(skipp|exclud)ed\.json|\.arrag\.json"
)


@dataclass(frozen=True)
class Choice:
    """Which images of a corpus are in the sample: those whose number is at most ``largest``.

    whole_names: whether a name includes its tar's, because names repeat from tar to tar. images:
    how many are in it; of: how many the corpus has.
    """

    seed: int
    largest: int
    whole_names: bool
    images: int
    of: int

    def takes(self, key: str, tar: bool) -> bool:
        """Whether the image ``key`` (of ``open_source``) is in it; tar: the source is tars."""
        return number(name_of(key, tar and not self.whole_names), self.seed) <= self.largest

    @classmethod
    def read(cls, path: str | Path) -> Choice:
        """ArragError for a file that ``choose`` did not write."""
        found = read_json(path)
        if not isinstance(found, dict) or found.get("format") != FORMAT or misfit(found, CHOICE):
            raise ArragError(f"{path}: is no choice of images; make it with `arrag corpus choose`")
        return cls(**{field: found[field] for field in cls.__dataclass_fields__})


def number(name: str, seed: int) -> int:
    """64 bits that look random, the same on every machine."""
    key = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest(), "little")


def name_of(key: str, inside: bool) -> str:
    """The name that decides: inside a tar, or the whole key."""
    return key.partition("/")[2] if inside else key


def list_images(source: str, out: str | Path, seed: int) -> dict[str, Any]:
    """Write the numbers of all images of a source: what ``choose`` needs to know of it.

    Of tars only the headers are read, of Parquet files only the number of rows. Returns the count;
    raises ArragError as ``open_source`` does.
    """
    tar = is_tars(source)
    inside, whole = [], []
    for key in tqdm(_keys(source), desc=f"list {Path(source).name}", unit="image"):
        inside.append(number(name_of(key, tar), seed))
        whole.append(number(key, seed) if tar else inside[-1])
    with disk_space(out), atomic_path(out) as temporary, open(temporary, "wb") as file:
        arrays = {"inside": np.array(inside, np.uint64), "whole": np.array(whole, np.uint64)}
        np.savez(file, seed=np.array([seed], np.uint64), **arrays)
    return {"images": len(inside)}


def _keys(source: str) -> Iterator[str]:
    return (key for key, _ in open_source(source, None, None))


def choose(lists: Sequence[str | Path], out: str | Path, images: int | None, seed: int) -> Choice:
    """Write which images of the listed parts of a corpus are taken: ``images`` of them, or all.

    Raises ArragError when the corpus has fewer, or a list was made with another seed.
    """
    held = [_read_list(Path(path), seed) for path in lists]
    inside = np.concatenate([part["inside"] for part in held])
    whole_names = len(np.unique(inside)) < len(inside)
    numbers = np.concatenate([part["whole"] for part in held]) if whole_names else inside
    if not len(numbers):
        raise ArragError(f"{lists[0]}: lists no image; correct the source")
    if images is not None and len(numbers) < images:
        raise ArragError(
            f"{out}: {images} images are wanted, the corpus has {len(numbers)}; download more of "
            "it, or ask for fewer in `database.sources`"
        )
    wanted = len(numbers) if images is None else images
    largest = int(np.partition(numbers, wanted - 1)[wanted - 1])
    choice = Choice(seed, largest, whole_names, int((numbers <= largest).sum()), len(numbers))
    write_json(out, {"format": FORMAT, **asdict(choice)})
    return choice


def _read_list(path: Path, seed: int) -> dict[str, np.ndarray]:
    held = read_npz(path, "list that part again", ("seed", "inside", "whole"))
    shapes = [(array.dtype, array.ndim) for array in held.values()]
    if shapes != [(np.uint64, 1)] * 3 or len(held["seed"]) != 1:
        raise ArragError(f"{path}: is no list of images; list that part again")
    if int(held["seed"][0]) != seed:
        raise ArragError(f"{path}: was listed with seed {held['seed'][0]}, not {seed}; list again")
    return held


def join(stores: Sequence[str | Path], out: str | Path) -> dict[str, Any]:
    """One store of the images of several, with one list of what was left out of them.

    Raises ArragError as ``merge_stores`` does, and when a name is in two of them.
    """
    parts = [TokenStore.open(path) for path in stores]
    files = [part.path / shard["keys"] for part in parts for shard in part.manifest["shards"]]
    seen = Names()
    for number_of_file, file in enumerate(tqdm(files, desc="names", unit="shard")):
        suspects = set(seen.add(read_json(file, [str])))  # two names may share a hash
        for earlier in files[:number_of_file] if suspects else ():
            if repeated := suspects.intersection(read_json(earlier, [str])):
                raise ArragError(
                    f"{file.parent}: {sorted(repeated)[0]!r} is also the name of an image of "
                    f"{earlier.parent}; rename the files of one corpus"
                )
    if Path(out).is_dir() and all(OF_A_STORE.fullmatch(p.name) for p in Path(out).iterdir()):
        shutil.rmtree(out)  # without its manifest: a killed join's, or Snakemake's empty folder
    merged = merge_stores(parts, out)
    left_out = {}
    for name in (SKIPPED, EXCLUDED):
        files = [part.path / name for part in parts if (part.path / name).is_file()]
        found = [entry for file in files for entry in read_json(file, [{"key": str}])]
        left_out[name.partition(".")[0]] = len(found)
        if files:
            write_json(Path(out) / name, found)
    return {"images": len(merged), **left_out}
