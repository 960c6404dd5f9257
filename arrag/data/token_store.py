"""Token stores: the image tokens of a retrieval database, and nothing derived from them.

A retrieval key is a function of the codes in the grids, so only the grids are kept: two bytes a
patch, without loss. The files are described in ``arrag.data.store_format``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from arrag.data.store_format import (
    CODEBOOK,
    FORMAT,
    MANIFEST,
    PARTIAL_MANIFEST,
    DuplicateFilter,
    StoreManifest,
    StoreShard,
    check_codes,
    checked_codebook,
    content_digests,
    load_codebook,
    open_shard,
    read_names,
)
from arrag.utils.errors import MismatchError, MissingError, OutputError
from arrag.utils.files import read_model, write_json
from arrag.utils.hashing import sha256_file, store_digest
from arrag.utils.shards import ShardWriter


class StoreWriter:
    """Write a token store shard by shard; a killed writer continues after its last whole shard.

    Skip the first ``writer.done`` images, ``add`` the others in the same order, then ``close``; as
    a context manager it closes when the block succeeds. Neither kills nor the size of the shards
    change the digest of the store.

    Args:
        path: Directory, made if need be.
        tokenizer_digest: Digest of the tokenizer that made the codes.
        grid: (H, W).
        codebook: float [V, d], array or tensor.
        source: JSON-able description of the images.
        shard_size: Images a shard from here on; it may change between runs.

    Raises:
        MismatchError: The path was begun with another tokenizer, grid, codebook or source.
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
        codes, dimension = vectors.shape
        sha256 = hashlib.sha256(vectors.tobytes()).hexdigest()
        identity = {
            "format": FORMAT,
            "tokenizer_digest": tokenizer_digest,
            "grid": [int(side) for side in grid],
            "codebook": {"codes": codes, "dimension": dimension, "sha256": sha256},
            "source": source,
        }
        self._writer = ShardWriter(self.path, identity)
        self._grid, self._codes, self._shard_size = tuple(identity["grid"]), codes, shard_size
        self._shards: list[dict[str, Any]] = []  # each with file, keys, images
        self._keys: list[str] = []
        self._grids: list[np.ndarray] = []
        self._names = DuplicateFilter()
        if not (self.path / CODEBOOK).exists():
            self._writer.write(
                self.path / CODEBOOK, lambda file: file.write_bytes(save({"codebook": vectors}))
            )
        self._resume()

    def _resume(self) -> None:
        if self.complete:
            manifest = _checked_manifest(self.path)
            self._shards = [shard.model_dump() for shard in manifest.shards]
            return
        for number in count():
            file, keys = shard_files(self.path, number)
            if not file.is_file():
                return
            names = read_model(keys, list[str])
            shard = {"file": file.name, "keys": keys.name, "images": len(names)}
            open_shard(self.path, shard, self._grid)
            self._shards.append(shard)
            self._names.add(names)

    @property
    def done(self) -> int:
        """Images in the shards that are on disk."""
        return sum(shard["images"] for shard in self._shards)

    @property
    def complete(self) -> bool:
        """Whether the manifest is written; then nothing can be added."""
        return self._writer.complete

    @property
    def last_key(self) -> str | None:
        """Name of the last image on disk."""
        return read_names(self.path, self._shards[-1])[-1] if self._shards else None

    def add(self, keys: Sequence[str], grids: np.ndarray) -> None:
        """Append images.

        Args:
            keys: n names; each is given once in a store.
            grids: Their codes, integer [n, H, W] below V.

        Raises:
            MismatchError: The codes are of another shape or codebook, or a name is there already.
            OutputError: The store is finished.
        """
        grids = np.asarray(grids)
        if grids.dtype.kind not in "ui" or grids.shape != (len(keys), *self._grid):
            raise MismatchError(
                f"expected whole numbers of shape {[len(keys), *self._grid]} for {len(keys)} keys, "
                f"found {grids.dtype} {list(grids.shape)}",
                path=self.path,
                hint="encode with the store's tokenizer",
            )
        check_codes(grids, self._codes, self.path)
        if self.complete and len(keys):
            raise OutputError(
                f"is finished with {self.done} images",
                path=self.path / MANIFEST,
                hint="write to another path or delete the store",
            )
        keys = [str(key) for key in keys]
        self._refuse_repeats(keys)
        self._keys.extend(keys)
        self._grids.append(grids.astype(np.uint16))
        while len(self._keys) >= self._shard_size:
            self._flush(self._shard_size)

    def _refuse_repeats(self, keys: list[str]) -> None:
        """A name identifies one image: by it, training keeps an image from retrieving itself."""
        suspects = set(self._names.add(keys))  # few, if any: two names may share a hash
        stored = (read_names(self.path, shard) for shard in self._shards if suspects)
        earlier = suspects.intersection(self._keys).union(*map(suspects.intersection, stored))
        for number, key in enumerate(keys if suspects else ()):
            if key in suspects and (key in earlier or key in keys[:number]):
                raise MismatchError(
                    f"two images are named {key!r}",
                    path=self.path,
                    hint="give every image of the source its own name",
                )

    def _flush(self, images: int) -> None:
        grids = np.concatenate(self._grids)
        keys, self._keys = self._keys[:images], self._keys[images:]
        self._grids = [grids[images:]]
        file, names = shard_files(self.path, len(self._shards))
        # The names first: the shard counts once its codes are there.
        self._writer.write(names, lambda temporary: write_json(temporary, keys))
        self._writer.write(file, lambda temporary: np.save(temporary, grids[:images]))
        self._shards.append({"file": file.name, "keys": names.name, "images": images})

    def close(self) -> None:
        """Write the last, shorter shard and the manifest.

        Raises:
            MissingError: No image was added.
        """
        if self.complete:
            return
        if self._keys:
            self._flush(len(self._keys))
        if not self._shards:
            raise MissingError("no image was added", path=self.path, hint="check the source")
        files = [shard_files(self.path, number) for number in range(len(self._shards))]
        shards = [
            {**shard, **StoreShard.describe(file), "keys_sha256": sha256_file(keys)}
            for shard, (file, keys) in zip(self._shards, files, strict=True)
        ]
        self._writer.finish(
            {
                **self._writer.identity,
                "images": self.done,
                "shards": shards,
                "content": content_digests(files),
            }
        )

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


