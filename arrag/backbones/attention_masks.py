"""What the tokens of a sequence look at, as attention masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def causal_rows(mask: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """What the last ``count`` of T tokens look at, by default all: themselves and those before.

    mask: bool [B, T], which are no pads -> bool [B, 1, count, T]. A pad looks at itself, so that
    no row of the softmax is empty; nothing else looks at it.
    """
    length = mask.shape[1]
    count = length if count is None else count
    own = torch.arange(length, device=mask.device)
    rows = own[length - count :, None]  # [count, 1]
    return (((own <= rows) & mask[:, None]) | (own == rows))[:, None]


def image_rows(mask: torch.Tensor, count: int) -> torch.Tensor:
    """What ``count`` tokens of an image block look at: the block, and the text before it.

    mask: bool [B, T], which text tokens are no pads -> bool [B, 1, count, T + count].
    """
    keys = F.pad(mask, (0, count), value=True)
    return keys[:, None, None].expand(-1, 1, count, -1)
