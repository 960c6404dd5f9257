"""Fine-tune a generator on captioned images: bare, with FAiD, or with RA-CM3's reference images.

Paper section 4.1 and appendix B; the recipe's numbers are configuration fields. The control,
``finetune``, is the same training without retrieval: the same pairs in the same order, the same
dropped prompts, LoRA and head.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from arrag.adapter import CONFIG, DELTA, LOG, MODULES, merge_delta, save_config, save_delta
from arrag.augment.faid import FAiD, FaidSettings
from arrag.backbones.janus import load_janus
from arrag.baselines.racm3 import References
from arrag.config import Training
from arrag.errors import ArragError
from arrag.files import atomic_path, read_json, tree_digest
from arrag.metrics.stats import bootstrap
from arrag.training import loop
from arrag.training.adapted import Adapted, Lora
from arrag.training.neighbours import Neighbours
from arrag.training.pairs import Pairs

STREAMS = {"order": 1, "drop": 2}
"""Random streams of a training; each number is drawn from (seed, stream, epoch or step)."""


@dataclass(frozen=True)
class Data:
    """What a training reads: pairs, and of retrieval what its kind needs."""

    pairs: Pairs
    neighbours: Neighbours | None = None
    references: References | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Digests of all of it."""
        digests = {"pairs_digest": self.pairs.digest}
        if self.neighbours is not None:
            digests["index_digest"] = self.neighbours.manifest["index_digest"]
        if self.references is not None:
            digests["references_digest"] = self.references.digest
        return digests


class Trainer:
    """Batches and losses of one training; everything random is a function of the step."""

    def __init__(
        self,
        kind: str,
        checkpoint: Path,
        training: Training,
        seed: int,
        data: Data,
        accelerator: Accelerator,
        batch_size: int,
    ) -> None:
        self.kind, self.settings, self.seed, self.data = kind, training, seed, data
        self.accelerator, self.batch_size = accelerator, batch_size
        self.backbone = load_janus(checkpoint, device=str(accelerator.device))
        _check_fit(self.backbone, data.pairs, checkpoint)
        torch.manual_seed(seed)
        faid = None
        if kind == "faid":
            wanted = training.faid
            settings = FaidSettings(
                hops=tuple(wanted.hops),
                modules=wanted.modules,
                k=wanted.k,
                context=self.backbone.context,
            )
            size, layers = self.backbone.hidden_size, len(self.backbone.sites)
            faid = FAiD(size, layers, settings, init_gain=wanted.init_gain)
        lora = training.lora and Lora(**training.lora.model_dump())
        if lora is None and not training.head and faid is None:
            raise ArragError(
                f"training: lora is null and head false, so that '{kind}' would train nothing; set "
                "one of them"
            )
        self.model = Adapted(self.backbone, lora=lora, head=training.head, faid=faid)
        self.parallel = accelerator.prepare(self.model)
        self.slices = _slices(training.global_batch, batch_size, accelerator.num_processes)
        self.epoch = len(data.pairs.train)
        self.steps = max(1, round(training.epochs * self.epoch / training.global_batch))
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def loss_of_slice(self, number: int) -> torch.Tensor:
        """Mean loss of this process's part of a slice."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = (number * processes + rank) * self.batch_size
        torch.manual_seed(self.seed * 1_000_003 + number * processes + rank)  # LoRA's dropout
        self.model.train()
        places = np.arange(first, first + self.batch_size)
        return self.parallel(**self._batch(self._pairs_at(places), self._dropped(places))).mean()

    @torch.no_grad()
    def held_out(self, model: Adapted) -> np.ndarray:
        """Loss of each held-out pair under ``model``, with its prompt: nats, [n]."""
        pairs, losses = self.data.pairs.held_out, []
        model.eval()
        for i in range(0, len(pairs), self.batch_size):
            some = pairs[i : i + self.batch_size]
            losses.append(model(**self._batch(some, np.zeros(len(some), bool))))
        return torch.cat(losses).cpu().numpy()

    def _pairs_at(self, places: np.ndarray) -> np.ndarray:
        """Numbers of the pairs at some places of the endless sequence of shuffled epochs."""
        return np.array([self._order(p // self.epoch)[p % self.epoch] for p in places])

    def _order(self, epoch: int) -> np.ndarray:
        if self._permutation[0] != epoch:
            rng = np.random.default_rng([self.seed, STREAMS["order"], epoch])
            self._permutation = (epoch, rng.permutation(self.data.pairs.train))
        return self._permutation[1]

    def _dropped(self, places: np.ndarray) -> np.ndarray:
        """Which of them lose their prompt (and retrieval), so that guidance goes on working."""
        draws = [np.random.default_rng([self.seed, STREAMS["drop"], p]).random() for p in places]
        return np.array(draws) < self.settings.drop_prompt

    def _batch(self, pairs: np.ndarray, dropped: np.ndarray) -> dict[str, torch.Tensor]:
        """Arguments of ``Adapted.forward``."""
        backbone, data, device = self.backbone, self.data, self.accelerator.device
        ids, mask = backbone.tokenize([data.pairs.captions[i] for i in pairs])
        gone = torch.from_numpy(dropped).to(device)
        ids = torch.where(gone[:, None], backbone.drop(ids), ids)
        codes = torch.from_numpy(data.pairs.store.grids(pairs).astype(np.int64)).flatten(1)
        batch = {"ids": ids, "mask": mask, "codes": codes.to(device)}
        if data.neighbours is not None:
            retrieved = data.neighbours.codes(pairs, self.model.faid.settings.k).to(device)
            batch["retrieved"] = torch.where(gone[:, None, None], -1, retrieved)
        if data.references is not None:
            with torch.no_grad():
                prefix = backbone.embed_codes(data.references.codes(pairs).to(device))
                gone = gone[:, None, None]
                batch["prefix"] = torch.where(gone, backbone.blank(prefix), prefix)
        return batch


def train(
    kind: str,
    checkpoint: str | Path,
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

    Every process of an ``accelerate launch`` calls this alike. batch_size: images a process takes
    at a time; gradients are added up to the global batch. Goes on from ``work_dir`` after a kill,
    with the very same losses and weights. Returns what ``config.json`` says of the training.
    Raises ArragError for data that do not fit, or a loss that is not finite.
    """
    checkpoint, out, work_dir = Path(checkpoint), Path(out), Path(work_dir)
    accelerator = Accelerator(cpu=cpu, mixed_precision=training.mixed_precision)
    trainer = Trainer(kind, checkpoint, training, seed, data, accelerator, batch_size)
    recipe = recipe_of(kind, tree_digest(checkpoint), training, data, seed)
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
        about |= _write(trainer, out, work_dir, checkpoint, about)
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


