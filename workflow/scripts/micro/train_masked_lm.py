"""Train the micro Show-o's language model to fill in masked codes of the training split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import training_data as data
from fit_signs import SignCoder, load_signs
from safetensors.torch import load_file
from torch import nn
from train_lm import fit, save

from arrag.backbones import micro
from arrag.backbones.showo import ShowoBackbone
from arrag.backbones.showo_checkpoint import add_markers
from arrag.data.micro.world import GRID, World
from arrag.tokenizers.magvit2 import Magvit
from arrag.training.masked import masked_losses, random_known
from arrag.utils.outputs import atomic_path


class Masked(nn.Module):
    """Show-o with its training loss."""

    def __init__(self, backbone: ShowoBackbone):
        super().__init__()
        self.model, self.backbone = backbone.model, backbone

    def forward(self, ids, mask, codes, known):
        """ids, mask [B, T]; codes, known [B, N] -> mean cross-entropy of the unknown, in nats."""
        logits = self.backbone.teacher_forced((ids, mask), codes, known)
        return masked_losses(logits, codes, known).sum() / (~known).sum()


def build_backbone(seed: int) -> ShowoBackbone:
    """A freshly initialised micro Show-o, ready to be trained."""
    model, vocabulary = micro.build_showo(seed)
    tokenizer = micro.build_showo_tokenizer()
    add_markers(tokenizer, vocabulary, Path("micro"))
    length = micro.TEXT_LENGTH + 1
    backbone = ShowoBackbone(model, tokenizer, vocabulary, GRID * GRID, length)
    backbone.model.requires_grad_(True)
    return backbone


def batch_of(scenes, backbone: ShowoBackbone, coder: SignCoder, seed: int, drop: float):
    """Prompts [B, T] with mask, codes and known [B, N]; a share ``drop`` has no prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = backbone.tokenize([scene.caption for scene in scenes])
    empty, seen = backbone.unconditional_ids(ids, mask)
    dropped = torch.rand(len(ids), 1, generator=generator) < drop
    codes = coder.encode(data.images_of(scenes)).flatten(1)
    known = random_known(*codes.shape, generator)
    return torch.where(dropped, empty, ids), torch.where(dropped, seen, mask), codes, known


def train(assets: Path, signs: Path, out: Path, work_dir: Path, steps: int) -> None:
    """Train from scratch for ``steps`` batches; write the trained weights to ``out``."""
    world, coder, backbone = World(assets, "training"), load_signs(signs), build_backbone(seed=0)
    batches = partial(batch_of, backbone=backbone, coder=coder)
    fit("masked lm", Masked(backbone), batches, world, work_dir, steps)
    save(backbone.model, out)


def assemble(lm: Path, tokenizer: Path, out: Path) -> None:
    """Join trained language model and tokenizer into one checkpoint directory."""
    model, _ = micro.build_showo(seed=0)
    model.load_state_dict(load_file(lm))
    signs = Magvit(micro.SHOWO_TOKENIZER)
    signs.load_state_dict(load_file(tokenizer))
    with atomic_path(out) as partial:
        micro.save_showo(model, signs, partial)
