"""One FAiD module: retrieved patches refined by their surroundings, weighed and pooled.

Each retrieved patch k stands in the centre of the (2h+1)² window of hidden states around the
predicted token, and two convolutions of kernel h+1 reduce the window to one vector. There is no
activation between the two, so together they are one linear map, and only its centre tap meets
the patch: ``r~_k = base + C r_k``, with ``base`` from the surroundings, once for all k. A window
is never copied for each patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from arrag.config.training import FaidSettings
from arrag.retrieval.neighborhood import Neighborhood


@dataclass(frozen=True, eq=False)
class FusedConv:
    """A module's convolutions of all scales as one linear map of the largest window.

    kernel: [D_out, D_in, rows, columns], zero at the centre and where nothing can be known (a
    causal one has no rows below the centre's); centre: [D_out, D_in]; bias: [D]; window: whose
    neighbours are the taps. above: of the row of the grid that a causal decoder is in.
    """

    kernel: torch.Tensor
    centre: torch.Tensor
    bias: torch.Tensor
    window: Neighborhood
    above: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def taps(self) -> torch.Tensor:
        """The kernel for a window laid flat: [n D_in, D_out]."""
        rows, columns = torch.tensor(self.window.offsets).T + self.window.hop
        return self.kernel[:, :, rows, columns].permute(2, 1, 0).flatten(0, 1).contiguous()

    def at(
        self, states: torch.Tensor, positions: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """What the surroundings give at some positions [P]: [B, P, D].

        states: [B, N + 1, D] by position, zero where unknown, the last row zero.
        """
        if len(positions) == 1:  # a decoding step: this window alone
            if self.window.context == "causal" and not torch.is_grad_enabled():
                return self._step(states, int(positions), grid)
            # [1, n]; MISSING = -1 reads the row of zeros
            around = _sources(self.window, grid, states.device)[positions]
            return states[:, around].flatten(2) @ self.taps + self.bias
        h = self.window.hop
        below = self.kernel.shape[2] - 1 - h
        image = states[:, :-1].unflatten(1, grid).permute(0, 3, 1, 2)  # [B, D, H, W]
        result = F.conv2d(F.pad(image, (h, h, h, below)), self.kernel, self.bias)
        result = result.flatten(2).transpose(1, 2)  # [B, N, D]
        return result if len(positions) == result.shape[1] else result[:, positions]

    def _step(self, states: torch.Tensor, position: int, grid: tuple[int, int]) -> torch.Tensor:
        """``at`` one position: what the rows above give is found once for all of its row.

        A decoder keeps one tensor of states for an image batch, and those above are final.
        """
        row, column = divmod(position, grid[1])
        around = _sources(self.window, grid, states.device)  # [N, n], the rows above first
        count = around.shape[1] - self.window.hop
        split = count * states.shape[-1]
        if self.above.get("states") is not states or self.above["row"] != row:
            higher = around[row * grid[1] : (row + 1) * grid[1], :count]  # [W, count]
            found = states[:, higher].flatten(2) @ self.taps[:split] + self.bias  # [B, W, D]
            self.above.update(states=states, row=row, found=found)
        beside = states[:, around[position, count:]].flatten(1) @ self.taps[split:]  # [B, D]
        return (self.above["found"][:, column] + beside)[:, None]


class FuseConvs(torch.autograd.Function):
    """Two convolutions of kernel k without padding, one after the other, as one.

    first: [D_mid, D_in, k, k]; second: [D_out, D_mid, k, k]. Returns the taps [D_out, rows,
    columns, D_in] of a window of 2k - 1 a side, ``E[p] = sum_c second[c] first[p - c]``; if
    ``causal`` those up to the centre in raster order alone, the rest of its row being zero. Only
    the weights are kept for the gradient.
    """

    @staticmethod
    def forward(ctx, first, second, causal):
        """The taps."""
        ctx.save_for_backward(first, second)
        ctx.causal = causal
        k, taken = first.shape[-1], first.permute(0, 2, 3, 1).flatten(1, 2)  # [mid, k k, in]
        rows = k if causal else 2 * k - 1
        taps = first.new_zeros(second.shape[0], rows, 2 * k - 1, first.shape[1])
        for c, outer in enumerate(second.flatten(2).unbind(-1)):  # [out, mid]
            whole, n = _overlap(c, k, causal)
            product = outer @ taken[:, :n].flatten(1)  # [out, n in]
            product = product.unflatten(1, (n, -1))
            for at, part in _places(c, k, whole, n):
                taps[at].add_(product[:, part].reshape(taps[at].shape))
        return taps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        """Gradients of both weights."""
        first, second = ctx.saved_tensors
        k, taken = first.shape[-1], first.permute(0, 2, 3, 1).flatten(1, 2)
        inner, outer = torch.zeros_like(taken), torch.empty_like(second)
        for c in range(k * k):
            whole, n = _overlap(c, k, ctx.causal)
            parts = [gradient[at].flatten(1, -2) for at, _ in _places(c, k, whole, n)]
            product = torch.cat(parts, dim=1).flatten(1)  # [out, n in]
            outer[:, :, c // k, c % k] = product @ taken[:, :n].flatten(1).T
            inner[:, :n] += (second[:, :, c // k, c % k].T @ product).unflatten(1, (n, -1))
        return inner.unflatten(1, (k, k)).permute(0, 3, 1, 2), outer, None


def _overlap(c: int, k: int, causal: bool) -> tuple[int, int]:
    """Taps of the first kernel that the second's tap ``c`` meets: whole rows of k, and in all.

    In raster order they are the first ones; a causal window ends at its centre, k - 1 down.
    """
    row, column = divmod(c, k)
    return (k - 1 - row, (k - 1 - row) * k + k - column) if causal else (k, k * k)


def _places(c: int, k: int, whole: int, n: int) -> Iterator[tuple[tuple, slice]]:
    """Where in the window [out, rows, columns, in] those taps fall: whole rows, then the rest."""
    row, column = divmod(c, k)
    every = slice(None)
    if whole:
        rows, columns = slice(row, row + whole), slice(column, column + k)
        yield (every, rows, columns), slice(0, whole * k)
    if rest := n - whole * k:
        yield (every, row + whole, slice(column, column + rest)), slice(whole * k, n)


class FaidModule(nn.Module):
    """One FAiD module: refine retrieved patches by their surroundings, weigh them, pool them."""

    def __init__(self, size: int, settings: FaidSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = nn.Parameter(torch.ones(size))
        self.convs = nn.ModuleDict({
            f"hop{h}": nn.ModuleList(nn.Conv2d(size, size, h + 1) for _ in range(2))
            for h in settings.hops
        })  # fmt: skip
        scales = len(settings.hops)
        if scales > 1 and settings.merge != "mean":
            start = 1.0 if settings.merge == "softmax" else 1.0 / scales
            self.merge = nn.Parameter(torch.full((scales,), start))
        if settings.score == "mlp":
            self.score = nn.Sequential(
                nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1), nn.Sigmoid()
            )
        else:
            self.score = nn.Linear(size, 1)
        self._window = Neighborhood(settings.context, max(settings.hops), "zero")
        self._kept: tuple[tuple, FusedConv] | None = None

    def composed(self) -> FusedConv:
        """The linear map; kept from step to step when no gradient is asked for."""
        if torch.is_grad_enabled():
            return self._compose()
        key = tuple(_version(p) for p in self.parameters())
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._compose())
        return self._kept[1]

    def _compose(self) -> FusedConv:
        reach, causal = self._window.hop, self._window.context == "causal"
        device = self.norm.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else self.norm.dtype
        taps = bias = 0.0
        for share, pair in zip(self._shares(), self.convs.values(), strict=True):
            (inner, first_bias), (outer, second_bias) = (
                (conv.weight.to(dtype), conv.bias.to(dtype)) for conv in pair
            )
            more = reach + 1 - inner.shape[-1]
            around = (0, 0, more, more, more, 0 if causal else more)
            taps = taps + share.to(dtype) * F.pad(FuseConvs.apply(inner, outer, causal), around)
            bias = bias + share * (outer.sum((2, 3)) @ first_bias + second_bias)
        surroundings = taps.new_ones(taps.shape[1:3])
        surroundings[reach, reach] = 0
        kernel = (taps * surroundings[..., None]).permute(0, 3, 1, 2)
        return FusedConv(kernel, taps[:, reach, reach], bias, self._window)

    def _shares(self) -> torch.Tensor:
        """The weight of each scale: [scales]."""
        scales = len(self.settings.hops)
        if not hasattr(self, "merge"):
            return self.norm.new_full((scales,), 1.0 / scales)
        return self.merge.softmax(0) if self.settings.merge == "softmax" else self.merge

    def project(self, composed: FusedConv, patches: torch.Tensor) -> torch.Tensor:
        """Patches [..., D] -> their share of the refined patch, [..., D]; linear in the centre."""
        normed = F.rms_norm(patches, patches.shape[-1:], eps=self.settings.eps) * self.norm
        return F.linear(normed, composed.centre)

    def forward(
        self,
        composed: FusedConv,
        states: torch.Tensor,
        positions: torch.Tensor,
        grid: tuple[int, int],
        projected: torch.Tensor,
        counts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Contribution [B, P, D] at ``positions`` [P], and the weighed patches [B, P, M, D].

        states: [B, N + 1, D], hidden states by position, zero where unknown, the last row zero;
        projected: [B, P, M, D] of :meth:`project`; counts: [B, P, M], how often each was found.
        """
        around = composed.at(states, positions, grid)  # [B, P, D]
        refined = around[:, :, None] + projected  # [B, P, M, D]
        weighed = self.score(refined) * refined
        counts = counts.to(weighed.dtype)
        total = (weighed * counts[..., None]).sum(2)  # [B, P, D]
        if self.settings.pool == "mean":
            total = total / counts.sum(-1, keepdim=True).clamp(min=1)
        return total, weighed


def distinct(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct values among the last axis, and how often each occurs: both [..., M].

    codes: int64 [..., K]. M is the largest number of distinct values of any row; rows with fewer
    are filled with -1, counted 0 times. Equal patches have equal features: one of them is enough.
    """
    codes = codes.sort(-1, descending=True).values
    new = torch.ones_like(codes)
    new[..., 1:] = codes[..., 1:] != codes[..., :-1]
    rank = new.cumsum(-1) - 1
    most = int(rank.max()) + 1
    values = torch.full_like(codes, -1).scatter(-1, rank, codes)
    counts = torch.zeros_like(codes).scatter_add(-1, rank, torch.ones_like(codes))
    return values[..., :most], counts[..., :most]


def _version(weight: torch.Tensor) -> tuple[int, int, torch.dtype]:
    """Changes when the weight does; a tensor made in inference mode does not count its changes."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype


@lru_cache(maxsize=64)
def _sources(window: Neighborhood, grid: tuple[int, int], device: torch.device) -> torch.Tensor:
    return torch.tensor(window.neighbor_index(*grid), device=device)  # [N, n]
