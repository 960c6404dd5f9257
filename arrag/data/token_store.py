"""Token-grid shards: the only truth of a retrieval database.

A key of the database is a function of the codes that already stand in the grids, so nothing but
the grids is kept: two bytes a patch, lossless. A store is a directory:

    shard-00000.npy            uint16 [n, H, W], memory-mapped
    shard-00000.keys.json      n strings that name the images
    codebook.safetensors       "codebook": float32 [V, d]
    manifest.json              what the above holds, with sizes and SHA-256; written last
    writing.json               the same, for the shards done so far; it stays, since
                               Snakemake deletes the manifest of a job whose end it missed
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from arrag.data.store_format import (
    CODEBOOK,
    FORMAT,
    HEAD,
    MANIFEST,
    WRITING,
    Names,
    check_codes,
    check_listed,
    checked_codebook,
    content_digests,
    load_codebook,
    open_shard,
    read_names,
)
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json
from arrag.utils.hashing import sha256_file, store_digest
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import misfit
from arrag.utils.resource_errors import disk_space


class StoreWriter:
    """Write a store shard by shard; a killed writer goes on after its last whole shard.

    path: directory, made if need be. tokenizer_digest: of the codes' tokenizer. grid: (H, W).
    codebook: float [V, d], array or tensor. source: JSON-able description of the images.
    shard_size: images a shard from here on; it may change between runs.

    Reopening a path written with another of the former raises ArragError. Usage: skip the first
    ``writer.done`` images, ``add`` the others in the same order, ``close``; or use it as a context
    manager, which closes when the block succeeds. How often it was killed, and the shards' sizes,
    leave no trace in the digest of the store.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tokenizer_digest: str,
        grid: tuple[int, int],
        codebook: Any,
        source: Any,
        shard_size: int,
    ) -> None:
        self.path = Path(path)
        vectors = checked_codebook(codebook)
        if shard_size < 1:
            raise ArragError(f"store {path}: shard_size is {shard_size}; use 1 or more")
        self._header = {
            "format": FORMAT,
            "tokenizer_digest": tokenizer_digest,
            "grid": [int(side) for side in grid],
            "codebook": {
                "codes": len(vectors),
                "dimension": vectors.shape[1],
                "sha256": hashlib.sha256(vectors.tobytes()).hexdigest(),
            },
            "source": json.loads(json.dumps(source)),  # as it will be read back
        }
        self._shard_size = shard_size
        self._shards: list[dict[str, Any]] = []
        self._keys: list[str] = []
        self._names = Names()
        self._grids: list[np.ndarray] = []
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(".*.tmp"):
            shutil.rmtree(leftover)
        self._complete = (self.path / MANIFEST).exists()
        if self._complete or (self.path / WRITING).exists():
            self._resume(read_json(self.path / (MANIFEST if self._complete else WRITING), HEAD))
        else:
            with disk_space(self.path):
                with atomic_path(self.path / CODEBOOK) as temporary:
                    temporary.write_bytes(save({"codebook": vectors}))
                write_json(self.path / WRITING, self._state())

    @property
    def done(self) -> int:
        """Images in the shards that are on disk."""
        return sum(shard["images"] for shard in self._shards)

    @property
    def complete(self) -> bool:
        """Whether the manifest is written; then nothing can be added."""
        return self._complete

    @property
    def last_key(self) -> str | None:
        """Name of the last image on disk."""
        return read_names(self.path, self._shards[-1])[-1] if self._shards else None

    def add(self, keys: Sequence[str], grids: np.ndarray) -> None:
        """Append images: n names and their codes, integer [n, H, W] below V.

        Raises ArragError for another grid, a code outside the codebook, a name that is there
        already, or a finished store.
        """
        grids = np.asarray(grids)
        height, width = self._header["grid"]
        if grids.dtype.kind not in "ui" or grids.shape != (len(keys), height, width):
            raise ArragError(
                f"store {self.path}: expected whole numbers of shape "
                f"{[len(keys), height, width]} for {len(keys)} keys, "
                f"found {grids.dtype} {list(grids.shape)}; encode with the store's tokenizer"
            )
        check_codes(grids, self._header["codebook"]["codes"], f"store {self.path}")
        if self._complete and len(keys):
            raise ArragError(
                f"store {self.path}: {MANIFEST} says it is finished with {self.done} images; "
                "write to another path or delete it"
            )
        keys = [str(key) for key in keys]
        self._refuse_repeats(keys)
        self._keys.extend(keys)
        self._grids.append(grids.astype(np.uint16))
        with disk_space(self.path):
            while len(self._keys) >= self._shard_size:
                self._flush(self._shard_size)

    def close(self) -> None:
        """Write the last, shorter shard and the manifest; an empty store raises ArragError."""
        if self._complete:
            return
        with disk_space(self.path):
            if self._keys:
                self._flush(len(self._keys))
            if not self._shards:
                raise ArragError(f"store {self.path}: no image was added; check the source")
            write_json(
                self.path / MANIFEST,
                {**self._state(), "content": content_digests(self.path, self._shards)},
            )
        self._complete = True

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()

    def _state(self) -> dict[str, Any]:
        return {**self._header, "images": self.done, "shards": self._shards}

    def _resume(self, state: dict[str, Any]) -> None:
        for field, ours in self._header.items():
            if state.get(field) != ours:
                raise ArragError(
                    f"store {self.path}: was written with {field} {state.get(field)!r}, "
                    f"this run has {ours!r}; write to another path or delete the store"
                )
        self._shards = state["shards"]
        for shard in self._shards:
            check_listed(self.path / shard["file"], size=shard["bytes"])
            if not self._complete:
                self._names.add(read_names(self.path, shard))

    def _refuse_repeats(self, keys: list[str]) -> None:
        """A name stands for one image: by it a training image is kept from retrieving itself."""
        suspects = set(self._names.add(keys))
        if not suspects:
            return
        stored = (key for shard in self._shards for key in read_names(self.path, shard))
        earlier = suspects.intersection(stored) | suspects.intersection(self._keys)
        for number, key in enumerate(keys):
            if key in suspects and (key in earlier or key in keys[:number]):
                raise ArragError(
                    f"store {self.path}: two images are named {key!r}; give every image of the "
                    "source a name of its own"
                )

    def _flush(self, count: int) -> None:
        grids = np.concatenate(self._grids)
        keys, self._keys = self._keys[:count], self._keys[count:]
        self._grids = [grids[count:]]
        name = f"shard-{len(self._shards):05d}"
        file, names = self.path / f"{name}.npy", self.path / f"{name}.keys.json"
        with atomic_path(file) as temporary:
            np.save(temporary, grids[:count])
        write_json(names, keys)
        self._shards.append(
            {
                "file": file.name,
                "images": count,
                "bytes": file.stat().st_size,
                "sha256": sha256_file(file),
                "keys": names.name,
                "keys_sha256": sha256_file(names),
            }
        )
        write_json(self.path / WRITING, self._state())  # a shard counts once it is listed here


