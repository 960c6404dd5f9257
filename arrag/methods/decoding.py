"""The decoding loop: step, retrieve, augment, sample, commit.

Randomness is one uniform number a position, made from (seed, prompt, sample) alone, so that an
image does not depend on its batch, on the order of the work, or on what was drawn before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch

from arrag.methods.augmentation import Augment


def uniforms(seed: int, prompt: str, sample: int, count: int) -> np.ndarray:
    """``count`` float64 numbers in [0, 1) that belong to one image."""
    key = json.dumps([seed, prompt, sample]).encode()
    words = np.frombuffer(hashlib.sha256(key).digest(), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words[:2])).random(count)


def sample_codes(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution: probs [B, V], u [B] in [0, 1) -> codes int64 [B]."""
    total = probs.double().cumsum(-1)  # [B, V]
    whole = total[:, -1:].contiguous()
    codes = torch.searchsorted(total, u.to(total)[:, None] * whole, right=True)
    # Rounding can point past the last code that adds anything.
    return torch.minimum(codes, torch.searchsorted(total, whole))[:, 0]


def probabilities(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None
) -> torch.Tensor:
    """What a code is drawn from, before retrieval: logits [..., V] -> [..., V] that sum to 1.

    top_k: only codes whose logit is at least the k-th largest have any; ties may make them more.
    """
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return torch.softmax(logits, dim=-1)


@torch.inference_mode()
def decode_raster(
    backbone,
    prompts: Sequence[str],
    draws: np.ndarray | None,
    *,
    guidance_scale: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    augment: Augment | None = None,
) -> torch.Tensor:
    """Generate the codes of B images in raster order: int64 [B, H, W].

    ``draws``: float64 [B, H * W] from :func:`uniforms`; None decodes greedily. ``top_k``: the
    model's own probabilities are cut to the k most likely codes, after guidance and temperature,
    None cuts none; what is retrieved is merged afterwards, so that it is never cut. ``augment`` is
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
        probs = probabilities(logits, temperature, top_k)
        if augment is not None:
            probs = augment.after(probs[:, None], codes, known, here)[:, 0]
        previous = probs.argmax(-1) if u is None else sample_codes(probs, u[:, position])
        row, col = divmod(position, width)
        codes[:, row, col] = previous
        known[:, row, col] = True
    return codes


@torch.inference_mode()
def decode_masked(
    backbone,
    prompts: Sequence[str],
    draws: np.ndarray | None,
    *,
    guidance_scale: float,
    temperature: float = 1.0,
    steps: int = 50,
    choice_temperature: float = 1.0,
    annealing: str = "compound",
    augment: Augment | None = None,
) -> torch.Tensor:
    """Generate the codes of B images from none to all in ``steps`` forwards: int64 [B, H, W].

    Each step draws every unknown code and keeps the most confident; how many stay unknown falls
    as a cosine. Confidence is the logarithm of the drawn code's probability plus Gumbel noise
    times ``choice_temperature``, which falls to 0 as ``annealing`` says (MaskGIT's decoding as in
    Show-o's public code, and with linear annealing as in diffusers' AmusedScheduler).
    ``draws``: float64 [B, steps, 2, H * W] from :func:`uniforms`, for codes and for noise; None
    decodes greedily and without noise. ``augment`` takes part in the second half of the steps
    (paper, appendix B.2): the earlier ones call it with no position.
    """
    height, width = backbone.grid
    batch, count, device = len(prompts), height * width, backbone.device
    codes = torch.zeros(batch, height, width, dtype=torch.long, device=device)
    known = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    u = None if draws is None else torch.from_numpy(draws).to(device)
    everywhere = torch.arange(count, device=device)
    nowhere = everywhere[:0]
    if augment is not None:
        augment.before(codes, known, nowhere)  # what an earlier batch left is not for the prompt
    state = backbone.start(list(prompts), guidance_scale)
    noise_scales = choice_temperatures(choice_temperature, steps, annealing)
    for step in range(steps):
        late = 2 * step >= steps
        if augment is not None:
            augment.before(codes, known, everywhere if late else nowhere)
        # Unknown in any of the images; what is drawn where an image knows its code is not used.
        here = (~known).flatten(1).any(0).nonzero()[:, 0]  # [P]
        if not len(here):
            break  # equally confident codes are settled together, at times all that were left
        logits = backbone.logits(state, codes, known, here)  # [B, P, V]
        probs = probabilities(logits, temperature)
        if augment is not None and late:
            probs = augment.after(probs, codes, known, here)
        drawn = probs.argmax(-1) if u is None else _sample_all(probs, u[:, step, 0, here])
        new = ~known.flatten(1)[:, here]  # [B, P]
        codes = codes.flatten(1).index_copy(
            1, here, torch.where(new, drawn, codes.flatten(1)[:, here])
        )
        confidence = probs.gather(-1, drawn[..., None])[..., 0].double().clamp(min=1e-20).log()
        if u is not None:
            noise = -torch.log(-torch.log(u[:, step, 1, here].clamp(min=1e-20)))
            confidence = confidence + noise_scales[step] * noise
        confidence = confidence.masked_fill(~new, torch.inf)
        left = [still_unknown(step, steps, count, n) for n in new.sum(1).tolist()]
        known = known.flatten(1).index_copy(1, here, ~_least(confidence, left))
        codes, known = codes.view(batch, height, width), known.view(batch, height, width)
    return codes


def still_unknown(step: int, steps: int, count: int, unknown: int) -> int:
    """How many of ``count`` codes are unknown after a step that began with ``unknown``.

    At least one is settled in a step and at least one left; the last step's value means nothing.
    In single precision, as the public codes of Show-o and aMUSEd: where the cosine is 1/2, as in
    step 8 of 12, theirs is a hair below.
    """
    ratio = torch.tensor((step + 1) / steps, dtype=torch.float32)
    target = int((count * torch.cos(ratio * math.pi / 2)).floor())
    return max(1, min(unknown - 1, target))


def _least(confidence: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Which of confidence [B, P] are below the (count + 1)-th smallest of their row: bool [B, P].

    Those that equal it are not: fewer than the count are chosen where they tie, as in the public
    codes.
    """
    ranked = torch.nn.functional.pad(confidence, (0, 1), value=torch.inf).sort(-1).values
    cut = ranked.gather(1, torch.tensor(counts, device=confidence.device)[:, None])  # [B, 1]
    return confidence < cut


def choice_temperatures(start: float, steps: int, annealing: str) -> list[float]:
    """The noise of each step's choice: ``compound`` (Show-o's) or ``linear`` (aMUSEd's).

    compound: each step multiplies by the share of steps that are left after it; linear: from
    ``start`` in the first step to 0 in the last.
    """
    if annealing == "linear":
        return [start * (1 - step / max(steps - 1, 1)) for step in range(steps)]
    scales = []
    for step in range(steps):
        start *= 1 - (step + 1) / steps
        scales.append(start)
    return scales


def _sample_all(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """``sample_codes`` for every position: probs [B, P, V], u [B, P] -> codes int64 [B, P]."""
    return sample_codes(probs.flatten(0, 1), u.flatten()).view(u.shape)
