"""SHA-256 digests: of files and JSON, and the digest by which an artifact is referred to.

Samples name their index by a digest of its ``meta.json``, a score its images by one of their files,
a training its pairs by ``pairs.json``. ``digest_of`` finds these digests from the files alone. No
torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from arrag.utils.errors import FormatError, MissingError
from arrag.utils.files import read_json
from arrag.utils.outputs import OWNER

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
STORE_IDENTITY = ("format", "tokenizer_digest", "grid", "codebook", "images", "content")


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(obj: Any) -> str:
    """Hex SHA-256 of the canonical JSON of ``obj`` (sorted keys, no spaces)."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_file(
    path: Path, *, says: str, remedy: str, size: int | None = None, sha256: str | None = None
) -> None:
    """Check a file against the size in bytes and the SHA-256 that another file states.

    Args:
        path: The file to check.
        says: Name of the file that states the size and digest.
        remedy: What the user should do when they differ.
        size: Expected bytes; None: not checked.
        sha256: Expected hex digest; None: not checked.

    Raises:
        MissingError: There is no such file.
        FormatError: Its size or digest differs.
    """
    if not path.exists():
        raise MissingError("missing", path=path, hint=remedy)
    found = path.stat().st_size
    if size is not None and found != size:
        raise FormatError(
            f"{found} bytes, {says} says {size}: truncated or altered", path=path, hint=remedy
        )
    if sha256 is not None and (digest := sha256_file(path)) != sha256:
        raise FormatError(f"SHA-256 is {digest}, {says} says {sha256}", path=path, hint=remedy)


def tree_digest(directory: str | Path) -> str:
    """Hex SHA-256 over the names and bytes of all files below ``directory``.

    Markdown and PNG files are left out: model cards may be edited without changing what a model
    computes.
    """
    root = Path(directory)
    if not root.is_dir():
        raise MissingError("no such directory", path=root, hint="make it, or correct the path")
    names = sorted(
        p
        for p in root.rglob("*")
        if p.is_file() and p.suffix not in {".md", ".png"} and p.name != OWNER
    )
    return sha256_json([[str(p.relative_to(root)), sha256_file(p)] for p in names])


def store_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of a token store by its manifest: codes, keys and codebook, whatever the shards."""
    return sha256_json({field: manifest[field] for field in STORE_IDENTITY})


def index_digest(meta: Mapping[str, Any]) -> str:
    """Digest of an index by its ``meta.json``, without the versions of what wrote it."""
    return sha256_json({k: v for k, v in meta.items() if k != "versions"})


def images_digest(digests: Iterable[str]) -> str:
    """Digest of a set of images, given the SHA-256 of each file."""
    return sha256_json(sorted(digests))


def digest_of(path: str | Path, sha256: Callable[[Path], str] = sha256_file) -> str:
    """Compute the digest that downstream artifacts use to refer to a path.

    A file: its SHA-256. Samples and reference images: that of the set of images. A store, index,
    pairs or retrieval: that of its final file. Any other folder: ``tree_digest``.

    Args:
        path: File or folder.
        sha256: Digest of a file; a caller that reads many results may know it already.

    Returns:
        Hex digest.

    Raises:
        MissingError: There is nothing at ``path``.
    """
    path = Path(path)
    if path.is_file():
        return sha256(path)
    if (path / "pairs.json").is_file():
        return sha256_json(read_json(path / "pairs.json"))
    if (path / "meta.json").is_file():
        return index_digest(read_json(path / "meta.json"))
    if (path / "manifest.json").is_file() and not (path / "LICENSES.md").is_file():
        manifest = read_json(path / "manifest.json")
        return store_digest(manifest) if "content" in manifest else sha256_json(manifest)
    if (path / "run.json").is_file() or (path / "meta_data.json").is_file():
        return images_digest(sha256(file) for file in path.rglob("*") if file.suffix in IMAGES)
    return tree_digest(path)
