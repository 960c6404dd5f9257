"""Extend an index by new images without training its lists again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from arrag.data.store_format import read_names
from arrag.data.token_store import TokenStore
from arrag.retrieval.index import describe, open_index
from arrag.retrieval.ivf import extend_lists
from arrag.utils.errors import ArragError
from arrag.utils.files import write_json
from arrag.utils.outputs import atomic_path
from arrag.utils.resource_errors import disk_space


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
