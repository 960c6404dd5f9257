"""A token store of given codes and the index of its patches."""

from pathlib import Path

import numpy as np

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood


def make_patch_index(
    folder: Path,
    grids: np.ndarray,
    codebook: np.ndarray,
    neighborhood: Neighborhood,
    mode: str = "exact",
    tokenizer_digest: str = "tokenizer",
) -> PatchIndex:
    """Store codes [n, H, W] of images named "0", "1", ... in ``folder``, and index them."""
    with StoreWriter(
        folder / "codes", tokenizer_digest=tokenizer_digest, grid=grids.shape[1:], source="made",
        codebook=np.asarray(codebook, np.float32), shard_size=8,
    ) as writer:  # fmt: skip
        writer.add([str(i) for i in range(len(grids))], np.asarray(grids, np.uint16))
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=neighborhood, mode=mode, progress=False)
    return open_index(folder / "index", store, tokenizer_digest)
