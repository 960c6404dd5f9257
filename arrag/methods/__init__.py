"""The methods of the tables: a generator, what augments it, and how it is sampled and timed.

Imports ``arrag.retrieval``, ``arrag.backbones``, ``arrag.metrics`` and the layers below them. Start
with :mod:`arrag.methods.decoding` (the two loops) and :mod:`arrag.methods.daid` (a method); a new
method is one file like it and one line in :mod:`arrag.methods.registry`.
"""

from importlib import import_module

_PUBLIC = {
    "ArtifactPaths": "arrag.methods.registry",
    "Augmentation": "arrag.methods.augmentation",
    "DAiD": "arrag.methods.daid",
    "FAiD": "arrag.methods.faid.adapter",
    "ImageGenerator": "arrag.methods.generator",
    "METHODS": "arrag.methods.registry",
    "TokenGenerator": "arrag.methods.generator",
    "generate_images": "arrag.methods.runner",
    "open_method": "arrag.methods.registry",
    "register_method": "arrag.methods.registry",
    "sample_benchmark": "arrag.methods.runner",
    "time_methods": "arrag.methods.timing",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
