"""Nearest patches by their neighbourhood, and nearest images by CLIP.

Imports :mod:`arrag.data`, :mod:`arrag.utils` and what is below them: retrieval sees codes, a mask
of the known ones and positions, and no backbone. Start with ``neighborhood.py`` (what the key of a
patch is), then ``base.py`` (the interface of an index and what a search returns) and ``index.py``
(the modes, ``build_index`` and ``open_index``).
"""

from importlib import import_module

_PUBLIC = {
    "ImageIndex": "arrag.retrieval.image_index",
    "KeyExtractor": "arrag.retrieval.keys",
    "Neighborhood": "arrag.retrieval.neighborhood",
    "PatchIndex": "arrag.retrieval.base",
    "SearchResult": "arrag.retrieval.base",
    "build_image_index": "arrag.retrieval.image_index",
    "build_index": "arrag.retrieval.index",
    "extend_index": "arrag.retrieval.index",
    "open_index": "arrag.retrieval.index",
    "verify_index": "arrag.retrieval.verify",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
