"""Fine-tune a generator on captioned images: bare, with FAiD, or with RA-CM3's reference images.

Paper section 4.1 and appendix B; the recipe's numbers are configuration fields. The control,
``finetune``, is the same training without retrieval: the same pairs in the same order, the same
dropped prompts and (of a masked generator) hidden codes, LoRA and head.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

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
from arrag.training.adapted import Adapted
from arrag.training.trainer import Data, Trainer, load_trainable
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.hashing import tree_digest
from arrag.utils.outputs import atomic_path


def train(
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
    """Train an adapter of a kind ("finetune", "faid", "racm3") and write its folder ``out``.

    A generator that draws codes in order learns each from those before it, a masked one those that
    are hidden (:mod:`arrag.training.masked`; not for "racm3"). Every process of an ``accelerate
    launch`` calls this alike. batch_size: images a process takes at a time; gradients are added up
    to the global batch. Goes on from ``work_dir`` after a kill, with the very same losses and
    weights. Returns what ``config.json`` says of the training. Raises ArragError for data that do
    not fit, or a loss that is not finite.
    """
    out, work_dir = Path(out), Path(work_dir)
    accelerator = Accelerator(cpu=cpu, mixed_precision=training.mixed_precision)
    trainer = Trainer(kind, generator, training, seed, data, accelerator, batch_size)
    recipe = recipe_of(kind, tree_digest(generator.checkpoint), training, data, seed)
    loop.run(
        trainer.model,
        [{"params": [p for p in trainer.model.parameters() if p.requires_grad]}],
        trainer.loss_of_slice,
        steps=trainer.steps,
        peak=training.learning_rate,
        work_dir=work_dir,
        recipe=recipe,
        validate=lambda: {"held_out": float(trainer.held_out(trainer.model).mean())},
        accelerator=accelerator,
        parallel=trainer.parallel,
        slices=trainer.slices,
        images=training.global_batch,
        warmup=round(training.warmup * trainer.steps),
        decay=0.0,
        weight_decay=0.0,
        log_every=1,
        validate_every=max(1, trainer.steps // 4),
        save_seconds=60 * save_minutes,
    )
    about = {"training": recipe, "steps": trainer.steps}
    if accelerator.is_main_process:
        about |= _write(trainer, out, work_dir, about)
    accelerator.wait_for_everyone()
    return about


def recipe_of(
    kind: str, backbone_digest: str, training: Training, data: Data, seed: int
) -> dict[str, Any]:
    """All that shapes an adapter, as JSON: nothing of batch sizes, processes or methods."""
    recipe = training.model_dump(mode="json", exclude={"source", "pairs", "held_out"})
    if kind != "faid":
        recipe.pop("faid")
    return {
        "kind": kind,
        "backbone": backbone_digest,
        "seed": seed,
        **recipe,
        **data.digests,
    }


def _write(trainer: Trainer, out: Path, work_dir: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the folder, then measure what it holds: the rounded weights, merged."""
    model = trainer.model
    with atomic_path(out) as folder:
        folder.mkdir()
        delta = model.delta()
        if delta:
            save_delta(folder / DELTA, delta)
        if model.faid is not None:
            digest = about["training"]["backbone"]
            model.faid.save(folder / MODULES, backbone_digest=digest)
        losses = trainer.held_out(as_loaded(trainer, folder))
        about |= {"held_out": {"mean": float(losses.mean()), "nats": _rounded(losses)}}
        save_config(folder, trainer.kind, about["training"]["backbone"], about)
        rows = [json.loads(line) for line in (work_dir / loop.LOG).read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k not in loop.TIMING} for row in rows]
        (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in kept))
        shutil.copy(work_dir / loop.PLOT, folder / loop.PLOT)
        (folder / "README.md").write_text(_card(trainer, about), encoding="utf-8")
    return about


def as_loaded(trainer: Trainer, folder: Path) -> Adapted:
    """What a user of the adapter in ``folder`` will have."""
    backbone = load_trainable(trainer.generator, str(trainer.accelerator.device))
    if (folder / DELTA).is_file():
        merge_delta(folder / DELTA, backbone.model)
    faid = FAiD.load(folder / MODULES) if trainer.model.faid is not None else None
    return Adapted(backbone, lora=None, head=None, faid=faid)


def compare(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Held-out losses of two adapters, and first minus second paired by image: nats a code.

    Each with a 95 % bootstrap interval over images, [value, low, high]. Raises ArragError unless
    both were measured on the same images of the same generator.
    """
    form = {"training": dict, "held_out": {"nats": [(int, float)]}}
    configs = [read_json(Path(folder) / CONFIG, form) for folder in (first, second)]
    for field in ("backbone", "pairs_digest"):
        found = [config["training"].get(field) for config in configs]
        if found[0] is None or found[0] != found[1]:
            raise ArragError(
                f"{first} and {second}: cannot be compared, {field} is {found[0]} in one and "
                f"{found[1]} in the other; train both on the same pairs and generator"
            )
    nats = [np.array(config["held_out"]["nats"], np.float64) for config in configs]
    if not len(nats[0]) or nats[0].shape != nats[1].shape:
        raise ArragError(
            f"{first} and {second}: hold losses of {len(nats[0])} and {len(nats[1])} images; train "
            "both on the same pairs and generator"
        )
    values = {"first": nats[0], "second": nats[1], "difference": nats[0] - nats[1]}
    estimates = {k: bootstrap(["image"] * len(v), v)["image"] for k, v in values.items()}
    return {"images": len(nats[0])} | {k: [round(x, 5) for x in e] for k, e in estimates.items()}


def _rounded(losses: np.ndarray) -> list[float]:
    return [round(float(loss), 6) for loss in losses]


def _card(trainer: Trainer, about: dict[str, Any]) -> str:
    """A short model card, from what is known here."""
    recipe, s, masked = about["training"], trainer.settings, trainer.backbone.context == "full"
    what = {
        "finetune": "A fine-tuning without retrieval, the control of the two others",
        "faid": "FAiD: retrieved patches blended into the hidden states (AR-RAG, section 3.3)",
        "racm3": "A replica of RA-CM3: a retrieved image before the prompt (AR-RAG, appendix B.1)",
    }[trainer.kind]
    trained = [f"LoRA of rank {s.lora.r} on q and v"] if s.lora else []
    trained += ["the generation head"] if s.head else []
    trained += [f"FAiD modules, hops {s.faid.hops}, K = {s.faid.k}"] if "faid" in recipe else []
    size = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return (
        f"---\nlicense: apache-2.0\n---\n# {trainer.kind}\n\n{what}. Made by `arrag train "
        f"{trainer.kind}`; `config.json` holds the recipe with the digests of all it read.\n\n"
        f"- trained: {', '.join(trained)}: {size:,} weights, stored in half precision\n"
        f"- {about['steps']} steps of {s.global_batch} of {trainer.epoch} captioned images; AdamW, "
        f"rate {s.learning_rate}, warm-up over {s.warmup:.0%} of the steps, then constant\n"
        f"- held-out loss ({len(trainer.data.pairs.held_out)} images): "
        f"{about['held_out']['mean']:.4f} nats a {'hidden ' if masked else ''}code\n\n"
        "![loss](loss.png)\n"
    )
