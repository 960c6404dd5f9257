"""Images with captions to train adapters on: a token store and a caption for each of its images.

    (a token store)   see arrag.data.token_store; image i of it is pair i
    captions.jsonl    {"key", "caption"}, a line a pair
    pairs.json        which pairs are held out, and the digests of the above; written last

A caption is in a file with the name of its image: ``.txt``, or ``.json`` with a field
``caption``, ``prompt`` or ``text``; in a folder or in a WebDataset tar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, NonNegativeInt

from arrag.data.encode import encode_source
from arrag.data.files import members
from arrag.data.sources import chain_files, matching_files, open_source
from arrag.data.token_store import TokenStore
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError
from arrag.utils.files import read_model, write_json, write_text
from arrag.utils.globs import TARS
from arrag.utils.hashing import check_file, sha256_file, sha256_json
from arrag.utils.readers import numbered_lines, parse_json, read_text, short_message

FORMAT = 1
CAPTIONS, PAIRS = "captions.jsonl", "pairs.json"
FIELDS = ("caption", "prompt", "text")
CAPTION_SUFFIXES = (".json", ".txt")  # of a folder a .txt wins, being read later
ADVICE = "put a .txt (or a .json with a field caption) of the same name beside each image"


class PairsManifest(BaseModel):
    """``pairs.json``."""

    format: Literal[1]
    source: str
    seed: int
    held_out: list[NonNegativeInt]
    dropped: list[NonNegativeInt]
    captions_sha256: str
    store_digest: str


class Pairs:
    """Images with captions; open them with ``Pairs.open``.

    Attributes:
        path: Folder of the pairs.
        store: The images' tokens; image i is pair i.
        captions: A caption for each pair.
        train: Numbers of the pairs to train on, int64.
        held_out: Numbers of the pairs to measure the loss on, int64.
        digest: Of the manifest, and so of all of it.
    """

    def __init__(self, path: Path, manifest: PairsManifest, captions: list[str]) -> None:
        self.path, self.captions = path, captions
        self.store = TokenStore.open(path)
        self.held_out = np.asarray(manifest.held_out, np.int64)
        dropped = np.asarray(manifest.dropped, np.int64)
        self.train = np.setdiff1d(np.arange(len(captions)), [*self.held_out, *dropped])
        self.digest = sha256_json(manifest.model_dump())

    @classmethod
    def open(cls, path: str | Path) -> Pairs:
        """Open finished pairs.

        Raises:
            MissingError: They are absent or not finished.
            FormatError: They are damaged.
            MismatchError: Their parts do not belong together.
        """
        path = Path(path)
        if (path / "manifest.json").is_file() and not (path / CAPTIONS).is_file():
            message = f"is a token store without captions ({CAPTIONS})"
            hint = "make images with captions by `arrag train pairs`"
            raise MissingError(message, path=path, hint=hint)
        manifest = read_model(path / PAIRS, PairsManifest, "run `arrag train pairs` again")
        hint = "delete the folder and run `arrag train pairs` again"
        sha256 = manifest.captions_sha256
        check_file(path / CAPTIONS, says=PAIRS, remedy=hint, sha256=sha256)
        pairs = cls(path, manifest, _read_captions(path / CAPTIONS))
        if pairs.store.digest != manifest.store_digest:
            found = f"is {manifest.store_digest}, that of the store is {pairs.store.digest}"
            raise MismatchError(found, path=path / PAIRS, field="store_digest", hint=hint)
        return pairs


def make_pairs(
    source: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    count: int,
    held_out: int,
    seed: int = 0,
    first_held_out: int | None = None,
    assets: str | Path | None = None,
    exclude: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> dict[str, Any]:
    """Sample, encode and write pairs; continues after a kill.

    Of a folder or tars, the images with a caption are sampled by ``seed``. Of the endless micro
    world, the first ``count`` scenes are trained on. A held-out image equal to one trained on is
    dropped.

    Args:
        source, assets, exclude, batch_size, workers: As of ``encode_source``.
        checkpoint: Of the image tokenizer.
        out: Folder to write.
        count: Pairs to train on.
        held_out: Further pairs to measure the loss on.
        seed: Of the sampling.
        first_held_out: Number of the first held-out scene of the micro world; None is ``count``.

    Returns:
        How many pairs were made, of each kind.

    Raises:
        ArragError: The source has too few images with captions.
    """
    out = Path(out)
    if source.partition(":")[0] == "micro":
        begin = count if first_held_out is None else first_held_out
        if begin < count:
            found = f"scenes from {begin} on would be held out, but {count} are trained on"
            raise UsageError(found, field=source, hint="hold out later ones")
        numbers = [*range(count), *range(begin, begin + held_out)]
        captions = _micro_captions(source, numbers, assets)
        last, held = begin + held_out, set(list(captions)[count:])
    else:
        everything, last = find_captions(source), None
        keys = list(everything)
        if len(keys) < count + held_out:
            found = f"{len(keys)} images have a caption, {count} + {held_out} are needed"
            raise MissingError(found, path=source, hint=f"ask for fewer, or {ADVICE}")
        chosen = np.random.default_rng(seed).permutation(len(keys))[: count + held_out]
        held = {keys[i] for i in chosen[count:]}
        captions = {keys[i]: everything[keys[i]] for i in np.sort(chosen)}
    encoded = encode_source(
        source, checkpoint, out, batch_size=batch_size, limit=last, assets=assets,
        exclude=exclude, workers=workers, only=captions.keys(),
    )  # fmt: skip
    store = TokenStore.open(out)
    keys = [store.keys(i) for i in range(len(store))]
    lines = [json.dumps({"key": k, "caption": captions[k]}, ensure_ascii=False) for k in keys]
    write_text(out / CAPTIONS, "".join(line + "\n" for line in lines))
    measured, dropped = _distinct(store, [i for i, key in enumerate(keys) if key in held])
    about = {
        "format": FORMAT,
        "source": source,
        "seed": seed,
        "held_out": measured,
        "dropped": dropped,
        "captions_sha256": sha256_file(out / CAPTIONS),
        "store_digest": store.digest,
    }
    write_json(out / PAIRS, about)
    trained = len(store) - len(measured) - len(dropped)
    return {**encoded, "train": trained, "held_out": len(measured), "dropped": len(dropped)}


def _read_captions(path: Path) -> list[str]:
    """One caption a line."""
    captions = []
    for number, line in numbered_lines(read_text(path, "the file of captions")):
        try:
            captions.append(parse_json(line)["caption"])
        except (ValueError, LookupError, TypeError) as error:
            found = f"has no caption ({short_message(error)})"
            raise FormatError(found, path=path, field=f"line {number}") from None
    return captions


def find_captions(source: str) -> dict[str, str]:
    """Map the keys of a source's captioned images to their captions, in the source's order.

    Args:
        source: A folder, a tar or a brace pattern of tars.

    Raises:
        MissingError: No image has a caption.
    """
    texts, captions = {}, {}
    for key, load in _caption_files(source):
        stem, suffix = key.rsplit(".", 1)
        where = key if source.endswith(TARS) else f"{source}/{key}"
        texts[stem] = _caption(load(), suffix, where)
    for key, _ in open_source(source, None, None):
        stem = str(PurePosixPath(key).with_suffix(""))
        if text := texts.get(stem, "").strip():
            captions[key] = text
    if not captions:
        raise MissingError("no image has a caption", path=source, hint=ADVICE)
    return captions


def _caption_files(source: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Caption files of a folder or of tars: keys like those of their images, and their contents."""
    if source.endswith(TARS):
        wanted = partial(members, wanted=lambda name: name.endswith(CAPTION_SUFFIXES))
        yield from chain_files(matching_files(source), wanted)
    else:
        for suffix in CAPTION_SUFFIXES:
            for path in sorted(Path(source).rglob(f"*{suffix}")):
                yield str(path.relative_to(source)), path.read_bytes


