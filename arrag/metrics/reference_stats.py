"""Files of features and moments: what clean-fid, pytorch-fid and PyTorch-FWD exchange.

``.npz`` with ``mu`` and ``sigma`` (and ``n``, the number of images), ``.npz`` with ``feats``
[n, d], or ``.npy`` [n, d]. Files written here also hold ``meta``, a JSON text that names metric,
extractor and preprocessing, so that statistics of another network are refused by name. Nothing is
ever unpickled.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from arrag.utils.errors import FormatError, MissingError
from arrag.utils.files import validate_model
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import (
    UNREADABLE,
    check_zip_bomb,
    npz_names,
    parse_json,
    read_npy,
    read_npz,
    short_message,
)
from arrag.utils.resource_errors import disk_space

FEATURE_KEYS = ("feats", "features", "embeddings", "arr_0")
HINT = "make it again"
NUMBERS = "biuf"  # kinds of NumPy types


class _Meta(BaseModel):
    """The part of ``meta`` that is read."""

    model_config = ConfigDict(extra="allow", strict=True)

    judge: dict[str, Any] = {}
    images: dict[str, Any] = {}


@dataclass
class ReferenceFile:
    """Contents of a file: features or moments, n if stated, meta if written here.

    A ``sigma`` of three dimensions is memory-mapped; ``close`` removes its temporary file.
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
        """What a score states about this set."""
        return {
            "path": str(self.path),
            "kind": "moments" if self.features is None else "features",
            "n": self.n,
            "sha256": self.meta.get("images", {}).get("sha256") or sha256_file(self.path),
            "stated": bool(self.meta),
        }


def is_reference_file(path: str | Path) -> bool:
    """Whether a path names a file of statistics or features, by its suffix."""
    return Path(path).suffix in (".npz", ".npy")


def read_reference(path: str | Path) -> ReferenceFile:
    """Read a file of statistics or features.

    Raises:
        MissingError: There is no such file.
        FormatError: It is damaged, or holds neither features nor moments.
    """
    path = Path(path)
    if not path.is_file():
        hint = "make it with `arrag fid-stats` or correct the path"
        raise MissingError("no such file", path=path, hint=hint)
    if path.suffix == ".npy":
        return _feature_file(path, read_npy(path, HINT, NUMBERS), {})
    names = npz_names(path, HINT)
    meta = _read_meta(path) if "meta" in names else {}
    for name in FEATURE_KEYS:
        if name in names:
            return _feature_file(path, read_npz(path, HINT, [name])[name], meta)
    if not {"mu", "sigma"} <= set(names):
        raise FormatError(
            f"holds {', '.join(sorted(names)) or 'nothing'}, expected mu and sigma, or feats",
            path=path,
            hint="make it with `arrag fid-stats`",
        )
    held = read_npz(path, HINT, {"mu", "n"} & {*names})
    n = held["n"].tolist() if "n" in held else meta.get("images", {}).get("n")
    if held["mu"].dtype.kind not in "iuf" or not (n is None or (type(n) is int and n >= 0)):
        message = "mu or n is not a number, or n is negative"
        raise FormatError(message, path=path, hint=HINT)
    found = ReferenceFile(path, mu=held["mu"].astype(np.float64), n=n, meta=meta)
    _map_covariances(found)
    return found


def _read_meta(path: Path) -> dict[str, Any]:
    """The ``meta`` of a file; FormatError unless it has the form that is written here."""
    try:
        meta = parse_json(str(read_npz(path, HINT, ["meta"])["meta"]))
    except ValueError as error:
        message = f"not JSON ({short_message(error)})"
        raise FormatError(message, path=path, field="meta", hint=HINT) from None
    validate_model(meta, _Meta, path, HINT, "meta")
    return meta


def _feature_file(path: Path, array: np.ndarray, meta: dict[str, Any]) -> ReferenceFile:
    if array.ndim not in (2, 4) or array.dtype.kind not in "iuf" or not array.size:
        raise FormatError(
            f"an array of shape {array.shape} and type {array.dtype}, expected features [n, d] "
            "(or images [n, H, W, 3] in [0, 1] for FWD)",
            path=path,
        )
    return ReferenceFile(path, features=array, n=len(array), meta=meta)


def _map_covariances(found: ReferenceFile) -> None:
    """Memory-map ``sigma``: a file of FWD holds gigabytes of covariances."""
    found._folder = tempfile.TemporaryDirectory(prefix="arrag-stats-")
    try:
        with zipfile.ZipFile(found.path) as archive, disk_space(found._folder.name):
            check_zip_bomb(archive)
            unpacked = archive.extract("sigma.npy", found._folder.name)
        found.sigma = read_npy(unpacked, HINT, "iuf")
        if found.sigma.ndim == 2:
            found.sigma = np.array(found.sigma, np.float64)
    except BaseException as error:
        found.close()
        if not isinstance(error, (*UNREADABLE, RuntimeError, zipfile.BadZipFile)):
            raise
        message = f"cannot be read ({short_message(error)})"
        raise FormatError(message, path=found.path, hint=HINT) from None


def write_arrays(path: str | Path, meta: dict[str, Any], **arrays: Any) -> None:
    """Write ``feats``, or ``mu``, ``sigma`` and ``n``, and ``meta`` to an .npz file, atomically."""
    with disk_space(path), atomic_path(path) as partial, open(partial, "wb") as handle:
        np.savez(handle, **arrays, meta=json.dumps(meta))


def write_packet_moments(
    path: str | Path,
    rows: Iterator[tuple[list[int], np.ndarray, np.ndarray]],
    shape: tuple[int, int],
    n: int,
    meta: dict[str, Any],
) -> None:
    """Write ``mu`` [P, d] and ``sigma`` [P, d, d] of FWD's packets a few packets at a time.

    Args:
        path: The .npz file.
        rows: (indices of packets, their means [p, d], their covariances [p, d, d]).
        shape: (P, d).
        n: Number of images.
        meta: What the file states about itself.
    """
    with (
        disk_space(path),
        tempfile.TemporaryDirectory(prefix="arrag-stats-") as folder,
        atomic_path(path) as partial,
    ):
        arrays = Path(folder)
        sigma = np.lib.format.open_memmap(
            arrays / "sigma.npy", mode="w+", dtype=np.float64, shape=(*shape, shape[1])
        )
        mu = np.empty(shape)
        for indices, means, covariances in rows:
            mu[indices], sigma[indices] = means, covariances
        sigma.flush()
        del sigma
        for name, array in (("mu", mu), ("n", n), ("meta", json.dumps(meta))):
            np.save(arrays / f"{name}.npy", np.asarray(array))
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in ("mu", "sigma", "n", "meta"):
                archive.write(arrays / f"{name}.npy", f"{name}.npy")