def _unsound(manifest: dict[str, Any]) -> str | None:
    """What the numbers of a manifest of the right form contradict."""
    if len(manifest["grid"]) != 2 or min(manifest["grid"]) < 1:
        return f"grid is {manifest['grid']}, wanted two numbers of 1 or more"
    held = [shard["images"] for shard in manifest["shards"]]
    if not held or min(held) < 1 or sum(held) != manifest["images"]:
        return f"images is {manifest['images']}, its shards hold {sum(held)}"
    return None


class TokenStore:
    """A finished store, read through memory maps. Open it with ``TokenStore.open``.

    manifest: dict. grid: (H, W). codebook: float32 [V, d]. tokenizer_digest, digest: hex SHA-256,
    of the tokenizer and of the codes, names and codebook, however they are cut into shards.
    shards: read-only memmaps, uint16 [n, H, W]. starts: int64 [shards + 1], first image of each.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], codebook: np.ndarray) -> None:
        self.path, self.manifest, self.codebook = path, manifest, codebook
        self.grid: tuple[int, int] = tuple(manifest["grid"])
        self.tokenizer_digest: str = manifest["tokenizer_digest"]
        self.digest = store_digest(manifest)
        self.shards = [open_shard(path, shard, self.grid) for shard in manifest["shards"]]
        self.starts = np.cumsum([0] + [len(shard) for shard in self.shards])  # [shards + 1]
        self._cached_keys: tuple[int, list[str]] = (-1, [])

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> TokenStore:
        """Open a store; ``verify`` also reads every byte and compares the SHA-256.

        Raises ArragError for a missing, unfinished, truncated or (with ``verify``) altered store.
        """
        path = Path(path)
        if (path / WRITING).exists() and not (path / MANIFEST).exists():
            raise ArragError(
                f"store {path}: not finished ({WRITING} without {MANIFEST}); "
                "run the encoding again, it goes on where it stopped"
            )
        manifest = read_json(path / MANIFEST, {})
        if manifest.get("format") != FORMAT:
            raise ArragError(
                f"{path / MANIFEST}: format is {manifest.get('format')!r}, this version of arrag "
                f"reads {FORMAT}; encode the images again"
            )
        if problem := misfit(manifest, {**HEAD, "content": dict}) or _unsound(manifest):
            raise ArragError(f"{path / MANIFEST}: {problem}; encode the images again")
        for shard in manifest["shards"]:
            check_listed(path / shard["file"], size=shard["bytes"])
            if verify:
                check_listed(path / shard["file"], sha256=shard["sha256"])
                check_listed(path / shard["keys"], sha256=shard["keys_sha256"])
        return cls(path, manifest, load_codebook(path / CODEBOOK, manifest["codebook"]["sha256"]))

    def __len__(self) -> int:
        """Number of images."""
        return int(self.starts[-1])

    def keys(self, image: int) -> str:
        """Name of an image, 0 <= image < len(store)."""
        shard, row = self._locate(image)
        if self._cached_keys[0] != shard:
            names = read_names(self.path, self.manifest["shards"][shard])
            self._cached_keys = (shard, names)
        return self._cached_keys[1][row]

    def grids(self, images: np.ndarray) -> np.ndarray:
        """Codes of some images, in the order given: uint16 [len(images), H, W], a copy."""
        images = np.asarray(images, dtype=np.int64)
        found = np.empty((len(images), *self.grid), np.uint16)
        which = np.searchsorted(self.starts, images, side="right") - 1
        for shard in np.unique(which):
            here = which == shard
            found[here] = self.shards[shard][images[here] - self.starts[shard]]
        return found

    def _locate(self, image: int) -> tuple[int, int]:
        if not 0 <= image < len(self):
            raise IndexError(f"image {image} of a store of {len(self)}")
        shard = int(np.searchsorted(self.starts, image, side="right")) - 1
        return shard, int(image - self.starts[shard])


def merge_stores(parts: Sequence[TokenStore], out: str | Path) -> TokenStore:
    """A store of all images of some stores, one store after the other.

    The shard files are hard links where the file system has them, copies elsewhere. Raises
    ArragError for stores of another tokenizer, grid or codebook (naming both), or an ``out`` that
    is there already.
    """
    out = Path(out)
    if out.exists():
        raise ArragError(f"store {out}: exists already; write to another path or delete it")
    head = parts[0].manifest
    for part in parts[1:]:
        for field in ("tokenizer_digest", "grid", "codebook"):
            if part.manifest[field] != head[field]:
                raise ArragError(
                    f"store {part.path}: its {field} is {part.manifest[field]}, that of "
                    f"{parts[0].path} is {head[field]}; encode both with the same tokenizer"
                )
    with atomic_path(out) as path, disk_space(out):
        path.mkdir()
        shards, sources = [], []
        for part in parts:
            for about in part.manifest["shards"]:
                name = f"shard-{len(shards):05d}"
                renamed = {"file": f"{name}.npy", "keys": f"{name}.keys.json"}
                for field, new in renamed.items():
                    _link(part.path / about[field], path / new)
                shards.append({**about, **renamed})
                sources.append({**about, **{field: part.path / about[field] for field in renamed}})
        _link(parts[0].path / CODEBOOK, path / CODEBOOK)
        manifest = {
            "format": FORMAT,
            **{field: head[field] for field in ("tokenizer_digest", "grid", "codebook")},
            "source": {"merged": [part.manifest["source"] for part in parts]},
            "images": sum(len(part) for part in parts),
            "shards": shards,
            "content": content_digests(Path(), sources),
        }
        write_json(path / MANIFEST, manifest)
    return TokenStore.open(out)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
