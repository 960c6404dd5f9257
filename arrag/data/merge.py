"""Merge token stores, without copying their shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arrag.data.store_format import (
    CODEBOOK,
    EXCLUDED,
    FORMAT,
    MANIFEST,
    SKIPPED,
    DuplicateFilter,
    content_digests,
    read_omitted,
)
from arrag.data.token_store import TokenStore, shard_files
from arrag.utils.errors import MismatchError, OutputError
from arrag.utils.files import read_model, write_json
from arrag.utils.outputs import atomic_path
from arrag.utils.resource_errors import disk_space


def merge_stores(
    parts: Sequence[TokenStore], out: str | Path, lists: Mapping[str, Any] | None = None
) -> TokenStore:
    """Write one store of all images of some stores, one store after the other.

    The shard files are hard links where the file system has them, copies elsewhere.

    Args:
        parts: Stores of the same tokenizer.
        out: Directory of the new store.
        lists: Further JSON files of the store, by name.

    Raises:
        MismatchError: The stores are of another tokenizer, grid or codebook.
        OutputError: There is a store at ``out``.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        raise OutputError("exists already", path=out, hint="write to another path or delete it")
    head = parts[0].manifest
    same = ("tokenizer_digest", "grid", "codebook")
    for part, field in product(parts[1:], same):
        if part.manifest[field] != head[field]:
            raise MismatchError(
                f"is {part.manifest[field]}, that of {parts[0].path} is {head[field]}",
                path=part.path,
                field=field,
                hint="encode both with the same tokenizer",
            )
    with atomic_path(out) as folder, disk_space(out):
        folder.mkdir()
        shards, sources = [], []
        for part in parts:
            for shard in part.manifest["shards"]:
                file, keys = shard_files(folder, len(shards))
                sources.append((part.path / shard["file"], part.path / shard["keys"]))
                for old, new in zip(sources[-1], (file, keys), strict=True):
                    _link(old, new)
                shards.append({**shard, "file": file.name, "keys": keys.name})
        _link(parts[0].path / CODEBOOK, folder / CODEBOOK)
        for name, held in (lists or {}).items():
            write_json(folder / name, held)
        manifest = {
            "format": FORMAT,
            **{field: head[field] for field in same},
            "source": {"merged": [part.manifest["source"] for part in parts]},
            "images": sum(len(part) for part in parts),
            "shards": shards,
            "content": content_digests(sources),
        }
        write_json(folder / MANIFEST, manifest)
    return TokenStore.open(out)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def join_stores(stores: Sequence[str | Path], out: str | Path) -> dict[str, Any]:
    """Merge stores of parts of corpora, and the lists of what was left out of them.

    Returns:
        The numbers of images: stored, skipped and excluded.

    Raises:
        MismatchError: A name is in two of the stores, or as ``merge_stores`` does.
    """
    parts = [TokenStore.open(path) for path in stores]
    _refuse_repeats([part.path / s["keys"] for part in parts for s in part.manifest["shards"]])
    lists = {}
    for name in (SKIPPED, EXCLUDED):
        if any((part.path / name).is_file() for part in parts):
            lists[name] = [entry for part in parts for entry in read_omitted(part.path / name)]
    merged = merge_stores(parts, out, lists)
    skipped, excluded = (len(lists.get(name, [])) for name in (SKIPPED, EXCLUDED))
    return {"images": len(merged), "skipped": skipped, "excluded": excluded}


def _refuse_repeats(files: list[Path]) -> None:
    seen = DuplicateFilter()
    for number, file in enumerate(tqdm(files, desc="names", unit="shard")):
        suspects = set(seen.add(read_model(file, list[str])))  # two names may share a hash
        for earlier in files[:number] if suspects else ():
            if repeated := suspects.intersection(read_model(earlier, list[str])):
                raise MismatchError(
                    f"{sorted(repeated)[0]!r} is also the name of an image of {earlier.parent}",
                    path=file.parent,
                    hint="rename the files of one corpus",
                )
