"""Batches and losses of a training, for raster and masked generators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from arrag.backbones.base import Backbone
from arrag.backbones.registry import BACKBONES, load_backbone
from arrag.config.generators import Generator
from arrag.config.training import FaidTraining, Training
from arrag.methods.faid.adapter import FAiD, FaidSettings
from arrag.training.masked import StepMasks, seeded_known
from arrag.training.neighbours import Neighbours
from arrag.training.pairs import Pairs
from arrag.training.peft_model import PeftBackbone
from arrag.training.references import References
from arrag.utils.errors import MismatchError, UsageError

STREAMS = {"order": 1, "drop": 2, "masks": 3}
"""Random streams of a training; each number is drawn from (seed, stream, epoch or step)."""
HELD_OUT_MASKS = (0, 4)
"""Key of the masks of the held-out loss: the same in any training, so that adapters compare."""


@dataclass(frozen=True)
class Data:
    """What a training reads: pairs, and what they retrieve if its kind needs it."""

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
        ours = self.backbone.grid, self.backbone.codebook_size
        theirs = data.pairs.store.grid, len(data.pairs.store.codebook)
        if ours != theirs:
            raise MismatchError(
                "has grids {} of {} codes, {} needs {} of {}".format(
                    *theirs, generator.checkpoint, *ours
                ),
                path=data.pairs.path,
                hint="make the pairs with this generator's tokenizer",
            )
        torch.manual_seed(seed)
        faid = new_faid(self.backbone, training.faid) if kind == "faid" else None
        if training.lora is None and not training.head and faid is None:
            raise UsageError(
                f"lora is null and head false, so that '{kind}' would train nothing",
                field="training",
                hint="set one of them",
            )
        head = self.backbone.trainable_head if training.head else None
        self.model = PeftBackbone(self.backbone, lora=training.lora, head=head, faid=faid)
        self.parallel = accelerator.prepare(self.model)
        at_once = batch_size * accelerator.num_processes
        if training.global_batch % at_once:
            raise UsageError(
                f"{training.global_batch} is no multiple of the {at_once} images that all "
                "processes take at a time",
                field="training.global_batch",
                hint="change --batch-size or the number of processes",
            )
        self.grad_accum_steps = training.global_batch // at_once
        self.epoch = len(data.pairs.train)
        self.steps = max(1, round(training.epochs * self.epoch / training.global_batch))
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._codes = self.backbone.grid[0] * self.backbone.grid[1]
        self._masks = None
        if self.backbone.decoding == "masked":
            key = (seed, STREAMS["masks"])
            self._masks = StepMasks(key, training.global_batch, self._codes)

    def loss_fn(self, number: int) -> torch.Tensor:
        """Mean loss of this process's share of a micro-batch."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = (number * processes + rank) * self.batch_size
        torch.manual_seed(self.seed * 1_000_003 + number * processes + rank)  # LoRA's dropout
        self.model.train()
        indices = np.arange(first, first + self.batch_size)
        batch = self._batch(self._pairs_at(indices), self._dropped(indices))
        if self._masks is None:
            return self.parallel(**batch).mean()
        known, weights = (x.to(self.accelerator.device) for x in self._masks.at(indices))
        return (self.parallel(**batch, known=known) * weights).mean()

    @torch.no_grad()
    def held_out(self, model: PeftBackbone) -> np.ndarray:
        """Loss of each held-out pair under ``model``, with its prompt: nats a code, [n]."""
        pairs, losses = self.data.pairs.held_out, []
        known = None
        if self._masks is not None:
            known = seeded_known(HELD_OUT_MASKS, len(pairs), self._codes).to(self.backbone.device)
        model.eval()
        for i in range(0, len(pairs), self.batch_size):
            some = slice(i, i + self.batch_size)
            batch = self._batch(pairs[some], np.zeros(len(pairs[some]), bool))
            losses.append(model(**batch, known=None if known is None else known[some]))
        return torch.cat(losses).cpu().numpy()

    def _pairs_at(self, indices: np.ndarray) -> np.ndarray:
        """The pairs at some indices of the endless sequence of shuffled epochs."""
        return np.array([self._order(p // self.epoch)[p % self.epoch] for p in indices])

    def _order(self, epoch: int) -> np.ndarray:
        if self._permutation[0] != epoch:
            rng = np.random.default_rng([self.seed, STREAMS["order"], epoch])
            self._permutation = (epoch, rng.permutation(self.data.pairs.train))
        return self._permutation[1]

    def _dropped(self, indices: np.ndarray) -> np.ndarray:
        """Which samples lose their prompt (and retrieval), as guidance needs."""
        draws = [np.random.default_rng([self.seed, STREAMS["drop"], p]).random() for p in indices]
        return np.array(draws) < self.settings.drop_prompt

    def _batch(self, pairs: np.ndarray, dropped: np.ndarray) -> dict[str, torch.Tensor]:
        """Arguments of ``PeftBackbone.forward``, except the mask of known tokens."""
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


def new_faid(backbone, training: FaidTraining) -> FAiD:
    """A fresh FAiD adapter for a backbone."""
    shape = dict(hops=training.hops, modules=training.modules, k=training.k)
    settings = FaidSettings(**shape, context=backbone.context)
    size, layers = backbone.hidden_size, len(backbone.decoder_layers)
    return FAiD(size, layers, settings, init_gain=training.init_gain)
