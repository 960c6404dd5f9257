"""A configured method on a loaded backbone: its adapter, and what it retrieves from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arrag.backbones.janus import JanusBackbone
from arrag.config.root import Config
from arrag.data.clip import OpenClip
from arrag.data.token_store import TokenStore
from arrag.methods.adapter_folder import DELTA, MODULES, merge_delta, read_adapter
from arrag.methods.augmentation import Augmentation
from arrag.methods.daid import DAiD
from arrag.methods.faid.adapter import FAiD, FAiDAugmentation
from arrag.methods.racm3 import RetrievalPrefixBackbone
from arrag.retrieval.image_index import ImageIndex
from arrag.retrieval.index import open_index
from arrag.utils.errors import ArragError
from arrag.utils.hashing import tree_digest


@dataclass(frozen=True)
class ArtifactPaths:
    """Folders that a method may need; adapter: instead of the one its settings name."""

    store: Path | None = None
    index: Path | None = None
    image_index: Path | None = None
    adapter: Path | None = None


@dataclass(frozen=True)
class Equipped:
    """What decoding takes, and what made it.

    index: digest of the index or image index, None if nothing is retrieved; weights: digests of
    what was added to the backbone; parameters: their number, LoRA being part of the backbone.
    """

    backbone: Any
    augment: Augmentation | None = None
    index: str | None = None
    weights: dict[str, str] | None = None
    parameters: int = 0


def equip(
    config: Config,
    method: str,
    backbone: JanusBackbone,
    tokenizer_digest: str,
    paths: ArtifactPaths,
) -> Equipped:
    """Load what a method adds to ``backbone``, whose weights an adapter changes in place.

    tokenizer_digest: the generator's. Raises ArragError for a source that is missing, or
    was made with another tokenizer, backbone or model.
    """
    resolved = config.resolved(method)
    augment = resolved.method.augment
    if augment is None:
        return Equipped(backbone)
    store = None
    if augment.required_blocks:
        beside = paths.image_index if augment.kind == "racm3" else paths.index
        if paths.store is None or beside is None:
            raise ArragError(f"method '{method}' retrieves: give its store and its index")
        store = TokenStore.open(paths.store)
    if augment.kind == "daid":
        index = open_index(paths.index, store, tokenizer_digest)
        daid = DAiD(index, k=augment.k, lam=augment.lam, tau=augment.tau)
        return Equipped(backbone, daid, index.digest)
    folder = paths.adapter or augment.adapter
    if folder is None:
        raise ArragError(
            f"method '{method}': give the folder of its adapter, which `training` makes"
        )
    digest = tree_digest(resolved.generator.checkpoint)
    tuned = _tuned(digest, augment.kind, backbone, folder)
    if augment.kind == "finetune":
        return tuned
    if augment.kind == "faid":
        index = open_index(paths.index, store, tokenizer_digest)
        adapter = FAiD.load(folder / MODULES, backbone_digest=digest).to(backbone.model.dtype)
        adapter.attach(backbone)
        size = sum(p.numel() for p in adapter.parameters())
        faid = FAiDAugmentation(adapter, index, augment.k)
        return replace(tuned, augment=faid, index=index.digest, parameters=size)
    if store.tokenizer_digest != tokenizer_digest:
        raise ArragError(
            f"{paths.store}: its tokenizer is {store.tokenizer_digest}, the generator's "
            f"{tokenizer_digest}; encode the database with the generator's tokenizer"
        )
    clip = OpenClip(augment.clip)
    images = ImageIndex(paths.image_index, store, clip.digest)
    weights = {**tuned.weights, "clip": clip.digest}
    referring = RetrievalPrefixBackbone(backbone, images, clip)
    return replace(tuned, backbone=referring, index=store.digest, weights=weights)


def _tuned(digest: str, kind: str, backbone: JanusBackbone, folder: Path) -> Equipped:
    """Merge an adapter's changes into the backbone."""
    read_adapter(folder, kind, digest)
    if (folder / DELTA).is_file():
        merge_delta(folder / DELTA, backbone.model)
    return Equipped(backbone, weights={"adapter": tree_digest(folder)})
