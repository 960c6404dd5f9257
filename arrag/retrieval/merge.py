"""A database that grows: join stores, and extend an index without training its lists anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arrag.data.store_format import CODEBOOK, FORMAT, MANIFEST, content_digests, read_names
from arrag.data.token_store import TokenStore
from arrag.retrieval.index import describe, open_index
from arrag.retrieval.ivf import extend_lists
from arrag.utils.errors import ArragError
from arrag.utils.files import atomic_path, disk_space, write_json


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


def extend_index(
    path: str | Path,
    old_store: TokenStore,
    store: TokenStore,
    out_dir: str | Path,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Index a store that begins with the images of an indexed one; returns the meta data.

    In mode ivf the centroids are kept and only the new images are assigned: the same lists as if
    all had been assigned to those centroids at once. ``trained_images`` in the meta data says how
    many images the centroids are of. out_dir may be ``path`` itself. Raises ArragError for an
    index of FAISS's own, or a store that begins with other images.
    """
    old = open_index(path, old_store)
    mode = old.meta["mode"]
    if mode not in ("exact", "hamming", "ivf"):
        raise ArragError(f"index {path}: mode {mode} cannot be extended; build it again")
    _check_begins_with(store, old_store)
    meta = describe(store, old.neighborhood, mode)
    with atomic_path(out_dir) as new, disk_space(out_dir):
        new.mkdir()
        if mode == "ivf":
            meta |= extend_lists(store, new, old, Path(path), progress=progress)
        write_json(new / "meta.json", meta)
    return meta


def _check_begins_with(store: TokenStore, old: TokenStore) -> None:
    """Codes and names of the first images, and what the codes mean, must be those of ``old``."""
    same = all(
        store.manifest[field] == old.manifest[field]
        for field in ("tokenizer_digest", "grid", "codebook")
    ) and len(store) >= len(old)
    for shard, start, about in zip(old.shards, old.starts, old.manifest["shards"], strict=False):
        if not same:
            break
        here = np.arange(start, start + len(shard))
        names = read_names(old.path, about)
        same = np.array_equal(store.grids(here), shard)
        same &= all(store.keys(int(i)) == name for i, name in zip(here, names, strict=True))
    if not same:
        raise ArragError(
            f"store {store.path}: does not begin with the {len(old)} images of {old.path}; merge "
            "the stores in the order indexed first, new ones after, or build the index again"
        )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
