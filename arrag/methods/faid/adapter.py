"""FAiD: blend the features of retrieved patches into the generator's hidden states.

Paper section 3.3 and appendix A; where the paper is silent, the authors' code. An adapter of a
few modules (:mod:`arrag.methods.faid.module`), each beside the self-attention of one decoder layer,
attached to the stock model by forward hooks. It sees hidden states, retrieved codes and where
image tokens lie in the sequence, and so serves training (all positions of a forward) and decoding
(one position, the states of the earlier ones kept) alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from arrag.methods.adapter_folder import MODULES, adapter_folder, load_finetuned
from arrag.methods.augmentation import Augmentation
from arrag.methods.faid.files import check_weights, read_weights, write_weights
from arrag.methods.faid.module import FaidModule, FaidSettings, FusedConv, distinct
from arrag.methods.generator import TokenGenerator
from arrag.methods.registry import MethodContext
from arrag.methods.search_cache import SearchCache
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import ArragError, FormatError

__all__ = ["FAiD", "FAiDAugmentation", "FaidSettings"]


class RetrievedBatch(NamedTuple):
    """Distinct retrieved codes [B, P, M], how often each was retrieved [B, P, M], the positions
    [P] they are for, and what is known [B, H, W]."""

    codes: torch.Tensor
    counts: torch.Tensor
    positions: torch.Tensor
    known: torch.Tensor | None


class FAiD(nn.Module):
    """An adapter for a backbone of ``layers`` decoder layers of hidden size ``hidden_size``.

    init_gain scales the initial weights of each second convolution: 0 starts as the bare model.
    """

    def __init__(
        self,
        hidden_size: int,
        layers: int,
        settings: FaidSettings | None = None,
        init_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.settings = settings = settings or FaidSettings()
        self.hidden_size, self.layers = hidden_size, layers
        at = range(0, layers, max(layers // settings.modules, 1))
        if len(at) != settings.modules:
            raise ArragError(
                f"faid: modules is {settings.modules}, which does not divide the backbone's "
                f"{layers} layers; use a divisor"
            )
        self.blocks = nn.ModuleDict({str(layer): FaidModule(hidden_size, settings) for layer in at})
        for first, second in (pair for b in self.blocks.values() for pair in b.convs.values()):
            for conv, gain in ((first, 1.0), (second, init_gain)):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)
                with torch.no_grad():
                    conv.weight.mul_(gain)
        self._handles: list = []
        self._handed: RetrievedBatch | None = None
        self._states: dict[int, torch.Tensor] = {}
        self._carried: torch.Tensor | None = None
        self._pending: torch.Tensor | None = None
        self._table: tuple[FusedConv, torch.Tensor] | None = None

    def set_retrieved(
        self,
        codes: torch.Tensor | None,
        positions: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
    ) -> None:
        """Give the patches for the forwards to come, until the next call; None: nothing is added.

        codes: int64 [B, P, K'], nearest first, -1 where absent; the first ``k`` are used.
        positions: int64 [P], flat and rising, those the forward predicts; None: all. known: bool
        [B, H, W], whose states are looked at; needed in the full context only. Raises ArragError
        when K' is below ``k``.
        """
        if codes is None:
            self._handed = None
            return
        if codes.shape[-1] < self.settings.k:
            raise ArragError(
                f"faid: the adapter blends {self.settings.k} patches, {codes.shape[-1]} were "
                "retrieved for a position; retrieve more, or train an adapter with a smaller k"
            )
        if known is None and self.settings.context == "full":
            raise ValueError("an adapter of the full context needs to know which codes are known")
        codes, counts = distinct(codes[..., : self.settings.k])
        if self.settings.absent == "skip":
            counts = counts * (codes >= 0)
            if not torch.is_grad_enabled() and not counts.any():
                self._handed = None
                return
        if positions is None:
            positions = torch.arange(codes.shape[1], device=codes.device)
        self._handed = RetrievedBatch(codes, counts, positions, known)

    def attach(self, backbone) -> None:
        """Add the adapter's contributions to every forward of ``backbone`` until :meth:`detach`.

        The adapter moves to the backbone's device. Raises ArragError for a backbone of another
        size or context.
        """
        if self._handles:
            raise ArragError("faid: the adapter is attached already; detach it first")
        for field, ours, theirs in (
            ("hidden_size", self.hidden_size, backbone.hidden_size),
            ("layers", self.layers, len(backbone.decoder_layers)),
            ("context", self.settings.context, backbone.context),
        ):
            if ours != theirs:
                raise ArragError(
                    f"faid: the adapter was made for a backbone whose {field} is {ours}, this "
                    f"one's is {theirs}; use the backbone it was trained with"
                )
        self.to(backbone.device)
        for layer, site in enumerate(backbone.decoder_layers):
            if str(layer) not in self.blocks:
                continue
            hook = partial(self._after_attention, backbone, layer)
            self._handles.append(site.self_attn.register_forward_hook(hook, with_kwargs=True))
            if self.settings.site == "post_layer":
                self._handles.append(site.register_forward_hook(self._after_layer))

    def detach(self) -> None:
        """Leave the backbone as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._states.clear()
        self._handed = self._carried = self._table = None

    @contextmanager
    def attached(self, backbone) -> Iterator[FAiD]:
        """:meth:`attach` for the length of a block."""
        self.attach(backbone)
        try:
            yield self
        finally:
            self.detach()

    def _after_attention(self, backbone, layer: int, attention, args, kwargs, output):
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]  # [R, T, D]
        states = self._remember(backbone, layer, hidden)
        if self._handed is None:
            return None
        contribution = self._contribution(backbone, layer, states).to(hidden.dtype)
        placed = self._place(contribution, backbone.spans.targets, hidden)
        if self.settings.site == "post_attention":
            return (output[0] + placed, *output[1:])
        self._pending = placed
        return None

    def _after_layer(self, layer, args, output):
        pending, self._pending = self._pending, None
        return output if pending is None else output + pending

    def _remember(self, backbone, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The image's states in this layer by position: [B, N + 1, D], zero where not yet run."""
        rows, inputs, targets = backbone.spans
        count = backbone.grid[0] * backbone.grid[1]
        new = hidden[:rows, inputs.indices].to(self.dtype)
        if inputs.position == 0:  # an image begins
            states = F.pad(new, (0, 0, 0, count + 1 - inputs.count))
        else:
            states = self._states[layer]
            states[:, inputs.position : inputs.position + inputs.count] = new
        if targets.count < count:  # there will be further steps
            self._states[layer] = states
        return states

    def _contribution(self, backbone, layer: int, states: torch.Tensor) -> torch.Tensor:
        """What the module of this layer adds at the handed positions: [B, P, D]."""
        codes, counts, positions, known = self._handed
        if codes.shape[0] != len(states) or len(positions) > backbone.spans.targets.count:
            raise ValueError(
                f"handed codes {list(codes.shape)} for {len(states)} images and "
                f"{backbone.spans.targets.count} predicted positions"
            )
        module = self.blocks[str(layer)]
        composed = module.composed()
        if layer == 0:
            projected = self._first(backbone, composed, codes)
        else:
            projected = module.project(composed, self._carried)
        if layer == 0 or self.settings.absent == "zero":
            projected = projected * (codes >= 0)[..., None]
        if known is not None:
            states = states * F.pad(known.flatten(1), (0, 1))[..., None]
        total, self._carried = module(composed, states, positions, backbone.grid, projected, counts)
        return total

    def _first(self, backbone, composed: FusedConv, codes: torch.Tensor) -> torch.Tensor:
        """The first module's projection of codes [B, P, M]: [B, P, M, D].

        Without gradients it is a look-up in a table of all codes [V, D], made once.
        """
        project = partial(self.blocks["0"].project, composed)
        codes = codes.clamp(min=0)
        if torch.is_grad_enabled():
            return project(backbone.embed_codes(codes).to(self.dtype))
        if self._table is None or self._table[0] is not composed:
            every = torch.arange(backbone.codebook_size, device=codes.device)
            self._table = (composed, project(backbone.embed_codes(every).to(self.dtype)))
        return self._table[1][codes]

    def _place(self, contribution, targets, hidden) -> torch.Tensor:
        """Contributions [B, P, D] at their slots of the sequence: [R, T, D], zero elsewhere."""
        rows = len(contribution)
        if contribution.shape[1] < targets.count:
            at = self._handed.positions - targets.position
            whole = contribution.new_zeros(rows, targets.count, contribution.shape[2])
            contribution = whole.index_copy(1, at, contribution)
        placed = contribution.new_zeros(hidden.shape)
        placed[:rows, targets.indices] = contribution
        return placed

    def save(
        self,
        path: str | Path,
        dtype: torch.dtype = torch.float16,
        backbone_digest: str | None = None,
    ) -> None:
        """Write a .safetensors file whose metadata say what the adapter is.

        backbone_digest: of the checkpoint it was trained with, checked by :meth:`load`. Raises
        ArragError for a weight that does not fit ``dtype``.
        """
        about = {
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "settings": self.settings.model_dump(),
            "backbone": backbone_digest,
        }
        write_weights(path, self.state_dict(), about, dtype)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone_digest: str | None = None,
        expect: dict[str, Any] | None = None,
    ) -> FAiD:
        """Read an adapter, in float32 and evaluation mode.

        backbone_digest: of the checkpoint in use, compared with the adapter's if both are known.
        expect: settings that it must have, such as ``{"hops": (1, 2)}``. Raises ArragError for
        another backbone or setting, a damaged file, and missing, unknown or mis-shaped weights.
        """
        about, weights = read_weights(path)
        theirs = about["backbone"]
        if None not in (theirs, backbone_digest) and theirs != backbone_digest:
            raise ArragError(
                f"{path}: made for the backbone {theirs}, but {backbone_digest} is in use; use the "
                "backbone it was trained with"
            )
        try:
            settings = FaidSettings.model_validate(about["settings"])
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, ("settings", *first["loc"])))
            hint = "use another adapter, or convert it again"
            raise FormatError(first["msg"], path=path, field=field, hint=hint) from None
        for field, wanted in (expect or {}).items():
            wanted = tuple(wanted) if field == "hops" else wanted
            if (found := getattr(settings, field)) != wanted:
                raise ArragError(
                    f"{path}: its {field} is {found}, wanted {wanted}; use another adapter, or "
                    "train one with that setting"
                )
        with torch.device("meta"):  # nothing is drawn at random only to be replaced
            adapter = cls(about["hidden_size"], about["layers"], settings)
        check_weights(path, weights, adapter.state_dict())
        weights = {name: weight.float() for name, weight in weights.items()}
        adapter.load_state_dict(weights, assign=True)
        return adapter.requires_grad_().eval()

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the adapter."""
        return next(self.parameters()).dtype


class FAiDAugmentation(Augmentation):
    """Retrieve before each step and hand the patches to an attached adapter.

    k: patches retrieved, at least the adapter's own. Raises ArragError for fewer.
    """

    def __init__(self, adapter: FAiD, index: PatchIndex, k: int | None = None) -> None:
        wanted = adapter.settings.k
        self.adapter, self.index, self.k = adapter, index, wanted if k is None else k
        if self.k < wanted:
            raise ArragError(
                f"faid: k is {self.k}, the adapter was trained with {wanted}; use at least that"
            )
        self._search_cache = SearchCache(index, self.k)

    def on_step_start(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Search the surroundings of ``positions``; with none, the bare model comes next."""
        if not len(positions):
            self.adapter.set_retrieved(None)
            return
        _, found = self._search_cache.search(codes, known, positions)
        full = self.adapter.settings.context == "full"
        self.adapter.set_retrieved(found, positions, known if full else None)


def build_faid(context: MethodContext) -> TokenGenerator:
    """Load a fine-tuned generator with FAiD's modules attached to it."""
    generator = load_finetuned(context)
    index = context.open_patch_index(generator.image_tokenizer.digest)
    adapter = FAiD.load(
        adapter_folder(context) / MODULES, backbone_digest=generator.weights["backbone"]
    )
    adapter.to(generator.backbone.model.dtype).attach(generator.backbone)
    size = sum(p.numel() for p in adapter.parameters())
    return replace(
        generator,
        augmentation=FAiDAugmentation(adapter, index, context.settings.k),
        num_parameters=generator.num_parameters + size,
        index=index.digest,
    )
