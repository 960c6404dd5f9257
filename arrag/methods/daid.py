"""DAiD: blend the model's distribution over codes with one made of retrieved patches.

Paper section 3.2: p = (1 - lam) p_model + lam p_ret. Nothing is trained. It sees codes, what is
known and positions, and no backbone.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real

import torch

from arrag.methods.augmentation import Augmentation
from arrag.methods.search_cache import SearchCache
from arrag.retrieval.base import PatchIndex
from arrag.utils.errors import ArragError

DEDUPE = ("nearest", "none")


def retrieval_distribution(
    distances: torch.Tensor,
    codes: torch.Tensor,
    V: int,
    tau: float,
    dedupe: str = "nearest",
) -> torch.Tensor:
    """p_ret(c) proportional to exp(-d / tau) over the retrieved codes, 0 elsewhere: [..., V].

    distances: float [..., k], squared L2; codes: int64 [..., k] below V, -1 if absent. An absent
    slot gets no mass, a row without any slot is all zero. Of repeats of a code ``nearest`` counts
    the nearest one only, ``none`` counts every one.
    """
    if dedupe not in DEDUPE:
        raise ArragError(f"daid: dedupe is {dedupe!r}; use one of {', '.join(DEDUPE)}")
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

    index: where to search. k: patches retrieved. lam: weight of the retrieved distribution, in
    [0, 1]. tau: its temperature, in units of squared L2. The paper states neither lam nor tau.
    Raises ArragError for values out of range.
    """

    def __init__(
        self, index: PatchIndex, *, k: int, lam: float, tau: float, dedupe: str = "nearest"
    ) -> None:
        if not _is_number(lam) or not 0 <= lam <= 1:
            raise ArragError(f"daid: lam is {lam!r}; use a number in [0, 1]")
        if not _is_number(tau) or not 0 < tau < math.inf:
            raise ArragError(f"daid: tau is {tau!r}; use a finite number above 0")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ArragError(f"daid: k is {k!r}; use a whole number of 1 or more")
        if dedupe not in DEDUPE:
            raise ArragError(f"daid: dedupe is {dedupe!r}; use one of {', '.join(DEDUPE)}")
        self.index, self.k, self.lam, self.tau, self.dedupe = index, k, lam, tau, dedupe
        self._search_cache = SearchCache(index, k)
        self._pool = ThreadPoolExecutor(1, "daid")
        self._begun: tuple[torch.Tensor, Future] | None = None

    def on_step_start(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Search beside the forward, which needs nothing of it, if a second thread is allowed.

        Not in masked decoding: what its forward predicts is less than the positions here.
        """
        self._begun = None
        if self.lam and len(positions) == 1 and torch.get_num_threads() > 1:
            begun = self._pool.submit(self._retrieve, codes, known, positions)
            self._begun = positions, begun

    def on_probs(
        self,
        probs: torch.Tensor,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Augment probs [B, P, V] at flat positions [P], given codes and known, both [B, H, W].

        Returns [B, P, V]: the very same tensor when lam is 0, unchanged rows where nothing was
        retrieved. Raises ArragError when V is not the size of the database's codebook.
        """
        if self.lam == 0:
            return probs
        size = len(self.index.store.codebook)
        if probs.shape[-1] != size:
            raise ArragError(
                f"daid: the model predicts {probs.shape[-1]} codes, the database has {size}; "
                "use a database made with the generator's tokenizer"
            )
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] is positions:
            retrieved, found = begun[1].result()
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

        None where the border rule leaves all positions out.
        """
        if not self._search_cache.augments(positions):
            return None, None
        distances, found = self._search_cache.search(codes, known, positions)
        size = len(self.index.store.codebook)
        retrieved = retrieval_distribution(distances, found, size, self.tau, self.dedupe)
        return retrieved, (found >= 0).any(dim=-1, keepdim=True)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
