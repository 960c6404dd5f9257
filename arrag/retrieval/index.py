"""Build, open and extend patch indexes.

An index is a folder with ``meta.json``. All modes are searched through ``PatchIndex``::

    exact             scans the store; has no other file
    ivf               inverted lists, exact distances within them
    faiss:<factory>   an index of FAISS by its factory string, for comparison
    official          the files that the authors published, for comparison
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np

import arrag
from arrag.data.store_format import check_codes, read_names
from arrag.data.token_store import TokenStore
from arrag.retrieval.base import BuildOptions, Fields, PatchIndex
from arrag.retrieval.faiss_index import VERSION
from arrag.retrieval.keys import release
from arrag.retrieval.meta import FORMAT, META, REBUILD, IndexMeta, check_identity
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import FormatError, MismatchError, UsageError
from arrag.utils.files import read_model, write_json
from arrag.utils.outputs import atomic_path, clear_leftovers
from arrag.utils.registry import Registry
from arrag.utils.resource_errors import disk_space

MODES: Registry[type[PatchIndex]] = Registry(
    "index mode",
    {
        "exact": "arrag.retrieval.exact:ExactIndex",
        "ivf": "arrag.retrieval.ivf:IvfIndex",
        "faiss": "arrag.retrieval.faiss_index:FaissIndex",
        "official": "arrag.retrieval.faiss_index:PublishedIndex",
    },
)
_RENAMED = {"hamming": "exact"}  # in indexes of earlier versions


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
    """Build an index over a store.

    The folder appears whole or not at all; an earlier one stays until then. The same store,
    options and library versions give the same bytes.

    Args:
        store: What to index.
        out_dir: Folder to write.
        neighborhood: Which neighbours make the key of a patch.
        mode: A name in ``MODES``; ``faiss:`` is followed by a factory string.
        nlist, nprobe, seed, published, progress: See ``BuildOptions``.

    Returns:
        The contents of ``meta.json``.

    Raises:
        ArragError: Unknown mode, options out of range, a code outside the codebook, no patch
            whose neighbours are all on the grid, or a full disk.
    """
    kind = MODES.get(mode.partition(":")[0])
    if (mode == "official") != (published is not None):
        raise UsageError(
            f"mode is {mode} and the published folder {published}",
            field="published",
            hint="give it for mode official, and for no other",
        )
    if neighborhood.masked_distance and not kind.masks:
        raise UsageError(
            f"mode {mode} cannot leave unknown neighbours out of a distance",
            field="masked_distance",
            hint="use mode exact or ivf, or masked_distance false",
        )
    for shard, info in zip(store.shards, store.manifest["shards"], strict=True):
        check_codes(shard, len(store.codebook), store.path / info["file"])
        release(shard)
    meta = _describe(store, neighborhood, mode)
    options = BuildOptions(nlist, nprobe, seed, published and Path(published), progress)
    clear_leftovers(out_dir)
    with atomic_path(out_dir) as path, disk_space(out_dir):
        path.mkdir()
        return _write_meta(path, meta, kind.build(store, path, meta, options))


def open_index(
    path: str | Path,
    store: TokenStore,
    tokenizer_digest: str | None = None,
    nprobe: int | None = None,
) -> PatchIndex:
    """Open an index over the store it was built from.

    Args:
        path: Folder of the index.
        store: The store.
        tokenizer_digest: Of the generator's tokenizer, checked if given.
        nprobe: Lists to visit instead of the stored number, for modes with lists.

    Raises:
        MismatchError: The index belongs to another store or tokenizer; both digests are named.
        ArragError: A damaged file, or ``nprobe`` out of range or for a mode without lists.
    """
    path = Path(path)
    meta = read_model(path / META, IndexMeta, REBUILD)
    expected = {"tokenizer_digest": tokenizer_digest, "store_digest": store.digest}
    expected |= {"images": len(store), "codes": len(store.codebook), "grid": list(store.grid)}
    check_identity(path, meta, expected, f"that store ({store.path}) and tokenizer")
    mode = meta.mode.partition(":")[0]
    mode = _RENAMED.get(mode, mode)
    if mode not in MODES:
        raise FormatError(
            f"unknown index mode {meta.mode!r}", path=path / META, field="mode", hint=REBUILD
        )
    return MODES.get(mode)(store, meta, path, nprobe)


def extend_index(
    path: str | Path,
    old_store: TokenStore,
    store: TokenStore,
    out_dir: str | Path,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Index a store that begins with the images of an indexed one, as ``merge_stores`` makes it.

    In mode ivf the centroids stay and only the new images are assigned: the lists are the same as
    if all images had been assigned to those centroids at once. ``out_dir`` may be ``path``.

    Returns:
        The contents of the new ``meta.json``.

    Raises:
        UsageError: The mode cannot be extended.
        MismatchError: The store begins with other images.
    """
    old = open_index(path, old_store)
    _check_begins_with(store, old_store)
    meta = _describe(store, old.neighborhood, _RENAMED.get(old.meta.mode, old.meta.mode))
    with atomic_path(out_dir) as new, disk_space(out_dir):
        new.mkdir()
        return _write_meta(new, meta, old.extend(store, new, progress=progress))


def _describe(store: TokenStore, neighborhood: Neighborhood, mode: str) -> IndexMeta:
    """The meta data that every mode has."""
    inside = neighborhood.valid_positions(*store.grid).numpy().reshape(-1)
    if not inside.any():
        raise UsageError(
            f"every neighbourhood of hop {neighborhood.radius} leaves the grid {list(store.grid)}",
            path=store.path,
            field="hop",
            hint="use a smaller hop or border 'zero'",
        )
    crossing = neighborhood.boundary_mask(*store.grid)[inside]
    return IndexMeta(
        format=FORMAT,
        mode=mode,
        neighborhood=neighborhood,
        grid=list(store.grid),
        codes=len(store.codebook),
        images=len(store),
        entries=len(store) * int(inside.sum()),
        border_share=float(crossing.mean()),
        bytes_per_patch=2,
        store_digest=store.digest,
        tokenizer_digest=store.tokenizer_digest,
        versions={
            "arrag": arrag.__version__,
            "faiss": VERSION,
            "numba": numba.__version__,
            "numpy": np.__version__,
        },
    )


def _write_meta(path: Path, meta: IndexMeta, more: Fields) -> dict[str, Any]:
    document = meta.document() | more
    write_json(path / META, document)
    return document


def _check_begins_with(store: TokenStore, old: TokenStore) -> None:
    """Raise MismatchError unless the first images have the codes, names and codebook of ``old``."""

    def same(shard: np.ndarray, start: int, info: dict[str, Any]) -> bool:
        here, names = range(start, start + len(shard)), read_names(old.path, info)
        return np.array_equal(store.grids(here), shard) and names == [*map(store.keys, here)]

    fields = ("tokenizer_digest", "grid", "codebook")
    shards = zip(old.shards, old.starts.tolist(), old.manifest["shards"], strict=False)
    if (
        len(store) < len(old)
        or any(store.manifest[field] != old.manifest[field] for field in fields)
        or not all(same(*shard) for shard in shards)
    ):
        raise MismatchError(
            f"does not begin with the {len(old)} images of {old.path}",
            path=store.path,
            hint="merge the stores in the order indexed first, new ones after, or build the "
            "index again",
        )
