"""The decoding loop: step, retrieve, augment, sample, commit.

Randomness is one uniform number a position, made from (seed, prompt, sample) alone, so that an
image does not depend on its batch, on the order of the work, or on what was drawn before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch

from arrag.augment import Augment


def uniforms(seed: int, prompt: str, sample: int, count: int) -> np.ndarray:
    """``count`` float64 numbers in [0, 1) that belong to one image."""
    key = json.dumps([seed, prompt, sample]).encode()
    words = np.frombuffer(hashlib.sha256(key).digest(), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words[:2])).random(count)


def sample_codes(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution: probs [B, V], u [B] in [0, 1) -> codes int64 [B]."""
    total = probs.double().cumsum(-1)  # [B, V]
    codes = torch.searchsorted(total, u.to(total)[:, None] * total[:, -1:], right=True)[:, 0]
    # Rounding can point past the last code that has any mass.
    last = (probs > 0).long().mul(torch.arange(probs.shape[-1], device=probs.device)).amax(-1)
    return torch.minimum(codes, last)


@torch.inference_mode()
def decode_raster(
    backbone,
    prompts: Sequence[str],
    draws: np.ndarray | None,
    *,
    guidance_scale: float,
    temperature: float = 1.0,
    augment: Augment | None = None,
) -> torch.Tensor:
    """Generate the codes of B images in raster order: int64 [B, H, W].

    ``draws``: float64 [B, H * W] from :func:`uniforms`; None decodes greedily. ``augment`` is
    called on both sides of each forward.
    """
    height, width = backbone.grid
    batch, device = len(prompts), backbone.device
    codes = torch.zeros(batch, height, width, dtype=torch.long, device=device)
    known = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    u = None if draws is None else torch.from_numpy(draws).to(device)
    state = backbone.start(list(prompts), guidance_scale)
    previous = None
    for position in range(height * width):
        here = torch.tensor([position], device=device)
        if augment is not None:
            augment.before(codes, known, here)
        logits = backbone.logits(state, previous)  # [B, V]
        probs = torch.softmax(logits / temperature, dim=-1)
        if augment is not None:
            probs = augment.after(probs[:, None], codes, known, here)[:, 0]
        previous = probs.argmax(-1) if u is None else sample_codes(probs, u[:, position])
        row, col = divmod(position, width)
        codes[:, row, col] = previous
        known[:, row, col] = True
    return codes
