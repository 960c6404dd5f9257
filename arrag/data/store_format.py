"""The files of a token store, for its writer and its reader (``arrag.data.token_store``)::

shard-00000.npy            uint16 [n, H, W], memory-mapped
shard-00000.keys.json      n strings that name the images
codebook.safetensors       "codebook": float32 [V, d]
skipped.json               images that could not be read, and why
excluded.json              images left out because they are copies of test images
manifest.json              a ``StoreManifest``; written last
manifest.partial.json      what the shards are of, for a killed writer
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, NonNegativeInt, PositiveInt, model_validator
from safetensors.numpy import load_file

from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import read_model
from arrag.utils.hashing import check_file
from arrag.utils.readers import read_npy, short_message
from arrag.utils.shards import FINAL, PARTIAL, FileName, ShardFile

FORMAT = 1
MANIFEST, PARTIAL_MANIFEST, CODEBOOK = FINAL, PARTIAL, "codebook.safetensors"
SKIPPED, EXCLUDED = "skipped.json", "excluded.json"
AGAIN = "delete the store and encode the images again"
MAX_CODES = 65535
"""uint16 holds the codes, and the search needs one more value for a missing neighbour."""


class StoreShard(ShardFile):
    """A shard of codes with the file of its images' names."""

    images: PositiveInt
    keys: FileName
    keys_sha256: str

    def check(self, folder: Path, hint: str = AGAIN, *, full: bool = False) -> None:
        """Raise ArragError unless the files are as listed; ``full`` compares the SHA-256 too."""
        super().check(folder, hint, full=full)
        if full:
            check_file(folder / self.keys, says=MANIFEST, remedy=hint, sha256=self.keys_sha256)


class _Omitted(BaseModel):
    """An image of the source that is not in the store; its other fields say why."""

    model_config = ConfigDict(extra="allow")
    key: str


def read_omitted(path: Path) -> list[dict[str, Any]]:
    """The entries of ``skipped.json`` or ``excluded.json``; none if there is no such file."""
    if not path.is_file():
        return []
    return [image.model_dump() for image in read_model(path, list[_Omitted])]


class CodebookInfo(BaseModel):
    """Shape and SHA-256 of the float32 vectors of a codebook."""

    codes: NonNegativeInt
    dimension: NonNegativeInt
    sha256: str


class StoreManifest(BaseModel):
    """``manifest.json`` of a token store.

    The store's digest covers all fields but ``source`` and ``shards``: it names the content,
    however it is divided into shards and wherever it comes from.
    """

    format: Literal[FORMAT]
    tokenizer_digest: str
    grid: tuple[PositiveInt, PositiveInt]
    codebook: CodebookInfo
    source: JsonValue
    images: PositiveInt
    shards: list[StoreShard]
    content: dict[str, str]

    @model_validator(mode="after")
    def _shards_hold_the_images(self) -> StoreManifest:
        if self.images != (held := sum(shard.images for shard in self.shards)):
            raise ValueError(f"images is {self.images}, the shards hold {held}")
        return self


class DuplicateFilter:
    """A set of names that needs eight bytes a name: a database has millions.

    Hashes in sorted runs, each more than twice as long as the next, so that adding stays cheap.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, names: Sequence[str]) -> list[str]:
        """Add names; returns those that may have been added before (two may share a hash)."""
        hashes = np.array([_hash(name) for name in names], np.uint64)
        order = np.argsort(hashes, kind="stable")
        run = hashes[order]
        met = np.zeros(len(run), bool)
        met[1:] = run[1:] == run[:-1]
        for older in self._runs:
            at = np.searchsorted(older, run)
            met |= older[np.minimum(at, len(older) - 1)] == run
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)
        return [names[i] for i in order[met]]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def content_digests(shards: Iterable[tuple[Path, Path]]) -> dict[str, str]:
    """SHA-256 of all codes and of all names, given each shard's files of codes and names."""
    codes, names = hashlib.sha256(), hashlib.sha256()
    for file, keys in shards:
        codes.update(read_npy(file, AGAIN, "u", 3))
        for key in read_model(keys, list[str]):
            names.update(json.dumps(key).encode() + b"\n")
    return {"codes_sha256": codes.hexdigest(), "keys_sha256": names.hexdigest()}


def read_names(path: Path, shard: Mapping[str, Any]) -> list[str]:
    """Read the names of a shard's images; MismatchError unless there is one for each."""
    file, images = path / shard["keys"], shard["images"]
    names = read_model(file, list[str])
    if len(names) != images:
        raise MismatchError(f"{len(names)} names for {images} images", path=file, hint=AGAIN)
    return names


def open_shard(path: Path, shard: Mapping[str, Any], grid: tuple[int, int]) -> np.ndarray:
    """Memory-map the codes of a shard: uint16 [n, H, W]."""
    file, expected = path / shard["file"], (shard["images"], *grid)
    codes = read_npy(file, AGAIN, "u", 3)
    if codes.dtype != np.uint16 or codes.shape != expected:
        message = f"expected uint16 {list(expected)}, found {codes.dtype} {list(codes.shape)}"
        raise MismatchError(message, path=file, hint=AGAIN)
    return codes


def check_codes(grids: np.ndarray, codes: int, where: str | Path) -> None:
    """Raise MismatchError unless every code of integer [n, H, W] is in [0, codes)."""
    if grids.size and (int(grids.max()) >= codes or int(grids.min()) < 0):
        image, row, column = np.argwhere((grids >= codes) | (grids < 0))[0]
        raise MismatchError(
            f"image {image}, row {row}, column {column} holds code {grids[image, row, column]}, "
            f"but the codebook has {codes}",
            path=where,
            hint="encode the images again with the tokenizer of this store",
        )


def checked_codebook(codebook: Any) -> np.ndarray:
    """Convert an array or tensor to float32 [V, d].

    Raises:
        FormatError: It is not finite, not two-dimensional, or has more than MAX_CODES rows.
    """
    vectors = torch.as_tensor(codebook).detach().cpu().float().contiguous().numpy()
    finite = bool(np.isfinite(vectors).all())
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_CODES or not finite:
        expected = f"expected finite numbers of shape [codes <= {MAX_CODES}, dimension]"
        found = f"found shape {list(vectors.shape)}, finite: {finite}"
        raise FormatError(f"{expected}, {found}", field="codebook")
    return vectors


def load_codebook(path: Path, sha256: str) -> np.ndarray:
    """Read the float32 [V, d] vectors, whose SHA-256 must be ``sha256``."""
    try:
        vectors = load_file(path)["codebook"]
    except Exception as error:  # safetensors has its own error types, one a kind of damage
        raise FormatError(
            f"cannot be read ({short_message(error)})", path=path, hint=AGAIN
        ) from None
    checked_codebook(vectors)
    if (found := hashlib.sha256(vectors.tobytes()).hexdigest()) != sha256:
        message = f"SHA-256 of the vectors is {found}, {MANIFEST} says {sha256}"
        raise MismatchError(message, path=path, hint=AGAIN)
    return vectors
