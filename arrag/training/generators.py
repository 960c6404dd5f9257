"""What training must know of a kind of generator beyond what every backbone states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from arrag.backbones.janus import load_janus
from arrag.backbones.showo_checkpoint import load_showo
from arrag.config.backbones import Generator
from arrag.utils.errors import ArragError

Text = tuple[torch.Tensor, torch.Tensor]
"""Prompts' ids and mask, [B, T]."""


@dataclass(frozen=True)
class Trained:
    """load: as (checkpoint, device=...) a backbone; head: the part of its ``model`` that predicts
    codes; empty: a backbone and prompts to the unconditional rows."""

    load: Callable[..., Any]
    head: str
    empty: Callable[[Any, Text], Text]


GENERATORS = {
    "janus": Trained(
        load_janus,
        "model.generation_head",
        lambda backbone, text: (backbone.drop(text[0]), text[1]),
    ),
    "showo": Trained(load_showo, "lm_head", lambda backbone, text: backbone.drop(text[0])),
}


def trained(generator: Generator) -> Trained:
    """What there is of a generator's kind; ArragError if no adapter can be trained for it."""
    if generator.kind not in GENERATORS:
        raise ArragError(
            f"{generator.checkpoint}: no adapter can be trained for a {generator.kind} generator, "
            f"only for {', '.join(GENERATORS)}"
        )
    return GENERATORS[generator.kind]