def _caption(data: bytes, suffix: str, where: str) -> str:
    """The caption in a caption file, "" if it has none."""
    try:
        text = data.decode("utf-8")
        if suffix == "txt":
            return text
        fields = parse_json(text)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        raise FormatError(f"not a caption ({error})", path=where, hint="correct it") from None
    found = [fields[f] for f in FIELDS if isinstance(fields, dict) and f in fields]
    return str(found[0]) if found else ""


def _micro_captions(
    source: str, numbers: Iterable[int], assets: str | Path | None
) -> dict[str, str]:
    from arrag.data.micro.world import World

    split = source.partition(":")[2] or "database"
    next(open_source(source, 1, assets))  # its errors are about the split and the assets
    world = World(assets, split)
    return {f"{split}/{i}": world.scene(i).caption for i in numbers}


def _distinct(store: TokenStore, held: list[int]) -> tuple[list[int], list[int]]:
    """Split held-out pairs into those to measure with and those whose image is trained on too."""
    inside = set(held)
    grids = (grid for shard in store.shards for grid in shard)
    trained = {grid.tobytes() for i, grid in enumerate(grids) if i not in inside}
    same = {i for i in held if store.grids(np.array([i]))[0].tobytes() in trained}
    return [i for i in held if i not in same], sorted(same)
