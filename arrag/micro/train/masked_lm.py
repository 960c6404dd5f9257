"""Train the micro Show-o's language model to fill in masked codes of the training split."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from arrag.backbones.showo import ShowoBackbone
from arrag.backbones.showo_checkpoint import add_markers
from arrag.files import atomic_path
from arrag.magvit import Magvit
from arrag.micro import showo
from arrag.micro.train import data
from arrag.micro.train.lm import BATCH, DROP_PROMPT, scenes_of
from arrag.micro.train.signs import SignCoder, load_signs
from arrag.micro.world import GRID, World
from arrag.training import loop


class Masked(nn.Module):
    """Show-o with its training loss."""

    def __init__(self, backbone: ShowoBackbone):
        super().__init__()
        self.model, self.backbone = backbone.model, backbone

    def forward(self, ids, mask, codes, known):
        """ids, mask [B, T]; codes, known [B, N] -> mean cross-entropy of the unknown, in nats."""
        logits = self.backbone.teacher_forced((ids, mask), codes, known).flatten(0, 1)
        losses = F.cross_entropy(logits, codes.flatten(), reduction="none")
        return losses.where(~known.flatten(), 0.0).sum() / (~known).sum()


def build_backbone(seed: int) -> ShowoBackbone:
    """A freshly initialised micro Show-o, ready to be trained."""
    model, vocabulary = showo.build_showo(seed)
    tokenizer = showo.build_text_tokenizer()
    add_markers(tokenizer, vocabulary, Path("micro"))
    length = showo.TEXT_LENGTH + 1
    backbone = ShowoBackbone(model, tokenizer, vocabulary, GRID * GRID, length)
    backbone.model.requires_grad_(True)
    return backbone


def noise(batch: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Which codes are known, bool [B, N]: the unknown share is the cosine of a uniform angle."""
    share = torch.cos(math.pi / 2 * torch.rand(batch, 1, generator=generator))
    unknown = (share * count).round().clamp(min=1)
    order = torch.rand(batch, count, generator=generator).argsort(1).argsort(1)
    return order >= unknown


def batch_of(scenes, backbone: ShowoBackbone, coder: SignCoder, seed: int, drop: float):
    """Prompts [B, T] with mask, codes and known [B, N]; a share ``drop`` has no prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = backbone.tokenize([scene.caption for scene in scenes])
    empty, seen = backbone.drop(ids)
    dropped = torch.rand(len(ids), 1, generator=generator) < drop
    codes = coder.encode(data.images_of(scenes)).flatten(1)
    known = noise(*codes.shape, generator)
    return torch.where(dropped, empty, ids), torch.where(dropped, seen, mask), codes, known


def train(assets: Path, signs: Path, out: Path, work_dir: Path, steps: int) -> None:
    """Train from scratch for ``steps`` batches; write the trained weights to ``out``."""
    world, coder, backbone = World(assets, "training"), load_signs(signs), build_backbone(seed=0)
    trained = Masked(backbone).train()
    # Fusing the element-wise work nearly doubles the speed, where there is a compiler.
    forward = torch.compile(trained) if shutil.which("g++") else trained

    def loss_of_step(step: int) -> torch.Tensor:
        scenes = scenes_of(world, step, steps)
        batch = batch_of(scenes, backbone, coder, step, DROP_PROMPT)
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*batch)

    scenes = data.validation_scenes(world, 256)

    @torch.no_grad()
    def validate() -> dict:
        def mean_loss(drop: float) -> float:
            parts = range(0, len(scenes), BATCH)
            batches = (batch_of(scenes[i : i + BATCH], backbone, coder, i, drop) for i in parts)
            return sum(trained(*batch).item() for batch in batches) / len(parts)

        with torch.autocast("cpu", torch.bfloat16):
            return {"held_out": mean_loss(0.0), "held_out_no_prompt": mean_loss(1.0)}

    loop.run(
        trained,
        [{"params": trained.parameters()}],
        loss_of_step,
        steps=steps,
        peak=2e-3,
        work_dir=work_dir,
        recipe={"what": "masked lm", "batch": BATCH, "drop": DROP_PROMPT},
        validate=validate,
        warmup=200,
        weight_decay=0.05,
        validate_every=250,
    )
    with atomic_path(out) as partial:
        save_file({k: v.contiguous() for k, v in backbone.model.state_dict().items()}, partial)


def assemble(lm: Path, tokenizer: Path, out: Path) -> None:
    """Join trained language model and tokenizer into one checkpoint directory."""
    model, _ = showo.build_showo(seed=0)
    model.load_state_dict(load_file(lm))
    signs = Magvit(showo.TOKENIZER)
    signs.load_state_dict(load_file(tokenizer))
    with atomic_path(out) as partial:
        showo.save(model, signs, partial)
