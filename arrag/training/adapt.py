"""Fine-tune a generator on captioned images: alone, with FAiD, or with RA-CM3's references.

Paper section 4.1 and appendix B; hyperparameters are configuration fields. The control,
``finetune``, is the same training without retrieval: the same pairs in the same order, the same
dropped prompts and (of a masked generator) masks, LoRA and head.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from pydantic import BaseModel

from arrag.config.generators import Generator
from arrag.config.training import Training
from arrag.methods.adapter_folder import (
    CONFIG,
    DELTA,
    LOG,
    MODULES,
    merge_delta,
    save_config,
    save_delta,
)
from arrag.methods.faid.adapter import FAiD
from arrag.metrics.bootstrap import bootstrap
from arrag.training import loop
from arrag.training.peft_model import PeftBackbone
from arrag.training.trainer import Data, Trainer, load_trainable
from arrag.utils.errors import MismatchError
from arrag.utils.files import read_model
from arrag.utils.hashing import tree_digest
from arrag.utils.outputs import atomic_path


def train_adapter(
    kind: str,
    generator: Generator,
    training: Training,
    data: Data,
    out: str | Path,
    work_dir: str | Path,
    *,
    seed: int = 0,
    batch_size: int = 16,
    save_minutes: float = 10.0,
    cpu: bool = False,
) -> dict[str, Any]:
    """Train an adapter and write its folder ``out``.

    A raster generator learns each image token from those before it, a masked one the masked tokens
    (:mod:`arrag.training.masked`; not for "racm3"). Every process of an ``accelerate launch`` makes
    the same call. A killed training continues from ``work_dir`` with the same losses and weights.

    Args:
        kind: "finetune", "faid" or "racm3".
        generator, training: Their settings.
        data: Pairs and what they retrieve.
        out: Folder of the adapter.
        work_dir: Folder of the training's state.
        seed: Of order, dropped prompts, masks and initial weights.
        batch_size: Images a process takes at a time; gradients are accumulated to the global batch.
        save_minutes: Minutes between two saves of the state.
        cpu: Whether to leave GPUs alone.

    Returns:
        The part of the adapter's ``config.json`` about the training.

    Raises:
        ArragError: The data do not fit, or the loss is not finite.
    """
    out, work_dir = Path(out), Path(work_dir)
    accelerator = Accelerator(cpu=cpu, mixed_precision=training.mixed_precision)
    trainer = Trainer(kind, generator, training, seed, data, accelerator, batch_size)
    config = train_config(kind, tree_digest(generator.checkpoint), training, data, seed)
    loop.train(
        trainer.model,
        [{"params": [p for p in trainer.model.parameters() if p.requires_grad]}],
        trainer.loss_fn,
        steps=trainer.steps,
        peak=training.learning_rate,
        work_dir=work_dir,
        train_config=config,
        validate=lambda: {"held_out": float(trainer.held_out(trainer.model).mean())},
        accelerator=accelerator,
        parallel=trainer.parallel,
        grad_accum_steps=trainer.grad_accum_steps,
        images=training.global_batch,
        warmup=round(training.warmup * trainer.steps),
        decay=0.0,
        weight_decay=0.0,
        log_every=1,
        validate_every=max(1, trainer.steps // 4),
        save_seconds=60 * save_minutes,
    )
    about = {"training": config, "steps": trainer.steps}
    if accelerator.is_main_process:
        about |= _write(trainer, out, work_dir, about)
    accelerator.wait_for_everyone()
    return about


def train_config(
    kind: str, backbone_digest: str, training: Training, data: Data, seed: int
) -> dict[str, Any]:
    """All that determines an adapter, as JSON: not batch size, processes or methods."""
    config = training.model_dump(mode="json", exclude={"source", "pairs", "held_out"})
    if kind != "faid":
        config.pop("faid")
    return {"kind": kind, "backbone": backbone_digest, "seed": seed, **config, **data.digests}


def _write(trainer: Trainer, out: Path, work_dir: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the folder, then measure the held-out loss of its rounded weights, merged."""
    model = trainer.model
    with atomic_path(out) as folder:
        folder.mkdir()
        if delta := model.delta():
            save_delta(folder / DELTA, delta)
        if model.faid is not None:
            model.faid.save(folder / MODULES, backbone_digest=about["training"]["backbone"])
        losses = trainer.held_out(_loaded(trainer, folder))
        nats = [round(float(loss), 6) for loss in losses]
        about |= {"held_out": {"mean": float(losses.mean()), "nats": nats}}
        save_config(folder, trainer.kind, about["training"]["backbone"], about)
        rows = [json.loads(line) for line in (work_dir / loop.LOG).read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k not in loop.TIMING} for row in rows]
        (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in kept))
        shutil.copy(work_dir / loop.PLOT, folder / loop.PLOT)
        (folder / "README.md").write_text(_card(trainer, about), encoding="utf-8")
    return about


