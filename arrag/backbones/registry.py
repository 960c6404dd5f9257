"""The backbones by name: ``kind`` in a configuration.

A backbone is a subclass of :class:`arrag.backbones.base.Backbone`, decorated by
``register_backbone``. Those listed here are imported when they are first asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arrag.utils.registry import Registry

if TYPE_CHECKING:
    from arrag.backbones.base import Backbone

BACKBONES: Registry[type[Backbone]] = Registry(
    "backbone",
    {
        "amused": "arrag.backbones.amused:AmusedBackbone",
        "emu3": "arrag.backbones.emu3:Emu3Backbone",
        "janus": "arrag.backbones.janus:JanusBackbone",
        "llamagen": "arrag.backbones.llamagen.model:LlamaGenBackbone",
        "showo": "arrag.backbones.showo:ShowoBackbone",
    },
)
register_backbone = BACKBONES.register


def load_backbone(
    kind: str, checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"
) -> Backbone:
    """Load a checkpoint folder with the backbone registered as ``kind``.

    Raises:
        UnknownNameError: No backbone has that name.
        ArragError: The checkpoint is missing, damaged or of another model.
    """
    return BACKBONES.get(kind).load(checkpoint, dtype, device)
