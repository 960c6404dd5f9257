"""The micro tokenizer's codebook and encoder, computed rather than trained.

A patch of 4 x 4 pixels is described by its seven leading principal components and a constant;
k-means on the unit sphere of those eight numbers gives the codebook. Plain VQ training reaches
lower quality in many times the time on a CPU (it starts from codes that carry no meaning).

The encoder is transformers' ``JanusVQVAEEncoder`` with weights set so that it computes exactly
those eight numbers: a network with group norms and swish units that is nevertheless linear.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from arrag.data.micro.world import GRID, PATCH

COMPONENTS = 7
CONSTANT = 3.0  # the eighth coordinate before normalisation, in standard deviations
ANCHOR, RESCALE = 577.0, 408.0  # see set_projection; 577 / 408 is the square root of 2 to 2e-6


def to_patches(images: np.ndarray) -> torch.Tensor:
    """uint8 images [B, S, S, 3] -> float32 patches [B * G * G, 48] in [-1, 1], raster order."""
    x = torch.from_numpy(images).float() / 127.5 - 1
    side = images.shape[1] // PATCH
    x = x.view(len(images), side, PATCH, side, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, 3 * PATCH * PATCH)


class PatchCoder:
    """Patches to codes by the formula the encoder computes (used to feed training quickly)."""

    def __init__(self, projection: torch.Tensor, bias: torch.Tensor, codebook: torch.Tensor):
        self.projection, self.bias = projection, bias
        self.codebook = codebook  # [V, 8], nearly unit rows: the tokenizer normalises them too

    def features(self, patches: torch.Tensor) -> torch.Tensor:
        """float32 patches [n, 48] -> unit vectors [n, 8]."""
        y = patches @ self.projection.T + self.bias  # [n, 7]
        return F.normalize(torch.cat([y, torch.full((len(y), 1), CONSTANT)], dim=1), dim=1)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 images [B, S, S, 3] -> int64 codes [B, G, G]."""
        codes = (self.features(to_patches(images)) @ F.normalize(self.codebook, dim=1).T).argmax(1)
        return codes.view(len(images), GRID, GRID)


def fit(images: np.ndarray, codes: int, seed: int) -> PatchCoder:
    """Principal components and k-means codebook of the patches of ``images``."""
    import faiss

    patches = to_patches(images)
    # Distinct patches count once: flat backgrounds would otherwise take most of the codes.
    patches = torch.unique(patches, dim=0)
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
    patches = patches[order[:250_000]]
    mean = patches.mean(0)
    axes = torch.linalg.svd(patches[:60_000] - mean, full_matrices=False)[2][:COMPONENTS]
    scale = ((patches - mean) @ axes.T).std()
    # Half precision is what the checkpoint stores, so round before the codebook is made.
    projection = (axes / scale).half().float()
    bias = (-(projection @ mean)).half().float()
    coder = PatchCoder(projection, bias, torch.empty(0))
    kmeans = faiss.Kmeans(
        COMPONENTS + 1, codes, niter=25, spherical=True, seed=seed, max_points_per_centroid=250
    )
    kmeans.train(coder.features(patches).numpy())
    coder.codebook = torch.from_numpy(kmeans.centroids).half().float()
    return coder


def set_linear_encoder(vqmodel: nn.Module, coder: PatchCoder) -> None:
    """Set the encoder of a ``JanusVQVAE`` to compute ``coder``; see :func:`set_projection`."""
    with torch.no_grad():
        set_projection(vqmodel.encoder, coder.projection, coder.bias)
        vqmodel.encoder.conv_out.bias[COMPONENTS] = CONSTANT
        vqmodel.quant_conv.weight.zero_()
        vqmodel.quant_conv.bias.zero_()
        vqmodel.quant_conv.weight[range(8), range(8), 0, 0] = 1.0
        vqmodel.quantize.embedding.weight.copy_(coder.codebook)


@torch.no_grad()
def set_projection(encoder: nn.Module, projection: torch.Tensor, bias: torch.Tensor) -> None:
    """Set a convolutional encoder to compute ``projection @ patch + bias`` for every patch.

    projection: [f, 48], f at most 32; bias: [f]. The encoder has three levels of 32, 64 and 128
    channels (Janus's and MAGVIT-v2's name their parts alike). Residual blocks and attention add
    zero. The two strided convolutions move pixels into channels (3 -> 12 -> 48), and the last
    shortcut applies the projection, writing into each group of four channels the values
    (y, -y, A, -A): their mean is zero and, with a large anchor A, their variance is A^2 / 2
    whatever y is, so that the final group norm only rescales. Swish is undone by
    swish(y) - swish(-y) = y. All constants are exact in half precision.
    """
    for name, parameter in encoder.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    encoder.conv_in.weight[range(3), range(3), 1, 1] = 1.0
    for level, channels in ((0, 3), (1, 12)):
        conv = encoder.down[level].downsample.conv.weight
        for dy in range(2):
            for dx in range(2):
                for c in range(channels):
                    conv[(dy * 2 + dx) * channels + c, c, dy, dx] = 1.0
    encoder.down[1].block[0].nin_shortcut.weight[range(12), range(12), 0, 0] = 1.0
    last = encoder.down[2].block[0].nin_shortcut
    columns = projection[:, _pixel_order()]  # [f, 48]
    for f in range(len(projection)):
        for sign, slot in ((1.0, 0), (-1.0, 1)):
            last.weight[4 * f + slot, :48, 0, 0] = sign * columns[f]
            last.bias[4 * f + slot] = sign * bias[f]
        last.bias[4 * f + 2], last.bias[4 * f + 3] = ANCHOR, -ANCHOR
    encoder.norm_out.weight.fill_(RESCALE)
    encoder.norm_out.bias.zero_()
    for f in range(len(projection)):
        encoder.conv_out.weight[f, 4 * f, 1, 1] = 1.0
        encoder.conv_out.weight[f, 4 * f + 1, 1, 1] = -1.0


def _pixel_order() -> list[int]:
    """For each of the encoder's 48 channels, the index of that pixel in a raster-order patch."""
    order = []
    for outer in range(4):  # second strided convolution: which 2 x 2 block
        for inner in range(4):  # first one: which pixel of the block
            y = (outer // 2) * 2 + inner // 2
            x = (outer % 2) * 2 + inner % 2
            order += [(y * PATCH + x) * 3 + c for c in range(3)]
    return order
