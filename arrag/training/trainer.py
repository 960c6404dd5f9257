"""Batches and losses of a training, for generators that draw codes in order and masked ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from arrag.backbones.base import Backbone
from arrag.backbones.registry import BACKBONES, load_backbone
from arrag.config.generators import Generator
from arrag.config.training import FaidTraining, Training
from arrag.methods.faid.adapter import FAiD, FaidSettings
from arrag.training.adapted import Adapted, Lora
from arrag.training.masked import StepNoise, seeded_noise
from arrag.training.neighbours import Neighbours
from arrag.training.pairs import Pairs
from arrag.training.references import References
from arrag.utils.errors import ArragError, UsageError

STREAMS = {"order": 1, "drop": 2, "noise": 3}
"""Random streams of a training; each number is drawn from (seed, stream, epoch or step)."""
HELD_OUT_NOISE = (0, 4)
"""Any training measures with the same codes hidden, so that two adapters can be compared."""


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
        generator: Generator,
        training: Training,
        seed: int,
        data: Data,
        accelerator: Accelerator,
        batch_size: int,
    ) -> None:
        self.kind, self.settings, self.seed, self.data = kind, training, seed, data
        self.accelerator, self.batch_size = accelerator, batch_size
        self.generator = generator
        self.backbone = load_trainable(generator, str(accelerator.device))
        _check_fit(self.backbone, data.pairs, generator.checkpoint)
        torch.manual_seed(seed)
        faid = new_faid(self.backbone, training.faid) if kind == "faid" else None
        lora = training.lora and Lora(**training.lora.model_dump())
        if lora is None and not training.head and faid is None:
            raise ArragError(
                f"training: lora is null and head false, so that '{kind}' would train nothing; set "
                "one of them"
            )
        head = self.backbone.trainable_head if training.head else None
        self.model = Adapted(self.backbone, lora=lora, head=head, faid=faid)
        self.parallel = accelerator.prepare(self.model)
        self.slices = _slices(training.global_batch, batch_size, accelerator.num_processes)
        self.epoch = len(data.pairs.train)
        self.steps = max(1, round(training.epochs * self.epoch / training.global_batch))
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._codes = self.backbone.grid[0] * self.backbone.grid[1]
        self._noise = None
        if self.backbone.context == "full":
            key = (seed, STREAMS["noise"])
            self._noise = StepNoise(key, training.global_batch, self._codes)

    def loss_of_slice(self, number: int) -> torch.Tensor:
        """Mean loss of this process's part of a slice."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = (number * processes + rank) * self.batch_size
        torch.manual_seed(self.seed * 1_000_003 + number * processes + rank)  # LoRA's dropout
        self.model.train()
        places = np.arange(first, first + self.batch_size)
        batch = self._batch(self._pairs_at(places), self._dropped(places))
        if self._noise is None:
            return self.parallel(**batch).mean()
        known, weights = (x.to(self.accelerator.device) for x in self._noise.at(places))
        return (self.parallel(**batch, known=known) * weights).mean()

    @torch.no_grad()
    def held_out(self, model: Adapted) -> np.ndarray:
        """Loss of each held-out pair under ``model``, with its prompt: nats a code, [n]."""
        pairs, losses = self.data.pairs.held_out, []
        known = None
        if self._noise is not None:
            known = seeded_noise(HELD_OUT_NOISE, len(pairs), self._codes)
            known = known.to(self.accelerator.device)
        model.eval()
        for i in range(0, len(pairs), self.batch_size):
            some = slice(i, i + self.batch_size)
            batch = self._batch(pairs[some], np.zeros(len(pairs[some]), bool))
            losses.append(model(**batch, known=None if known is None else known[some]))
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
        """Arguments of ``Adapted.forward``, but for the noise."""
        backbone, data, device = self.backbone, self.data, self.accelerator.device
        text = backbone.tokenize([data.pairs.captions[i] for i in pairs])
        empty = backbone.unconditional_ids(*text)
        gone = torch.from_numpy(dropped).to(device)
        ids, mask = (torch.where(gone[:, None], *both) for both in zip(empty, text, strict=True))
        codes = torch.from_numpy(data.pairs.store.grids(pairs).astype(np.int64)).flatten(1)
        batch = {"ids": ids, "mask": mask, "codes": codes.to(device)}
        if data.neighbours is not None:
            retrieved = data.neighbours.codes(pairs, self.model.faid.settings.k).to(device)
            batch["retrieved"] = torch.where(gone[:, None, None], -1, retrieved)
        if data.references is not None:
            with torch.no_grad():
                prefix = backbone.embed_codes(data.references.codes(pairs).to(device))
                gone = gone[:, None, None]
                batch["prefix"] = torch.where(gone, backbone.null_prefix(prefix), prefix)
        return batch


def load_trainable(generator: Generator, device: str) -> Backbone:
    """Load a generator's backbone in float32.

    Raises:
        UsageError: No adapter can be trained for generators of that kind.
    """
    if generator.kind not in BACKBONES or BACKBONES.get(generator.kind).trainable_head is None:
        raise UsageError(
            f"no adapter can be trained for a {generator.kind} generator",
            path=generator.checkpoint,
            hint="train one for a janus or showo generator",
        )
    return load_backbone(generator.kind, generator.checkpoint, device=device)


def new_faid(backbone, wanted: FaidTraining) -> FAiD:
    """A fresh FAiD adapter for a backbone."""
    settings = FaidSettings(
        hops=wanted.hops, modules=wanted.modules, k=wanted.k, context=backbone.context
    )
    size, layers = backbone.hidden_size, len(backbone.decoder_layers)
    return FAiD(size, layers, settings, init_gain=wanted.init_gain)


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
