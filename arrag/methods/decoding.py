"""The two decoding loops, raster and masked: step, retrieve, augment, sample, commit.

Randomness comes from numbers seeded by (seed, prompt, sample) alone, so that an image does not
depend on its batch, on the order of the work, or on what was generated before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from arrag.methods.augmentation import Augmentation


def seeded_uniforms(seed: int, prompt: str, sample: int, count: int) -> np.ndarray:
    """Return the ``count`` float64 numbers in [0, 1) that belong to one image."""
    key = json.dumps([seed, prompt, sample]).encode()
    words = np.frombuffer(hashlib.sha256(key).digest(), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words[:2])).random(count)


def sample_codes(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution: probs [B, V], u [B] in [0, 1) -> codes int64 [B]."""
    total = probs.double().cumsum(-1)  # [B, V]
    whole = total[:, -1:].contiguous()
    codes = torch.searchsorted(total, u.to(total)[:, None] * whole, right=True)
    # Rounding can point past the last code with a positive probability.
    return torch.minimum(codes, torch.searchsorted(total, whole))[:, 0]


def probabilities(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None
) -> torch.Tensor:
    """The model's own distribution over codes: logits [..., V] -> probabilities [..., V].

    Args:
        logits: After guidance.
        temperature: Divides the logits.
        top_k: Keep the codes whose logit is at least the k-th largest (more if there are ties).
    """
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return torch.softmax(logits, dim=-1)


@torch.inference_mode()
def decode_raster(
    backbone: Any,
    prompts: Sequence[str],
    noise: np.ndarray | None,
    *,
    guidance_scale: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    augmentation: Augmentation | None = None,
) -> torch.Tensor:
    """Generate codes one by one in raster order.

    Args:
        backbone: A causal backbone.
        prompts: B prompts.
        noise: float64 [B, H * W] of :func:`seeded_uniforms`; None decodes greedily.
        guidance_scale: Classifier-free guidance, as the backbone defines it.
        temperature: Divides the logits.
        top_k: Cut the model's distribution to its k most likely codes. Retrieved codes are blended
            in afterwards and are never cut.
        augmentation: Its hooks are called before and after each forward.

    Returns:
        The codes, int64 [B, H, W].
    """
    height, width = backbone.grid
    batch, device = len(prompts), backbone.device
    codes = torch.zeros(batch, height, width, dtype=torch.long, device=device)
    known = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    u = None if noise is None else torch.from_numpy(noise).to(device)
    state = backbone.start(list(prompts), guidance_scale)
    previous = None
    for t in range(height * width):
        position = torch.tensor([t], device=device)
        if augmentation is not None:
            augmentation.on_step_start(codes, known, position)
        logits = backbone.logits(state, previous)  # [B, V]
        probs = probabilities(logits, temperature, top_k)
        if augmentation is not None:
            probs = augmentation.on_probs(probs[:, None], codes, known, position)[:, 0]
        previous = probs.argmax(-1) if u is None else sample_codes(probs, u[:, t])
        row, column = divmod(t, width)
        codes[:, row, column] = previous
        known[:, row, column] = True
    return codes


