"""Cached statistics and features on disk: what clean-fid, pytorch-fid and PyTorch-FWD exchange.

``.npz`` with ``mu`` and ``sigma`` (and ``n``: how many images), ``.npz`` with ``feats`` [n, d], or
``.npy`` [n, d]. Files written here also hold ``meta``, a JSON text that names metric, extractor and
preparation, so that statistics of another network are refused by name. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arrag.errors import ArragError
from arrag.files import atomic_path, disk_space, sha256_file

FEATURE_KEYS = ("feats", "features", "embeddings", "arr_0")
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


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
    try:
        if path.suffix == ".npy":
            return _features(path, np.load(path, mmap_mode="r", allow_pickle=False), {})
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            meta = json.loads(str(archive["meta"])) if "meta" in names else {}
            for name in FEATURE_KEYS:
                if name in names:
                    return _features(path, archive[name], meta)
            if not {"mu", "sigma"} <= names:
                raise ArragError(
                    f"{path}: holds {', '.join(sorted(names)) or 'nothing'}, expected mu and "
                    "sigma, or feats; make it with `arrag stats`"
                )
            n = int(archive["n"]) if "n" in names else meta.get("images", {}).get("n")
            stored = Stored(path, mu=np.asarray(archive["mu"], np.float64), n=n, meta=meta)
        _open_sigma(stored)
    except UNREADABLE as error:
        raise ArragError(f"{path}: cannot be read ({error}); make it again") from None
    return stored


def _features(path: Path, array: np.ndarray, meta: dict[str, Any]) -> Stored:
    if array.ndim not in (2, 4) or not np.issubdtype(array.dtype, np.number) or not len(array):
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
            unpacked = archive.extract("sigma.npy", stored._folder.name)
        stored.sigma = np.load(unpacked, mmap_mode="r", allow_pickle=False)
        if stored.sigma.ndim == 2:
            stored.sigma = np.array(stored.sigma, np.float64)
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
