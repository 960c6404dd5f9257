"""Retrieval for training, done once: the nearest patches of every position of every pair.

    shard-00000.npy   uint16 [n, N, K]: codes, nearest first; ABSENT where there is none
    manifest.json     what was searched for and where, and the shards; written last
    writing.json      the same for the shards done so far, while they are being written

An image never retrieves itself: the database's images of the same name or the very same codes are
left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from arrag.errors import ArragError
from arrag.files import atomic_path, check_file, disk_space, read_json, sha256_file, write_json
from arrag.index import PatchIndex
from arrag.store import MAX_CODES, TokenStore
from arrag.training.pairs import Pairs

FORMAT = 1
ABSENT = MAX_CODES
MANIFEST, WRITING = "manifest.json", "writing.json"
SHARD_IMAGES = 256
BATCH = 8
SLACK = 8
"""Patches fetched beyond k at first, for those of the image itself."""


def precompute(
    pairs: Pairs, index: PatchIndex, out: str | Path, k: int, *, shard_images: int = SHARD_IMAGES
) -> dict[str, Any]:
    """Write the ``k`` nearest patches of all pairs below ``out``; goes on after a kill.

    Raises ArragError for another tokenizer, an index whose entries cannot be traced to images, or
    a folder begun with other settings.
    """
    out = Path(out)
    header = {
        "format": FORMAT,
        "pairs_digest": pairs.digest,
        "index_digest": index.digest,
        "database_digest": index.store.digest,
        "k": k,
        "shape": [pairs.store.grid[0] * pairs.store.grid[1], k],
    }
    _check(pairs, index, k)
    if (out / MANIFEST).is_file():
        return _begun(out / MANIFEST, header)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.tmp"):
        shutil.rmtree(leftover)
    shards = _begun(out / WRITING, header)["shards"] if (out / WRITING).is_file() else []
    own = own_images(pairs.store, index.store)
    done, total = sum(shard["images"] for shard in shards), len(pairs.store)
    with tqdm(desc="retrieve", total=total, initial=done, unit="image") as bar, disk_space(out):
        while done < total:
            images = np.arange(done, min(done + shard_images, total))
            found = [
                nearest_others(index, pairs.store.grids(part), [own(i) for i in part], k)
                for part in _timed(np.split(images, range(BATCH, len(images), BATCH)), bar)
            ]
            shards.append(_write_shard(out, len(shards), np.concatenate(found)))
            done += len(images)
            write_json(out / WRITING, {**header, "shards": shards})
    manifest = {**header, "shards": shards}
    write_json(out / MANIFEST, manifest)
    (out / WRITING).unlink(missing_ok=True)
    return manifest


def nearest_others(
    index: PatchIndex, grids: np.ndarray, own: Sequence[np.ndarray], k: int
) -> np.ndarray:
    """Codes of the k nearest patches of every position that are not of the image itself.

    grids: [B, H, W]; own: for each of them the database's images to leave out. Returns uint16
    [B, N, k], ABSENT where fewer were found: exactly what a search of the database without those
    images would find (of an index with lists: in the lists that it visits).
    """
    codes = torch.from_numpy(grids.astype(np.int64))
    known = torch.ones_like(codes, dtype=torch.bool)  # what is not a neighbour is not looked at
    size = codes.shape[1] * codes.shape[2]
    positions, entries = torch.arange(size), index.meta["entries"]
    # No more of an entry's rivals can be the image's own than it has patches.
    enough = min(k + size * max((len(o) for o in own), default=0), entries)
    fetch = min(k + SLACK, enough)
    while True:
        found = index.search(codes, known, positions, fetch)
        entry, code = found.entries.numpy(), found.codes.numpy()  # [B, N, fetch]
        image = np.where(entry < 0, -1, entry // size)
        keep = np.stack([~np.isin(i, o) for i, o in zip(image, own, strict=True)]) & (entry >= 0)
        short = (keep.sum(-1) < k) & (entry[..., -1] >= 0)
        if fetch == enough or not short.any():
            break
        fetch = min(4 * fetch, enough)
    order = np.argsort(~keep, axis=-1, kind="stable")  # those kept first, in their order
    code = np.take_along_axis(np.where(keep, code, ABSENT), order, -1)[..., :k]
    missing = k - code.shape[-1]
    return np.pad(code, ((0, 0), (0, 0), (0, missing)), constant_values=ABSENT).astype(np.uint16)


def own_images(pairs: TokenStore, database: TokenStore) -> Callable[[int], np.ndarray]:
    """A function: number of a pair -> numbers of the database's images that are the same image."""
    names = {pairs.keys(i): i for i in range(len(pairs))}
    grids: dict[bytes, list[int]] = {}
    for i in range(len(pairs)):
        grids.setdefault(pairs.grids(np.array([i]))[0].tobytes(), []).append(i)
    found: dict[int, set[int]] = {}
    number = 0
    for shard in database.shards:
        for grid in shard:
            same = set(grids.get(grid.tobytes(), ()))
            if (named := names.get(database.keys(number))) is not None:
                same.add(named)
            for pair in same:
                found.setdefault(pair, set()).add(number)
            number += 1
    return lambda pair: np.array(sorted(found.get(pair, ())), np.int64)


