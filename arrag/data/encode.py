"""Encode sources of images into token stores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arrag.data.decontamination import Decontaminator
from arrag.data.images import Decoded, decode_all
from arrag.data.sources import ADVICE, Items, open_source
from arrag.data.store_format import EXCLUDED, SKIPPED, read_omitted
from arrag.data.subsample import SubsampleSpec
from arrag.data.token_store import StoreWriter
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.device import default_device
from arrag.utils.errors import MismatchError, MissingError
from arrag.utils.files import write_json
from arrag.utils.globs import is_tars
from arrag.utils.hashing import sha256_json
from arrag.utils.resource_errors import disk_space


def encode_source(
    source: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    batch_size: int = 64,
    shard_size: int = 1000,
    limit: int | None = None,
    assets: str | Path | None = None,
    exclude: Sequence[str | Path] = (),
    workers: int = 0,
    only: Collection[str] | None = None,
    subsample: SubsampleSpec | None = None,
) -> dict:
    """Encode every image of a source into a token store.

    A killed run continues at the first shard that is not whole, without decoding again the images
    of the others. An unreadable image is listed in ``skipped.json``, a copy of an image to exclude
    in ``excluded.json``, each with the reason.

    Args:
        source, limit, assets: See ``open_source``.
        checkpoint: The tokenizer.
        out: Directory of the store.
        batch_size, shard_size: Images encoded at once, and images of a shard.
        exclude: Sources of test images whose copies are left out.
        workers: Processes that decode; their number changes nothing in the store.
        only: Keys of the images wanted; the others are not read.
        subsample: The subsample of a corpus that an image must be in.

    Returns:
        The numbers of images stored, skipped and excluded, the grid and the store.
    """
    tokenizer = load_tokenizer(checkpoint, default_device())
    items = open_source(source, limit, assets)
    if only is not None:
        items = ((key, load) for key, load in items if key in only)
    if subsample is not None:
        tars = is_tars(source)
        items = ((key, load) for key, load in items if subsample.contains(key, tars))
    tests = Decontaminator.load(exclude) if exclude else None
    with (
        disk_space(out),
        StoreWriter(
            out,
            tokenizer_digest=tokenizer.digest,
            grid=tokenizer.grid,
            codebook=tokenizer.codebook.numpy(),
            source=_describe(source, limit, tests, only, subsample),
            shard_size=shard_size,
        ) as writer,
    ):
        omitted = _Omitted(Path(out), tests)
        images = decode_all(
            _after(items, writer, omitted),
            tokenizer.image_size,
            fingerprints=tests is not None,
            workers=workers,
        )
        kept, stored = omitted.filter(images), writer.done
        total = limit if only is None else len(only)
        with tqdm(desc=f"encode {source}", unit="image", initial=stored, total=total) as bar:
            while batch := list(islice(kept, batch_size)):
                codes = tokenizer.encode(np.stack([image.pixels for image in batch])).numpy()
                omitted.write()  # before the shard that they belong to
                writer.add([image.key for image in batch], codes.astype(np.uint16))
                stored += len(batch)
                bar.update(len(batch))
        omitted.write()
        if not stored:
            raise MissingError(
                f"no readable image (skipped {len(omitted.skipped)}, excluded "
                f"{len(omitted.excluded)})",
                path=source,
                hint=ADVICE,
            )
    counts = {"skipped": len(omitted.skipped), "excluded": len(omitted.excluded)}
    return {"images": stored, **counts, "grid": list(tokenizer.grid), "store": str(out)}


class _Omitted:
    """Images left out so far, and why; on disk the lists are never behind the shards."""

    def __init__(self, folder: Path, tests: Decontaminator | None) -> None:
        self.folder, self.tests = folder, tests
        self.skipped, self.excluded = (read_omitted(folder / n) for n in (SKIPPED, EXCLUDED))
        self._written = (len(self.skipped), len(self.excluded))

    def filter(self, images: Iterator[Decoded]) -> Iterator[Decoded]:
        """Images that can be read and are not like a test image."""
        for image in images:
            if image.pixels is None:
                self.skipped.append({"key": image.key, "problem": image.problem})
            elif self.tests and (match := self.tests.match(image.fingerprint)):
                self.excluded.append({"key": image.key, **match})
            else:
                yield image

    def write(self) -> None:
        """Write the lists if they have grown; the one of test images even if it is empty."""
        now = (len(self.skipped), len(self.excluded))
        if now != self._written and self.skipped:
            write_json(self.folder / SKIPPED, self.skipped)
        if self.tests and (now != self._written or not (self.folder / EXCLUDED).exists()):
            write_json(self.folder / EXCLUDED, self.excluded)
        self._written = now


def _after(items: Items, writer: StoreWriter, omitted: _Omitted) -> Items:
    """The items after the last stored one; those before are skipped without being read."""
    recorded = {entry["key"] for entry in omitted.skipped + omitted.excluded}
    passed, stored, key = set(), 0, None
    while stored < writer.done:
        key, _ = next(items, (None, None))
        if key is None:
            break
        if key in recorded:
            passed.add(key)
        else:
            stored += 1
    if key != writer.last_key:
        raise MismatchError(
            f"image {writer.done} of the store is {writer.last_key}, the source has {key} there",
            path=writer.path,
            hint="restore the source, or delete the store and encode again",
        )
    if writer.complete:  # what comes after it has been left out, or is new
        if new := sum(key not in recorded for key, _ in items):
            raise MismatchError(
                f"is finished with {writer.done} images, the source has {new} more",
                path=writer.path,
                hint="encode those into another store and merge",
            )
        return iter(())
    for entries in (omitted.skipped, omitted.excluded):  # what comes later will be read again
        entries[:] = [entry for entry in entries if entry["key"] in passed]
    return items


def _describe(
    source: str,
    limit: int | None,
    tests: Decontaminator | None,
    only: Collection[str] | None,
    subsample: SubsampleSpec | None,
) -> str:
    text = f"{source} ({limit} images)" if limit else source
    if only is not None:
        text = f"{text}, {len(only)} of them {sha256_json(sorted(only))}"
    if subsample is not None:
        of = f"{subsample.images} from {subsample.of} by seed {subsample.seed}"
        text = f"{text}, of a sample of {of}"
    return f"{text} without {len(tests.names)} test images {tests.digest}" if tests else text
