"""Which digest stands for what lies at a path: the one by which whoever was made of it names it.

Samples name their index by a digest of its ``meta.json``, a score its images by one of their files,
a training its pairs by ``pairs.json``: here they are found from the files alone. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from arrag.utils.files import read_json, sha256_file, sha256_json, tree_digest

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
STORE_IDENTITY = ("format", "tokenizer_digest", "grid", "codebook", "images", "content")


def store_digest(manifest: Mapping[str, Any]) -> str:
    """Of a token store: its codes, names and codebook, however they are cut into shards."""
    return sha256_json({field: manifest[field] for field in STORE_IDENTITY})


def index_digest(meta: Mapping[str, Any]) -> str:
    """Of an index, by its ``meta.json``; versions say who wrote it, not what it holds."""
    return sha256_json({k: v for k, v in meta.items() if k != "versions"})


def images_digest(digests: Iterable[str]) -> str:
    """Of a set of images, given the SHA-256 of each file."""
    return sha256_json(sorted(digests))


def digest_of(path: str | Path, sha256: Callable[[Path], str] = sha256_file) -> str:
    """Hex digest of what lies at a path, by what is there; ArragError if nothing is.

    A file's SHA-256; of samples and of reference images that of the set of images; of stores,
    pairs, indexes and retrieval that of their last file; of any other folder ``tree_digest``.
    sha256: of a file; a reader of many results may know it already.
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
