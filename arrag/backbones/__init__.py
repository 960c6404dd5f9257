"""Generators of image tokens: prompts to a state, state and tokens so far to logits.

Imports ``arrag.tokenizers``, ``arrag.data``, ``arrag.config`` and ``arrag.utils``; it knows
neither retrieval nor the decoding loops. Start with :mod:`arrag.backbones.base` (what a backbone
is) and :mod:`arrag.backbones.janus` (one of them); ``docs/how-to/own-backbone.md`` adds another.
"""

from importlib import import_module

_PUBLIC = {
    "BACKBONES": "arrag.backbones.registry",
    "Backbone": "arrag.backbones.base",
    "CausalBackbone": "arrag.backbones.causal",
    "convert_checkpoint": "arrag.backbones.convert",
    "load_backbone": "arrag.backbones.registry",
    "register_backbone": "arrag.backbones.registry",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
