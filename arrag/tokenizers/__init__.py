"""Image tokenizers: images to discrete codes and back.

Imports ``arrag.config`` and ``arrag.utils`` alone. Start with :mod:`arrag.tokenizers.base`: the
class ``ImageTokenizer`` and ``load_tokenizer``, which finds the tokenizer of any checkpoint.
"""

from importlib import import_module

_PUBLIC = {
    "ImageTokenizer": "arrag.tokenizers.base",
    "load_tokenizer": "arrag.tokenizers.base",
    "register_tokenizer": "arrag.tokenizers.base",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
