"""Converters of published checkpoints to the formats that the backbones load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrag.utils.registry import Registry

CONVERTERS: Registry[Callable[..., dict[str, Any]]] = Registry(
    "converter",
    {
        "janus": "arrag.backbones.convert.janus:convert_janus",
        "llamagen": "arrag.backbones.convert.llamagen:convert_llamagen",
    },
)


def convert_checkpoint(
    kind: str, source: str | Path, out: str | Path, **options: Any
) -> dict[str, Any]:
    """Convert a published checkpoint.

    Args:
        kind: ``"janus"`` or ``"llamagen"``.
        source: The published folder or weights file.
        out: The folder to write.
        **options: Of the converter: ``tokenizer`` and ``image_size`` for LlamaGen.

    Returns:
        ``out``, and how many tensors were converted.

    Raises:
        ArragError: A file is missing, damaged or of another model; the keys are named.
    """
    return CONVERTERS.get(kind)(Path(source), Path(out), **options)
