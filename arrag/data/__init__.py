"""Everything that is read from outside or kept as data.

Sources of images (``sources``), decoded (``images``) and encoded (``encode``) into token stores
(``token_store``), the truth of a retrieval database; copies of test images kept out of it
(``decontamination``); subsamples of large corpora (``subsample``, ``merge``); prompts and question
tables of the benchmarks (``prompts``, ``questions``, ``mjhq``); folders of generated images
(``sample_dir``); downloads (``hub``, ``download``); and the synthetic world of the demo
(``micro``).

The package may import ``tokenizers``, ``config`` and ``utils``. Start reading at ``sources`` and
``encode``; ``store_format`` describes the files of a store.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Decontaminator": "decontamination",
    "IMAGE_SOURCES": "sources",
    "OpenClip": "clip",
    "StoreWriter": "token_store",
    "SubsampleSpec": "subsample",
    "TokenStore": "token_store",
    "World": "micro.world",
    "encode_source": "encode",
    "fetch_file": "download",
    "fetch_hub": "hub",
    "list_samples": "sample_dir",
    "load_prompt_set": "prompts",
    "merge_stores": "merge",
    "open_source": "sources",
    "subsample_corpus": "subsample",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
