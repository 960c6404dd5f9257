"""Cached statistics and features on disk: what clean-fid, pytorch-fid and PyTorch-FWD exchange.

``.npz`` with ``mu`` and ``sigma`` (and ``n``: how many images), ``.npz`` with ``feats`` [n, d], or
``.npy`` [n, d]. Files written here also hold ``meta``, a JSON text that names metric, extractor and
preparation, so that statistics of another network are refused by name. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import (
    check_zip_bomb,
    misfit,
    npz_names,
    parse_json,
    read_npy,
    read_npz,
    short_message,
)
from arrag.utils.resource_errors import disk_space

FEATURE_KEYS = ("feats", "features", "embeddings", "arr_0")
AGAIN = "make it again"
UNREADABLE = (
    ValueError,
    EOFError,
    LookupError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass
class Stored:
    """Contents of a file: features or moments (``mu``, ``sigma``), n if stated, meta if ours.

    ``sigma`` of three dimensions is memory-mapped; ``close`` removes its temporary file.
    """

    path: Path
    features: np.ndarray | None = None
    mu: np.ndarray | None = None
    sigma: np.ndarray | None = None
    n: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory | None = None

    def close(self) -> None:
        """Remove what was unpacked."""
        self.sigma = None
        if self._folder is not None:
            self._folder.cleanup()

    def report(self) -> dict[str, Any]:
        """What a score says of this side."""
        return {
            "path": str(self.path),
            "kind": "moments" if self.features is None else "features",
            "n": self.n,
            "sha256": self.meta.get("images", {}).get("sha256") or sha256_file(self.path),
            "stated": bool(self.meta),
        }


def is_stored(path: str | Path) -> bool:
    """Whether a path is a file of statistics or features, by its name."""
    return Path(path).suffix in (".npz", ".npy")


def read_stored(path: str | Path) -> Stored:
    """Read a file of statistics or features. Raises ArragError that says what it lacks."""
    path = Path(path)
    if not path.is_file():
        raise ArragError(f"{path}: no such file; make it with `arrag stats` or correct the path")
    if path.suffix == ".npy":
        return _features(path, read_npy(path, AGAIN, "biuf"), {})
    names = npz_names(path, AGAIN)
    meta = _meta(path) if "meta" in names else {}
    for name in FEATURE_KEYS:
        if name in names:
            return _features(path, read_npz(path, AGAIN, [name])[name], meta)
    if not {"mu", "sigma"} <= set(names):
        raise ArragError(
            f"{path}: holds {', '.join(sorted(names)) or 'nothing'}, expected mu and sigma, or "
            "feats; make it with `arrag stats`"
        )
    held = read_npz(path, AGAIN, ["mu", "n"] if "n" in names else ["mu"])
    n = held["n"].tolist() if "n" in held else meta.get("images", {}).get("n")
    if held["mu"].dtype.kind not in "iuf" or not (n is None or (type(n) is int and n >= 0)):
        raise ArragError(f"{path}: mu or n is no number, or n is below zero; {AGAIN}")
    stored = Stored(path, mu=held["mu"].astype(np.float64), n=n, meta=meta)
    _open_sigma(stored)
    return stored


def _meta(path: Path) -> dict[str, Any]:
    """What a file says of itself; ArragError unless it is of the form that is written here."""
    try:
        meta = parse_json(str(read_npz(path, AGAIN, ["meta"])["meta"]))
    except ValueError as error:
        raise ArragError(f"{path}: meta is no JSON ({short_message(error)}); {AGAIN}") from None
    form = {name: dict for name in ("judge", "images") if isinstance(meta, dict) and name in meta}
    if problem := misfit(meta, form, "meta"):
        raise ArragError(f"{path}: {problem}; {AGAIN}")
    return meta


def _features(path: Path, array: np.ndarray, meta: dict[str, Any]) -> Stored:
    real = np.issubdtype(array.dtype, np.number) and array.dtype.kind in "iuf"
    if array.ndim not in (2, 4) or not real or not array.size:
        raise ArragError(
            f"{path}: an array of shape {array.shape} and type {array.dtype}, expected features "
            "[n, d] (or images [n, H, W, 3] in [0, 1] for FWD)"
        )
    return Stored(path, features=array, n=len(array), meta=meta)


def _open_sigma(stored: Stored) -> None:
    """Map a file's covariances: an FWD file holds gigabytes of them."""
    stored._folder = tempfile.TemporaryDirectory(prefix="arrag-stats-")
    try:
        with zipfile.ZipFile(stored.path) as archive, disk_space(stored._folder.name):
            check_zip_bomb(archive)
            unpacked = archive.extract("sigma.npy", stored._folder.name)
        stored.sigma = read_npy(unpacked, AGAIN, "iuf")
        if stored.sigma.ndim == 2:
            stored.sigma = np.array(stored.sigma, np.float64)
    except UNREADABLE as error:
        stored.close()
        raise ArragError(
            f"{stored.path}: cannot be read ({short_message(error)}); {AGAIN}"
        ) from None
    except BaseException:
        stored.close()
        raise


def write_features(path: str | Path, features: np.ndarray, meta: dict[str, Any]) -> None:
    """Write ``feats`` [n, d] and ``meta``, atomically."""
    with disk_space(path), atomic_path(path) as partial, open(partial, "wb") as handle:
        np.savez(handle, feats=features, meta=json.dumps(meta))


def write_moments(
    path: str | Path, mu: np.ndarray, sigma: np.ndarray, n: int, meta: dict[str, Any]
) -> None:
    """Write ``mu``, ``sigma``, ``n`` and ``meta``, atomically, in float64."""
    with disk_space(path), atomic_path(path) as partial, open(partial, "wb") as handle:
        np.savez(handle, mu=mu, sigma=sigma, n=n, meta=json.dumps(meta))