def _write(
    trainer: Trainer, out: Path, work_dir: Path, checkpoint: Path, about: dict[str, Any]
) -> dict[str, Any]:
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
        losses = trainer.held_out(as_loaded(trainer, checkpoint, folder))
        about |= {"held_out": {"mean": float(losses.mean()), "nats": _rounded(losses)}}
        save_config(folder, trainer.kind, about["training"]["backbone"], about)
        rows = [json.loads(line) for line in (work_dir / loop.LOG).read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k not in loop.TIMING} for row in rows]
        (folder / LOG).write_text("".join(json.dumps(row) + "\n" for row in kept))
        shutil.copy(work_dir / loop.PLOT, folder / loop.PLOT)
        (folder / "README.md").write_text(_card(trainer, about), encoding="utf-8")
    return about


def as_loaded(trainer: Trainer, checkpoint: Path, folder: Path) -> Adapted:
    """What a user of the adapter in ``folder`` will have."""
    backbone = load_janus(checkpoint, device=str(trainer.accelerator.device))
    if (folder / DELTA).is_file():
        merge_delta(folder / DELTA, backbone.model)
    faid = FAiD.load(folder / MODULES) if trainer.model.faid is not None else None
    return Adapted(backbone, lora=None, head=False, faid=faid)


def compare(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Held-out losses of two adapters, and first minus second paired by image: nats a code.

    Each with a 95 % bootstrap interval over images, [value, low, high]. Raises ArragError unless
    both were measured on the same images of the same generator.
    """
    configs = [read_json(Path(folder) / CONFIG) for folder in (first, second)]
    for field in ("backbone", "pairs_digest"):
        found = [config.get("training", {}).get(field) for config in configs]
        if found[0] is None or found[0] != found[1]:
            raise ArragError(
                f"{first} and {second}: cannot be compared, {field} is {found[0]} in one and "
                f"{found[1]} in the other; train both on the same pairs and generator"
            )
    nats = [np.array(config["held_out"]["nats"]) for config in configs]
    values = {"first": nats[0], "second": nats[1], "difference": nats[0] - nats[1]}
    estimates = {k: bootstrap(["image"] * len(v), v)["image"] for k, v in values.items()}
    return {"images": len(nats[0])} | {k: [round(x, 5) for x in e] for k, e in estimates.items()}


def _rounded(losses: np.ndarray) -> list[float]:
    return [round(float(loss), 6) for loss in losses]


def _slices(global_batch: int, batch_size: int, processes: int) -> int:
    at_once = batch_size * processes
    if global_batch % at_once:
        raise ArragError(
            f"training.global_batch: {global_batch} is no multiple of {batch_size} images at a "
            f"time on {processes} processes; change --batch-size or the number of processes"
        )
    return global_batch // at_once


def _check_fit(backbone, pairs: Pairs, checkpoint: Path) -> None:
    if pairs.store.grid != backbone.grid or len(pairs.store.codebook) != backbone.codebook_size:
        raise ArragError(
            f"{pairs.path}: has grids of {list(pairs.store.grid)} and {len(pairs.store.codebook)} "
            f"codes, {checkpoint} wants {list(backbone.grid)} and {backbone.codebook_size}; make "
            "the pairs with this generator's tokenizer"
        )


def _card(trainer: Trainer, about: dict[str, Any]) -> str:
    """A short model card, from what is known here."""
    recipe, s = about["training"], trainer.settings
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
        f"{about['held_out']['mean']:.4f} nats a code\n\n![loss](loss.png)\n"
    )