class Neighbours:
    """Finished retrieval of some pairs. Open it with ``Neighbours.open``.

    k: patches a position; manifest: what was searched for and where.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest, self.k = path, manifest, manifest["k"]
        self._shards = [
            np.load(path / shard["file"], mmap_mode="r", allow_pickle=False)
            for shard in manifest["shards"]
        ]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    @classmethod
    def open(cls, path: str | Path, pairs: Pairs, k: int, index_digest: str) -> Neighbours:
        """ArragError if unfinished, of other pairs or index, or with fewer than k patches."""
        path = Path(path)
        again = "run `arrag train retrieve` again"
        if (path / WRITING).is_file() and not (path / MANIFEST).is_file():
            raise ArragError(f"{path}: not finished ({WRITING} without {MANIFEST}); {again}")
        manifest = read_json(path / MANIFEST)
        ours = {"format": FORMAT, "pairs_digest": pairs.digest, "index_digest": index_digest}
        for field, wanted in ours.items():
            if manifest.get(field) != wanted:
                raise ArragError(
                    f"{path / MANIFEST}: {field} is {manifest.get(field)}, but {wanted} is in use; "
                    f"{again} with these pairs and this index"
                )
        if manifest["k"] < k:
            raise ArragError(
                f"{path / MANIFEST}: k is {manifest['k']}, but {k} patches a position are wanted; "
                f"{again} with -k {k}, or train with fewer"
            )
        for shard in manifest["shards"]:
            check_file(path / shard["file"], says=MANIFEST, remedy=again, size=shard["bytes"])
        return cls(path, manifest)

    def codes(self, images: np.ndarray, k: int) -> torch.Tensor:
        """The first k patches of some pairs: int64 [B, N, k], -1 where absent."""
        which = np.searchsorted(self._starts, images, side="right") - 1
        rows = [self._shards[w][i - self._starts[w]] for w, i in zip(which, images, strict=True)]
        codes = np.stack(rows)[..., :k].astype(np.int64)
        return torch.from_numpy(np.where(codes == ABSENT, -1, codes))


def _check(pairs: Pairs, index: PatchIndex, k: int) -> None:
    if pairs.store.tokenizer_digest != index.store.tokenizer_digest:
        raise ArragError(
            f"{pairs.path}: its tokenizer is {pairs.store.tokenizer_digest}, the database's "
            f"{index.store.tokenizer_digest}; encode both with the generator's tokenizer"
        )
    if index.meta["mode"] == "official":
        raise ArragError(
            "index: mode is 'official', whose entries name no image, so that an image could not be "
            "kept from retrieving itself; build an index over your own store"
        )
    if not 1 <= k <= index.meta["entries"]:
        raise ArragError(
            f"-k: found {k}; wanted 1 to {index.meta['entries']}, the entries of the index"
        )


def _begun(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    state = read_json(path)
    for field, ours in header.items():
        if state.get(field) != ours:
            raise ArragError(
                f"{path}: {field} is {state.get(field)}, this run has {ours}; write to another "
                "folder or delete this one"
            )
    for shard in state["shards"]:
        remedy = f"delete {path.parent} and run `arrag train retrieve` again"
        check_file(path.parent / shard["file"], says=path.name, remedy=remedy, size=shard["bytes"])
    return state


def _write_shard(out: Path, number: int, codes: np.ndarray) -> dict[str, Any]:
    file = out / f"shard-{number:05d}.npy"
    with atomic_path(file) as partial, open(partial, "wb") as handle:
        np.save(handle, codes)
    size, digest = file.stat().st_size, sha256_file(file)
    return {"file": file.name, "images": len(codes), "bytes": size, "sha256": digest}


def _timed(parts, bar):
    for part in parts:
        yield part
        bar.update(len(part))
