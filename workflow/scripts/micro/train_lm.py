"""Train the micro Janus's language model on captions and codes of the training split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import training_data as data
from safetensors.torch import load_file, save_file
from torch import nn
from train_decoder import load_codebook

from arrag.backbones import micro
from arrag.backbones.janus import TEMPLATE, unconditional_row
from arrag.data.micro.world import TASKS, Scene, World
from arrag.training import loop
from arrag.utils.outputs import atomic_path

BATCH = 32
PROMPT_LENGTH = 16  # tokens of the longest prompt of the grammar, template included
DROP_PROMPT = 0.1  # share of prompts replaced by the unconditional row, for guidance


class Conditioned(nn.Module):
    """The parts of Janus that generation trains, with a teacher-forced loss."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.language_model = model.model.language_model
        self.embed = model.model.generation_embeddings
        self.align = model.model.generation_aligner
        self.head = model.model.generation_head

    def forward(self, ids, mask, codes):
        """ids, mask [B, T] (left-padded), codes [B, N] -> mean cross-entropy in nats."""
        text = self.language_model.embed_tokens(ids)
        image = self.align(self.embed(codes[:, :-1]))
        inputs = torch.cat([text, image], dim=1)  # [B, T + N - 1, D]
        mask = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool).tril()
        # A pad looks at itself, so that no row of the softmax is empty.
        seen = causal & mask.bool()[:, None, None, :] | torch.eye(mask.shape[1], dtype=torch.bool)
        hidden = self.language_model(
            inputs_embeds=inputs, attention_mask=seen, position_ids=positions, use_cache=False
        ).last_hidden_state
        logits = self.head(hidden[:, ids.shape[1] - 1 :])  # [B, N, V]
        return F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


def scenes_of(world: World, step: int, steps: int) -> list[Scene]:
    """The batch of a step: tasks at random in the first half, then the colour tasks twice as often.

    Recoloured sprites are ten times as many as the others, and are learnt last.
    """
    if step < steps // 2:
        return data.scenes(world, step, BATCH)
    cycle = (*TASKS, "colors", "color_attr")
    return [world.scene(step * BATCH + i, cycle[i % len(cycle)]) for i in range(BATCH)]


def batch_of(scenes, tokenizer, coder, seed: int, drop: float):
    """Prompts [B, T] with mask and codes [B, N]; a share ``drop`` has no prompt."""
    prompts = [TEMPLATE.format(prompt=scene.caption) for scene in scenes]
    text = tokenizer(prompts, padding="max_length", max_length=PROMPT_LENGTH, return_tensors="pt")
    ids, mask = text["input_ids"], text["attention_mask"]
    dropped = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed)) < drop
    ids[dropped] = drop_prompt(ids[dropped], tokenizer)
    return ids, mask, coder.encode(data.images_of(scenes)).flatten(1)


def drop_prompt(ids: torch.Tensor, tokenizer) -> torch.Tensor:
    """Prompts [B, T] -> their unconditional rows."""
    boi = tokenizer.convert_tokens_to_ids(micro.MARKERS["boi_token"])
    return unconditional_row(ids, tokenizer.bos_token_id, boi, tokenizer.pad_token_id)


def train(assets: Path, codes: Path, out: Path, work_dir: Path, steps: int) -> None:
    """Train from scratch for ``steps`` batches; write the trained weights to ``out``."""
    world = World(assets, "training")
    coder = load_codebook(codes)
    model, tokenizer = micro.build_janus(seed=0)
    with torch.no_grad():  # start the input embeddings from what the codes look like
        model.model.generation_embeddings.weight.copy_(coder.codebook)
    trained = Conditioned(model)
    fit("lm", trained, partial(batch_of, tokenizer=tokenizer, coder=coder), world, work_dir, steps)
    save(trained, out)


def fit(
    what: str,
    model: nn.Module,
    batch_of: Callable[..., tuple],
    world: World,
    work_dir: Path,
    steps: int,
) -> None:
    """Train a language model for ``steps`` batches of scenes; ``what`` names the recipe.

    model: its forward takes what ``batch_of`` gives for some scenes, a ``seed`` and the share of
    prompts to ``drop``, and returns the loss.
    """
    model.train()
    # Fusing the element-wise work nearly doubles the speed, where there is a compiler.
    forward = torch.compile(model) if shutil.which("g++") else model

    def loss_of_step(step: int) -> torch.Tensor:
        batch = batch_of(scenes_of(world, step, steps), seed=step, drop=DROP_PROMPT)
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*batch)

    scenes, starts = data.validation_scenes(world, 256), range(0, 256, BATCH)
    held = {
        name: [batch_of(scenes[i : i + BATCH], seed=i, drop=drop) for i in starts]
        for name, drop in (("held_out", 0.0), ("held_out_no_prompt", 1.0))
    }

    @torch.no_grad()
    def validate() -> dict:
        with torch.autocast("cpu", torch.bfloat16):
            return {
                name: sum(model(*batch).item() for batch in batches) / len(batches)
                for name, batches in held.items()
            }

    loop.train(
        model,
        [{"params": model.parameters()}],
        loss_of_step,
        steps=steps,
        peak=2e-3,
        work_dir=work_dir,
        train_config={"what": what, "batch": BATCH, "drop": DROP_PROMPT},
        validate=validate,
        warmup=200,
        weight_decay=0.05,
        validate_every=250,
    )


def save(model: nn.Module, out: Path) -> None:
    """Write a model's weights."""
    with atomic_path(out) as partial:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial)


def assemble(lm: Path, vq: Path, out: Path) -> None:
    """Join trained language model and tokenizer into one checkpoint directory."""
    model, tokenizer = micro.build_janus(seed=0)
    Conditioned(model).load_state_dict(load_file(lm))
    model.model.vqmodel.load_state_dict(load_file(vq))
    with atomic_path(out) as partial:
        micro.save_janus(model, tokenizer, partial)