def _loaded(trainer: Trainer, folder: Path) -> PeftBackbone:
    """The backbone with the adapter in ``folder``, as a user of it loads them."""
    backbone = load_trainable(trainer.generator, str(trainer.accelerator.device))
    if (folder / DELTA).is_file():
        merge_delta(folder / DELTA, backbone.model)
    faid = FAiD.load(folder / MODULES) if trainer.model.faid is not None else None
    return PeftBackbone(backbone, lora=None, head=None, faid=faid)


class _HeldOut(BaseModel):
    nats: list[float]


class _AdapterConfig(BaseModel):
    training: dict[str, Any]
    held_out: _HeldOut


def compare_adapters(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Compare the held-out losses of two adapters, paired by image, in nats a token.

    Returns:
        The mean of the first, of the second and of their difference, each with a 95 % bootstrap
        interval over images: [value, low, high].

    Raises:
        MismatchError: They were measured on other images, or are of other generators.
    """
    configs = [read_model(Path(folder) / CONFIG, _AdapterConfig) for folder in (first, second)]
    hint = "train both on the same pairs and generator"
    for field in ("backbone", "pairs_digest"):
        a, b = (config.training.get(field) for config in configs)
        if a is None or a != b:
            raise MismatchError(f"is {b}, {first} has {a}", path=second, field=field, hint=hint)
    a, b = (np.array(config.held_out.nats, np.float64) for config in configs)
    if not len(a) or a.shape != b.shape:
        found = f"has the losses of {len(b)} images, {first} of {len(a)}"
        raise MismatchError(found, path=second, hint=hint)
    values = {"first": a, "second": b, "difference": a - b}
    estimates = {k: bootstrap(["image"] * len(v), v)["image"] for k, v in values.items()}
    return {"images": len(a)} | {k: [round(x, 5) for x in e] for k, e in estimates.items()}


def _card(trainer: Trainer, about: dict[str, Any]) -> str:
    """A short model card."""
    s, masked = trainer.settings, trainer.backbone.decoding == "masked"
    what = {
        "finetune": "Fine-tuning without retrieval, the control of the two others",
        "faid": "FAiD: retrieved patches blended into the hidden states (AR-RAG, section 3.3)",
        "racm3": "A replica of RA-CM3: a retrieved image before the prompt (AR-RAG, appendix B.1)",
    }[trainer.kind]
    trained = [f"LoRA of rank {s.lora.r} on q and v"] if s.lora else []
    trained += ["the generation head"] if s.head else []
    if trainer.kind == "faid":
        trained.append(f"FAiD modules, hops {s.faid.hops}, K = {s.faid.k}")
    size = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return (
        f"---\nlicense: apache-2.0\n---\n# {trainer.kind}\n\n{what}. Made by `arrag train "
        f"adapter {trainer.kind}`; `config.json` has hyperparameters and the inputs' digests.\n\n"
        f"- trained: {', '.join(trained)}: {size:,} weights, stored in half precision\n"
        f"- {about['steps']} steps of {s.global_batch} of {trainer.epoch} captioned images; AdamW, "
        f"rate {s.learning_rate}, warm-up over {s.warmup:.0%} of the steps, then constant\n"
        f"- held-out loss ({len(trainer.data.pairs.held_out)} images): "
        f"{about['held_out']['mean']:.4f} nats a {'hidden ' if masked else ''}code\n\n"
        "![loss](loss.png)\n"
    )
