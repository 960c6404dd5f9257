"""The micro Show-o's tokenizer: which halves of a patch's space its bits tell apart.

A bit of a code is the sign of an affine function of the 48 numbers of a patch. The functions start
as rotated principal components (iterative quantisation: the rotation that brings components and
signs closest) and are then trained, straight through the signs, with a small network that draws
the patch again. MAGVIT-v2's encoder is set in closed form to compute them, and its decoder is
trained on their codes; trained as a whole it reaches far less in the same time on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import training_data as data
from fit_codebook import set_projection, to_patches
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from train_decoder import fit_decoder

from arrag.backbones import micro
from arrag.data.micro.world import GRID, World
from arrag.tokenizers.magvit2 import Magvit, codebook
from arrag.utils.outputs import atomic_path

STEPS = 4000
BATCH = 1024  # patches


class SignCoder:
    """Patches to codes by the formula the encoder computes (used to feed training quickly)."""

    def __init__(self, projection: torch.Tensor, bias: torch.Tensor):
        self.projection, self.bias = projection, bias  # [bits, 48], [bits]

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 images [B, S, S, 3] -> int64 codes [B, G, G]."""
        signs = to_patches(images) @ self.projection.T + self.bias > 0  # [B * G * G, bits]
        powers = 2 ** torch.arange(len(self.bias) - 1, -1, -1)
        return (signs * powers).sum(1).view(len(images), GRID, GRID)


def fit(images: np.ndarray, bits: int, seed: int, steps: int = STEPS) -> SignCoder:
    """The affine functions of the patches of ``images``, rounded to half precision."""
    generator = torch.Generator().manual_seed(seed)
    # Distinct patches count once: flat backgrounds would otherwise rule.
    patches = torch.unique(to_patches(images), dim=0)
    patches = patches[torch.randperm(len(patches), generator=generator)[:200_000]]
    torch.manual_seed(seed)
    linear = nn.Linear(patches.shape[1], bits)
    draw = nn.Sequential(
        nn.Linear(bits, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 48)
    )
    with torch.no_grad():
        weight, offset = _rotated_components(patches, bits)
        linear.weight.copy_(1.5 * weight)
        linear.bias.copy_(1.5 * offset)
    optimizer = torch.optim.AdamW(
        [*linear.parameters(), *draw.parameters()], lr=2e-3, weight_decay=0.0
    )
    for step in tqdm(range(steps), desc="signs", mininterval=5):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        x = patches[torch.randint(len(patches), (BATCH,), generator=generator)]
        y = linear(x)
        through = y.clamp(-1, 1)
        signs = through + (torch.where(y > 0, 1.0, -1.0) - through).detach()
        far = (y.abs() - 1).clamp(min=0)  # where no gradient comes through
        loss = ((draw(signs) - x) ** 2).mean() + 0.02 * (far**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return SignCoder(*(part.detach().half().float() for part in (linear.weight, linear.bias)))


def _rotated_components(patches: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Affine functions [bits, 48], [bits]: principal components rotated towards their signs."""
    mean = patches.mean(0)
    axes = torch.linalg.svd(patches[:60_000] - mean, full_matrices=False)[2][:bits]
    points = (patches - mean) @ axes.T
    rotation = torch.eye(bits)
    for _ in range(40):
        u, _, v = torch.linalg.svd(torch.sign(points @ rotation).T @ points)
        rotation = (u @ v).T
    weight = rotation.T @ axes
    return weight, -(weight @ mean)


def make_signs(assets: Path, out: Path, seed: int = 0) -> SignCoder:
    """Fit on the training split, a seventh of it tinted, and write to ``out`` (.safetensors)."""
    images = data.images_of(data.scenes(World(assets, "training"), 0, 7000))
    images = np.concatenate([images[:6000], data.jitter(images[6000:], seed)])
    coder = fit(images, micro.SHOWO_TOKENIZER.bits, seed)
    with atomic_path(out) as partial:
        save_file({"projection": coder.projection, "bias": coder.bias}, partial)
    return coder


def load_signs(path: Path) -> SignCoder:
    """Read what :func:`make_signs` wrote."""
    return SignCoder(**load_file(path))


def set_signs(model: Magvit, coder: SignCoder) -> None:
    """Set the encoder of a tokenizer of ``micro.SHOWO_TOKENIZER``'s shape to compute ``coder``."""
    set_projection(model.encoder, coder.projection, coder.bias)
    every = range(len(coder.bias))
    with torch.no_grad():
        model.encoder.quant_conv.weight[every, every, 0, 0] = 1.0


def train_decoder(assets: Path, signs: Path, out: Path, work_dir: Path, steps: int) -> None:
    """Train the decoder on the codes of ``signs``; write all tokenizer weights to ``out``."""
    coder = load_signs(signs)
    torch.manual_seed(1)
    model = Magvit(micro.SHOWO_TOKENIZER)
    set_signs(model, coder)
    vectors = codebook(micro.SHOWO_TOKENIZER.bits)
    fit_decoder(
        assets,
        coder.encode,
        lambda codes: model.decoder(vectors[codes].permute(0, 3, 1, 2).contiguous()),
        model.decoder,
        work_dir=work_dir,
        steps=steps,
    )
    with atomic_path(out) as partial:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial)
