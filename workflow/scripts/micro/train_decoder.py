"""Train the micro tokenizer: the codebook by k-means, then the decoder on its codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fit_codebook as codebook
import numpy as np
import torch
import training_data as data
from safetensors.torch import load_file, save_file
from torch import nn

from arrag.backbones import micro
from arrag.data.micro.world import World
from arrag.training import loop
from arrag.utils.outputs import atomic_path

BATCH = 16
JITTERED = 4  # of each batch


def make_codebook(assets: Path, out: Path, seed: int = 0) -> codebook.PatchCoder:
    """Fit the codebook on the training split and write it to ``out`` (.safetensors)."""
    world = World(assets, "training")
    images = data.images_of(data.scenes(world, 0, 7000))
    images = np.concatenate([images[:6000], data.jitter(images[6000:], seed)])
    coder = codebook.fit(images, micro.CODES, seed)
    names = ("projection", "bias", "codebook")
    tensors = {name: getattr(coder, name).contiguous() for name in names}
    with atomic_path(out) as partial:
        save_file(tensors, partial)
    return coder


def load_codebook(path: Path) -> codebook.PatchCoder:
    """Read what :func:`make_codebook` wrote."""
    return codebook.PatchCoder(**load_file(path))


def train_decoder(assets: Path, codes: Path, out: Path, work_dir: Path, steps: int) -> None:
    """Train the decoder on the codes of ``codes``; write all vqmodel weights to ``out``."""
    coder = load_codebook(codes)
    model = micro.build_janus(seed=1)[0].model.vqmodel
    codebook.set_linear_encoder(model, coder)
    trained = nn.ModuleDict({"decoder": model.decoder, "post": model.post_quant_conv})
    fit_decoder(
        assets,
        coder.encode,
        lambda codes: model.decode(codes.flatten(1)),
        trained,
        work_dir=work_dir,
        steps=steps,
    )
    with atomic_path(out) as partial:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial)


def fit_decoder(
    assets: Path,
    encode: Callable[[np.ndarray], torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
    trained: nn.Module,
    *,
    work_dir: Path,
    steps: int,
) -> None:
    """Train a decoder's weights ``trained`` to invert an encoder that stays as it is.

    encode: uint8 images [B, 48, 48, 3] -> int64 codes [B, 12, 12]; decode: codes -> [B, 3, 48, 48].
    """
    world = World(assets, "training")

    def reconstruct(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        target = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            return decode(encode(images)).float(), target

    def loss_of_step(step: int) -> torch.Tensor:
        images = data.images_of(data.scenes(world, step, BATCH))
        images[:JITTERED] = data.jitter(images[:JITTERED], step)
        output, target = reconstruct(images)
        error = output - target
        edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) * 0.1
        return (error**2).mean() + 0.1 * error.abs().mean() + edges

    held = {s: data.images_of(data.validation_scenes(World(assets, s), 128)) for s in
            ("training", "reference")}  # fmt: skip

    @torch.no_grad()
    def validate() -> dict:
        return {f"psnr_{s}": psnr(*reconstruct(images)) for s, images in held.items()}

    loop.train(
        trained,
        [{"params": trained.parameters()}],
        loss_of_step,
        steps=steps,
        peak=1e-3,
        work_dir=work_dir,
        train_config={"what": "decoder", "batch": BATCH, "jittered": JITTERED},
        validate=validate,
        validate_every=250,
        weight_decay=1e-4,
    )


def psnr(output: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB; images in [-1, 1]."""
    error = ((output.clamp(-1, 1) - target) ** 2).flatten(1).mean(1)
    return (10 * torch.log10(4 / error)).mean().item()
