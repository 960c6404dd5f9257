"""DAiD: blend the model's distribution over codes with one made of retrieved patches.

Paper section 3.2: p = (1 - lam) p_model + lam p_ret. Nothing is trained, and no backbone is named.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from numbers import Real

import torch

from arrag.methods.augmentation import Augmentation
from arrag.methods.generator import TokenGenerator
from arrag.methods.registry import MethodContext
from arrag.methods.search_cache import SearchCache
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import MismatchError, UsageError

DEDUPE = ("nearest", "none")


def retrieval_distribution(
    distances: torch.Tensor,
    codes: torch.Tensor,
    V: int,
    tau: float,
    dedupe: str = "nearest",
) -> torch.Tensor:
    """Compute p_ret(c), proportional to exp(-d / tau) over the retrieved codes and 0 elsewhere.

    Args:
        distances: float [..., k], squared L2.
        codes: int64 [..., k], below V; -1 where nothing was retrieved. Such a slot gets no
            probability; a row without any patch is all zero.
        V: Size of the codebook.
        tau: Temperature, in the units of ``distances``.
        dedupe: If a code was retrieved several times: ``"nearest"`` counts the nearest patch only,
            ``"none"`` counts every one.

    Returns:
        Probabilities, [..., V].
    """
    _check_dedupe(dedupe)
    absent = (codes < 0) | ~torch.isfinite(distances)
    distances = distances.masked_fill(absent, torch.inf)
    index = codes.clamp(min=0)
    # Shifted so that the nearest has weight 1 and no tau can underflow the whole row.
    shifted = distances.amin(dim=-1, keepdim=True) - distances
    weights = (shifted / max(tau, torch.finfo(distances.dtype).tiny)).exp().masked_fill(absent, 0.0)
    probs = distances.new_zeros(*codes.shape[:-1], V)
    if dedupe == "nearest":
        probs.scatter_reduce_(-1, index, weights, "amax")
        # Added up over the slots: a sum over V could depend on how many threads share it.
        ranked = index.sort(dim=-1).values
        again = torch.nn.functional.pad(ranked[..., 1:] == ranked[..., :-1], (1, 0))
        weights = probs.gather(-1, ranked).masked_fill(again, 0.0)
    else:
        probs.scatter_add_(-1, index, weights)
    return probs.div_(weights.sum(dim=-1, keepdim=True).clamp(min=1.0))  # 0 if nothing was found


class DAiD(Augmentation):
    """Distribution-level augmentation of a decoding step.

    The paper states neither lam nor tau.

    Args:
        index: The patches to search.
        k: Number of patches retrieved for a position.
        lam: Weight of the retrieved distribution, in [0, 1].
        tau: Its temperature, in units of squared L2.
        dedupe: See :func:`retrieval_distribution`.

    Raises:
        UsageError: A value is out of range.
    """

    def __init__(
        self, index: PatchIndex, *, k: int, lam: float, tau: float, dedupe: str = "nearest"
    ) -> None:
        _check(_is_number(lam) and 0 <= lam <= 1, "lam", lam, "a number in [0, 1]")
        _check(_is_number(tau) and 0 < tau < math.inf, "tau", tau, "a finite number above 0")
        _check(type(k) is int and k >= 1, "k", k, "a whole number of 1 or more")
        _check_dedupe(dedupe)
        self.index, self.k, self.lam, self.tau, self.dedupe = index, k, lam, tau, dedupe
        self._search_cache = SearchCache(index, k)
        self._pool = ThreadPoolExecutor(1, "daid")
        self._search: tuple[torch.Tensor, Future] | None = None

    def on_step_start(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Start the search in a second thread, if one is allowed, while the forward runs.

        Not in masked decoding, where the forward predicts fewer positions than are given here.
        """
        self._search = None
        if self.lam and len(positions) == 1 and torch.get_num_threads() > 1:
            search = self._pool.submit(self._retrieve, codes, known, positions)
            self._search = positions, search

    def on_probs(
        self,
        probs: torch.Tensor,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Blend probs [B, P, V] at flat positions [P], given codes and known, both [B, H, W].

        Returns:
            [B, P, V]; the same tensor when lam is 0, unchanged rows where nothing was retrieved.

        Raises:
            MismatchError: V is not the size of the database's codebook.
        """
        if self.lam == 0:
            return probs
        size = len(self.index.store.codebook)
        if probs.shape[-1] != size:
            raise MismatchError(
                f"the model predicts {probs.shape[-1]} codes, the database has {size}",
                field="daid",
                hint="use a database made with the generator's tokenizer",
            )
        search, self._search = self._search, None
        if search is not None and search[0] is positions:
            retrieved, found = search[1].result()
        else:
            retrieved, found = self._retrieve(codes, known, positions)
        if retrieved is None:
            return probs
        blended = (1 - self.lam) * probs + self.lam * retrieved.to(probs)
        return torch.where(found, blended, probs)

    def _retrieve(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The retrieved distributions [B, P, V], and where there is one, bool [B, P, 1].

        None if the border rule leaves all positions out.
        """
        if not self._search_cache.augments(positions):
            return None, None
        distances, found = self._search_cache.search(codes, known, positions)
        size = len(self.index.store.codebook)
        retrieved = retrieval_distribution(distances, found, size, self.tau, self.dedupe)
        return retrieved, (found >= 0).any(dim=-1, keepdim=True)


def build_daid(context: MethodContext) -> TokenGenerator:
    """Load a generator with DAiD."""
    generator, settings = context.load_backbone(), context.settings
    index = context.open_patch_index(generator.image_tokenizer.digest)
    daid = DAiD(index, k=settings.k, lam=settings.lam, tau=settings.tau)
    return replace(generator, augmentation=daid, index=index.digest)


def _check_dedupe(dedupe: object) -> None:
    _check(dedupe in DEDUPE, "dedupe", dedupe, f"one of {', '.join(DEDUPE)}")


def _check(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise UsageError(f"found {value!r}", field=f"daid.{name}", hint=f"use {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