@torch.inference_mode()
def decode_masked(
    backbone: Any,
    prompts: Sequence[str],
    noise: np.ndarray | None,
    *,
    guidance_scale: float,
    temperature: float = 1.0,
    steps: int = 50,
    choice_temperature: float = 1.0,
    annealing: str = "compound",
    augmentation: Augmentation | None = None,
) -> torch.Tensor:
    """Generate codes from all masked to all known in ``steps`` forwards.

    Each step samples every masked code and keeps the most confident ones; the number of masked
    codes falls as a cosine. Confidence is the log-probability of the sampled code plus Gumbel noise
    times a falling temperature. This is MaskGIT's decoding as in Show-o's public code, and with
    linear annealing as in diffusers' AmusedScheduler. The augmentation takes part in the second
    half of the steps (paper, appendix B.2); the earlier ones call it without positions.

    Args:
        backbone: A masked backbone.
        prompts: B prompts.
        noise: float64 [B, steps, 2, H * W] of :func:`seeded_uniforms`, for codes and for the
            confidence; None decodes greedily and without noise.
        guidance_scale: Classifier-free guidance, as the backbone defines it.
        temperature: Divides the logits.
        steps: Number of forwards.
        choice_temperature: Scale of the Gumbel noise at the start.
        annealing: How that scale falls, see :func:`choice_temperatures`.
        augmentation: Its hooks are called before and after each forward.

    Returns:
        The codes, int64 [B, H, W].
    """
    height, width = backbone.grid
    batch, count, device = len(prompts), height * width, backbone.device
    codes = torch.zeros(batch, height, width, dtype=torch.long, device=device)
    known = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    u = None if noise is None else torch.from_numpy(noise).to(device)
    all_positions = torch.arange(count, device=device)
    no_positions = all_positions[:0]
    if augmentation is not None:  # the prompt must not see what an earlier batch retrieved
        augmentation.on_step_start(codes, known, no_positions)
    state = backbone.start(list(prompts), guidance_scale)
    noise_scales = choice_temperatures(choice_temperature, steps, annealing)
    for step in range(steps):
        augmented = augmentation is not None and 2 * step >= steps
        if augmentation is not None:
            augmentation.on_step_start(codes, known, all_positions if augmented else no_positions)
        # Masked in any image; what is sampled where an image knows its code is not used.
        positions = (~known).flatten(1).any(0).nonzero()[:, 0]  # [P]
        if not len(positions):
            break  # equally confident codes are kept together, at times all that were left
        logits = backbone.logits(state, codes, known, positions)  # [B, P, V]
        probs = probabilities(logits, temperature)
        if augmented:
            probs = augmentation.on_probs(probs, codes, known, positions)
        if u is None:
            sampled = probs.argmax(-1)  # [B, P]
        else:
            flat = u[:, step, 0, positions].flatten()
            sampled = sample_codes(probs.flatten(0, 1), flat).view(batch, -1)
        masked = ~known.flatten(1)[:, positions]  # [B, P]
        codes = codes.flatten(1)
        codes = codes.index_copy(1, positions, torch.where(masked, sampled, codes[:, positions]))
        confidence = probs.gather(-1, sampled[..., None])[..., 0].double().clamp(min=1e-20).log()
        if u is not None:
            gumbel = -torch.log(-torch.log(u[:, step, 1, positions].clamp(min=1e-20)))
            confidence = confidence + noise_scales[step] * gumbel
        confidence = confidence.masked_fill(~masked, torch.inf)
        left = [num_masked(step, steps, count, n) for n in masked.sum(1).tolist()]
        known = known.flatten(1).index_copy(1, positions, ~_least_confident(confidence, left))
        codes, known = codes.view(batch, height, width), known.view(batch, height, width)
    return codes


def num_masked(step: int, steps: int, count: int, masked: int) -> int:
    """How many of ``count`` codes stay masked after a step that began with ``masked``.

    A step settles at least one code and leaves at least one; the last step's value is not used. In
    single precision, as in the public code of Show-o and aMUSEd: where the cosine is 1/2, as in
    step 8 of 12, theirs is slightly below.
    """
    ratio = torch.tensor((step + 1) / steps, dtype=torch.float32)
    target = int((count * torch.cos(ratio * math.pi / 2)).floor())
    return max(1, min(masked - 1, target))


def choice_temperatures(start: float, steps: int, annealing: str) -> list[float]:
    """The scale of each step's Gumbel noise.

    Args:
        start: The scale to begin with.
        steps: Number of steps.
        annealing: ``"compound"`` (Show-o): each step multiplies by the share of steps left after
            it. ``"linear"`` (aMUSEd): from ``start`` in the first step to 0 in the last.
    """
    if annealing == "linear":
        return [start * (1 - step / max(steps - 1, 1)) for step in range(steps)]
    scales = []
    for step in range(steps):
        start *= 1 - (step + 1) / steps
        scales.append(start)
    return scales


def _least_confident(confidence: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Which of confidence [B, P] are below the (count + 1)-th smallest of their row: bool [B, P].

    Where values tie, fewer than the count are chosen, as in the public code.
    """
    ranked = torch.nn.functional.pad(confidence, (0, 1), value=torch.inf).sort(-1).values
    threshold = ranked.gather(1, torch.tensor(counts, device=confidence.device)[:, None])  # [B, 1]
    return confidence < threshold
