"""What the files of a token store are, for its writer and its reader (see
``arrag.data.token_store``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.hashing import check_file
from arrag.utils.readers import FileName, read_npy

FORMAT = 1
MANIFEST, WRITING, CODEBOOK = "manifest.json", "writing.json", "codebook.safetensors"
SKIPPED, EXCLUDED = "skipped.json", "excluded.json"  # images left out of a store, and why
AGAIN = "delete the store and encode the images again"
SHARD = {
    "file": FileName, "images": int, "bytes": int, "sha256": str,
    "keys": FileName, "keys_sha256": str,
}  # fmt: skip
HEAD = {
    "format": int,
    "tokenizer_digest": str,
    "grid": [int],
    "codebook": {"codes": int, "dimension": int, "sha256": str},
    "source": None,
    "images": int,
    "shards": [SHARD],
}
"""The form of ``writing.json``; the manifest's has ``content`` besides."""
MAX_CODES = 65535
"""uint16 holds the codes, and the search needs one more value for a missing neighbour."""


class Names:
    """Which names were met, eight bytes each: a database has millions.

    Hashes in sorted runs, each more than twice as long as the next, so that adding stays cheap.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that may have been met before; two names may share a hash."""
        hashes = np.array([_hash(key) for key in keys], np.uint64)
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
        return [keys[i] for i in order[met]]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def content_digests(path: Path, shards: list[dict[str, Any]]) -> dict[str, str]:
    """SHA-256 of all codes and of all names, however they are cut into shards."""
    codes, names = hashlib.sha256(), hashlib.sha256()
    for shard in shards:
        codes.update(read_npy(path / shard["file"], AGAIN, "u", 3))
        for key in read_names(path, shard):
            names.update(json.dumps(key).encode() + b"\n")
    return {"codes_sha256": codes.hexdigest(), "keys_sha256": names.hexdigest()}


def check_listed(path: Path, **expected: Any) -> None:
    """``check_file`` for a file that the manifest lists."""
    check_file(path, says=MANIFEST, remedy=AGAIN, **expected)


def read_names(path: Path, shard: dict[str, Any]) -> list[str]:
    """The names of a shard's images. ArragError unless there are as many as images."""
    names = read_json(path / shard["keys"], [str])
    if len(names) != shard["images"]:
        raise ArragError(
            f"{path / shard['keys']}: {len(names)} names for {shard['images']} images; {AGAIN}"
        )
    return names


def open_shard(path: Path, shard: dict[str, Any], grid: tuple[int, int]) -> np.ndarray:
    """A shard's codes, uint16 [n, H, W], memory-mapped. ArragError for an array of another form."""
    codes = read_npy(path / shard["file"], AGAIN, "u", 3)
    if codes.dtype != np.uint16 or codes.shape != (shard["images"], *grid):
        raise ArragError(
            f"{path / shard['file']}: holds {codes.dtype} {list(codes.shape)}, {MANIFEST} says "
            f"uint16 {[shard['images'], *grid]}; {AGAIN}"
        )
    return codes


def check_codes(grids: np.ndarray, codes: int, where: str) -> None:
    """Raise ArragError unless every code of integer [n, H, W] lies in [0, codes)."""
    if grids.size and (int(grids.max()) >= codes or int(grids.min()) < 0):
        image, row, column = np.argwhere((grids >= codes) | (grids < 0))[0]
        raise ArragError(
            f"{where}: image {image}, row {row}, column {column} holds code "
            f"{grids[image, row, column]}, but the codebook has {codes}; "
            "encode the images again with the tokenizer of this store"
        )


def checked_codebook(codebook: Any) -> np.ndarray:
    """float32 [V, d] of an array or tensor; ArragError unless finite and of at most MAX_CODES."""
    vectors = torch.as_tensor(codebook).detach().cpu().float().contiguous().numpy()
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_CODES or not np.isfinite(vectors).all():
        raise ArragError(
            f"codebook: expected finite numbers of shape [codes <= {MAX_CODES}, dimension], found "
            f"shape {list(vectors.shape)}, finite: {bool(np.isfinite(vectors).all())}"
        )
    return vectors


def load_codebook(path: Path, sha256: str) -> np.ndarray:
    """float32 [V, d]; ArragError unless its SHA-256 is the one given."""
    try:
        vectors = load_file(path)["codebook"]
    except Exception as error:  # safetensors has its own error types, one a kind of damage
        raise ArragError(f"{path}: cannot be read ({error}); encode the images again") from None
    checked_codebook(vectors)
    found = hashlib.sha256(vectors.tobytes()).hexdigest()
    if found != sha256:
        raise ArragError(
            f"{path}: SHA-256 of the vectors is {found}, {MANIFEST} says {sha256}; "
            "encode the images again"
        )
    return vectors
