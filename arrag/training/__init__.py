"""Training of adapters: captioned pairs, what they retrieve, the training loop.

Imports ``arrag.methods`` and below. Start with :mod:`arrag.training.adapt`, which trains and writes
an adapter; :mod:`arrag.training.pairs` makes its data, :mod:`arrag.training.loop` is the loop.
"""

from importlib import import_module

_PUBLIC = {
    "Pairs": "arrag.training.pairs",
    "compare_adapters": "arrag.training.adapt",
    "make_pairs": "arrag.training.pairs",
    "retrieve_neighbours": "arrag.training.neighbours",
    "retrieve_references": "arrag.training.references",
    "train_adapter": "arrag.training.adapt",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