def shard_files(path: Path, number: int) -> tuple[Path, Path]:
    """Paths of a shard's codes and of its images' names."""
    return path / f"shard-{number:05d}.npy", path / f"shard-{number:05d}.keys.json"


def _checked_manifest(path: Path, full: bool = False) -> StoreManifest:
    manifest = read_model(path / MANIFEST, StoreManifest, hint="encode the images again")
    for shard in manifest.shards:
        shard.check(path, full=full)
    return manifest


class TokenStore:
    """A finished store, read through memory maps. Open it with ``TokenStore.open``.

    Attributes:
        manifest: Contents of manifest.json.
        grid: (H, W).
        codebook: float32 [V, d].
        tokenizer_digest: Hex SHA-256 of the tokenizer.
        digest: Hex SHA-256 of the codes, names and codebook, however they are divided into shards.
        shards: Read-only memory maps, uint16 [n, H, W].
        starts: int64 [shards + 1], the first image of each shard.
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

        Raises:
            ArragError: The store is missing, unfinished, truncated or (with ``verify``) altered.
        """
        path = Path(path)
        if (path / PARTIAL_MANIFEST).exists() and not (path / MANIFEST).exists():
            raise MissingError(
                f"not finished ({PARTIAL_MANIFEST} without {MANIFEST})",
                path=path,
                hint="run the encoding again, it continues where it stopped",
            )
        manifest = _checked_manifest(path, full=verify)
        codebook = load_codebook(path / CODEBOOK, manifest.codebook.sha256)
        return cls(path, manifest.model_dump(mode="json"), codebook)

    def __len__(self) -> int:
        """Number of images."""
        return int(self.starts[-1])

    def keys(self, image: int) -> str:
        """Name of an image, 0 <= image < len(store)."""
        if not 0 <= image < len(self):
            raise IndexError(f"image {image} of a store of {len(self)}")
        shard = int(np.searchsorted(self.starts, image, side="right")) - 1
        if self._cached_keys[0] != shard:
            names = read_names(self.path, self.manifest["shards"][shard])
            self._cached_keys = (shard, names)
        return self._cached_keys[1][int(image - self.starts[shard])]

    def grids(self, images: np.ndarray) -> np.ndarray:
        """Codes of some images, in the order given: uint16 [len(images), H, W], a copy."""
        images = np.asarray(images, dtype=np.int64)
        found = np.empty((len(images), *self.grid), np.uint16)
        which = np.searchsorted(self.starts, images, side="right") - 1
        for shard in np.unique(which):
            here = which == shard
            found[here] = self.shards[shard][images[here] - self.starts[shard]]
        return found
