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
    on in the sequence of the running forward.

    row: tokens of a row of the grid where the sequence has one more slot between two rows that is
    no image token; 0 where it has none.
    """

    index: int
    position: int
    count: int
    row: int = 0

    @property
    def places(self) -> slice | list[int]:
        """Their slots, as an index into the sequence."""
        if not self.row:
            return slice(self.index, self.index + self.count)
        ends = self.position // self.row  # before the first of them
        positions = range(self.position, self.position + self.count)
        return [self.index + i + p // self.row - ends for i, p in enumerate(positions)]


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
