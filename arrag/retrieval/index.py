"""Candidates and exact distances: build an index over a token store, open it, search it.

An index is a directory whose ``meta.json`` says all about it. Modes, behind one ``search``:

    exact             scans the store; nothing but ``meta.json``
    hamming           the same for codes of +1 and -1
    ivf               inverted lists, exact distances within them
    faiss:<factory>   an index of FAISS's own, for comparison
    official          the authors' published files, for comparison
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numba
import numpy as np

import arrag
from arrag.data.store_format import check_codes
from arrag.data.token_store import TokenStore
from arrag.retrieval.base import META, PatchIndex
from arrag.retrieval.exact import ExactIndex
from arrag.retrieval.faiss_index import PREFIX, VERSION, FaissIndex, build_faiss, link_published
from arrag.retrieval.hamming import HammingIndex, check_signs
from arrag.retrieval.ivf import IvfIndex, build_lists
from arrag.retrieval.keys import release
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json, write_json
from arrag.utils.outputs import atomic_path, clear_leftovers
from arrag.utils.readers import misfit
from arrag.utils.resource_errors import disk_space

__all__ = ["PatchIndex", "build_index", "open_index"]

FORMAT = 1
SMALL_HOP = 16  # may leave a smaller grid on every side: under border "zero" that is an index
FILES = {"nprobe": (int, None), "files": dict}
LISTS = {"nprobe": int, "nlist": int, "seed": int, "trained_images": int, "files": dict}
"""What ``meta.json`` has besides, in modes with files of their own."""


def build_index(
    store: TokenStore,
    out_dir: str | Path,
    *,
    neighborhood: Neighborhood,
    mode: str = "exact",
    nlist: int | None = None,
    nprobe: int = 32,
    seed: int = 0,
    published: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Build an index and return its meta data; ``nlist``, ``nprobe``, ``seed`` are for lists.

    published: for mode official, the folder of the authors' files. The directory appears whole or
    not at all, an earlier one stays until then. The same store, options and versions give the same
    bytes. Raises ArragError for an unknown mode, a code outside the codebook, a neighbourhood
    larger than the grid, nlist or nprobe out of range, or a full disk.
    """
    if mode not in ("exact", "hamming", "ivf", "official") and not mode.startswith(PREFIX):
        raise ArragError(
            f"index: mode is {mode!r}; use 'exact', 'hamming', 'ivf', '{PREFIX}<factory string>' "
            "or 'official'"
        )
    if (mode == "official") != (published is not None):
        raise ArragError(
            f"index: mode is {mode!r} and the published folder {published}; mode official needs "
            "one, the others none"
        )
    for shard, about in zip(store.shards, store.manifest["shards"], strict=True):
        check_codes(shard, len(store.codebook), str(store.path / about["file"]))
        release(shard)
    meta = describe(store, neighborhood, mode)
    options = {"nprobe": nprobe, "seed": seed, "progress": progress}
    clear_leftovers(out_dir)
    with atomic_path(out_dir) as path, disk_space(out_dir):
        path.mkdir()
        if mode == "hamming":
            check_signs(store)
        elif mode == "ivf":
            options |= {"nlist": nlist, "entries": meta["entries"]}
            meta |= build_lists(store, path, neighborhood, **options)
        elif mode == "official":
            meta |= link_published(store, path, neighborhood, Path(published), nprobe)
        elif mode != "exact":
            factory = mode.removeprefix(PREFIX)
            meta |= build_faiss(store, path, neighborhood, factory=factory, **options)
        write_json(path / "meta.json", meta)
    return meta


def describe(store: TokenStore, neighborhood: Neighborhood, mode: str) -> dict[str, Any]:
    """What ``meta.json`` says in every mode; ArragError if no patch has its neighbours."""
    inside = neighborhood.valid_positions(*store.grid).numpy()
    if not inside.any():
        raise ArragError(
            f"index of {store.path}: every neighbourhood of hop {neighborhood.radius} leaves the "
            f"grid {list(store.grid)}; use a smaller hop or border 'zero'"
        )
    crosses = neighborhood.boundary_mask(*store.grid)
    return {
        "format": FORMAT,
        "mode": mode,
        "neighborhood": asdict(neighborhood),
        "grid": list(store.grid),
        "codes": len(store.codebook),
        "images": len(store),
        "entries": len(store) * int(inside.sum()),
        # share of the entries whose neighbourhood leaves the grid: 0 under border "skip"
        "border_share": float(crosses[inside.reshape(-1)].mean()),
        "bytes_per_patch": 2,
        "store_digest": store.digest,
        "tokenizer_digest": store.tokenizer_digest,
        "versions": {
            "arrag": arrag.__version__,
            "faiss": VERSION,
            "numba": numba.__version__,
            "numpy": np.__version__,
        },
    }


def open_index(
    path: str | Path,
    store: TokenStore,
    tokenizer_digest: str | None = None,
    nprobe: int | None = None,
) -> PatchIndex:
    """Open an index over the store it was built from.

    tokenizer_digest: of the generator's tokenizer, checked if given. nprobe: instead of the stored
    one, for modes with lists. Raises ArragError for another store or tokenizer (naming both
    digests), a truncated file, or a misplaced nprobe.
    """
    path = Path(path)
    meta = _read_meta(path / "meta.json", store)
    expected = {"tokenizer_digest": tokenizer_digest, "store_digest": store.digest}
    expected |= {"images": len(store), "codes": len(store.codebook), "grid": list(store.grid)}
    for field, ours in expected.items():
        if ours is not None and meta[field] != ours:
            raise ArragError(
                f"{path / 'meta.json'}: {field} is {meta[field]}, but {ours} is in use; "
                f"build the index again from that store ({store.path}) and tokenizer"
            )
    scans = {"exact": ExactIndex, "hamming": HammingIndex}
    if meta["mode"] not in scans:
        kind = IvfIndex if meta["mode"] == "ivf" else FaissIndex
        return kind(store, meta, path, nprobe)
    if nprobe is not None:
        raise ArragError(
            f"index {path}: mode {meta['mode']} has no nprobe, found {nprobe}; leave it out"
        )
    return scans[meta["mode"]](store, meta)


def _read_meta(path: Path, store: TokenStore) -> dict[str, Any]:
    """An index's ``meta.json``; ArragError unless all that every mode reads of it is there."""
    meta = read_json(path, {})
    if meta.get("format") != FORMAT:
        raise ArragError(
            f"{path}: format is {meta.get('format')!r}, this version of arrag reads {FORMAT}; "
            "build the index again"
        )
    problem = misfit(meta, META)
    if not problem:
        scans = meta["mode"] in ("exact", "hamming")
        problem = None if scans else misfit(meta, LISTS if meta["mode"] == "ivf" else FILES)
    if not problem:
        extra = sorted(meta["neighborhood"].keys() - META["neighborhood"].keys())
        problem = f"neighborhood has fields {', '.join(extra)}" if extra else None
    if not problem and not _fits(meta["neighborhood"]["hop"], max(*store.grid, SMALL_HOP)):
        problem = f"neighborhood.hop is {meta['neighborhood']['hop']!r} on the grid {store.grid}"
    if not problem:
        try:
            Neighborhood(**meta["neighborhood"])
        except ArragError as error:
            problem = str(error)
    if problem:
        raise ArragError(f"{path}: {problem}; build the index again")
    return meta


def _fits(hop: Any, side: int) -> bool:
    """Whether a neighbourhood's hop, one or several, is about a grid's; a huge one never ends."""
    hops = hop if isinstance(hop, list) else [hop]
    return bool(hops) and all(type(h) is int and 1 <= h <= side for h in hops)
