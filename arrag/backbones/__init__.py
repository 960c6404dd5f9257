"""Generators: a prompt becomes a state, a state and the codes so far become logits.

A backbone knows nothing of retrieval. What an adapter needs, every backbone states alike:

    grid, codebook_size   (H, W) and V
    context               "causal" or "full": which neighbours can be known before a code is chosen
    hidden_size, sites    D, and the stock decoder layers, each with a `self_attn` that is called
                          with `hidden_states=` the layer's input after its norm
    embed_codes           codes to what the language model reads for them
    slots                 where the running forward holds and predicts image tokens
"""

from __future__ import annotations

from typing import NamedTuple


class Run(NamedTuple):
    """``count`` consecutive image tokens: from ``position`` on in raster order, and from ``index``
    on in the sequence of the running forward."""

    index: int
    position: int
    count: int


class Slots(NamedTuple):
    """Where the image tokens of the running forward are; set before it starts.

    rows: the first ``rows`` rows are the images; the others (the unconditional rows of guidance)
      take no part in augmentation. held: tokens that are inputs, at the slots that hold them.
    predicted: tokens that are predicted, at the slots that predict them; a causal model predicts
      a token where its predecessor is held, a masked one where the token itself is held.
    """

    rows: int
    held: Run
    predicted: Run
