"""Which grid positions are the neighbours of a patch (paper section 3.1).

The store's entries, the queries of a decoder and the search kernels all take the neighbours from
here, so that keys and queries agree. The border and the causal half follow the authors' code; the
paper leaves them open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from arrag.config.base import checked_hops
from arrag.utils.errors import ConfigError

MISSING = -1
"""A neighbour that is off the grid or not generated yet; its vector is zero."""


@dataclass(frozen=True)
class Neighborhood:
    """Neighbours of a patch within ``hop`` steps.

    Attributes:
        context: ``causal`` keeps those that precede the patch in raster order (hop 1: upper left,
            upper, upper right, left), ``full`` keeps all ``(2 hop + 1)² - 1``.
        hop: The radius h of the window, or several: ``(1, 2)`` is the paper's composite "12"
            (appendix on hyperparameters), which it does not define for keys. Here its key is the
            key of hop 1 and then that of hop 2, so that a composite distance is the sum of the
            distances of its hops: a neighbour counts once for each window that it is in.
        border: ``skip`` neither indexes nor augments a patch whose neighbourhood leaves the grid;
            ``zero`` does both, with zero vectors off the grid.
        masked_distance: Only the known neighbours of a query contribute to a distance. Without it
            an unknown neighbour is a zero vector, which draws queries towards border keys.

    Raises:
        ConfigError: Another value; ``field`` names the attribute.
    """

    context: str
    hop: int | tuple[int, ...] = 1
    border: str = "skip"
    masked_distance: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "context": ("causal", "full"),
            "border": ("skip", "zero"),
            "masked_distance": (False, True),
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ConfigError(
                    f"found {getattr(self, field)!r}",
                    field=field,
                    hint=f"use one of {', '.join(map(repr, values))}",
                )
        try:
            object.__setattr__(self, "hop", checked_hops(self.hop))
        except ValueError as error:
            raise ConfigError(error, field="hop") from None

    @property
    def hops(self) -> tuple[int, ...]:
        """The radii of the windows, ascending."""
        return self.hop if isinstance(self.hop, tuple) else (self.hop,)

    @property
    def radius(self) -> int:
        """Distance to the farthest neighbour, in rows or columns."""
        return self.hops[-1]

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """(row, column) steps to the n neighbours: hop by hop, top to bottom and left to right.

        n is a multiple of four, and a composite repeats the steps that its windows share.
        """
        steps = []
        for hop in self.hops:
            side = range(-hop, hop + 1)
            window = [(dr, dc) for dr in side for dc in side if (dr, dc) != (0, 0)]
            steps += window if self.context == "full" else [o for o in window if o < (0, 0)]
        return tuple(steps)

    def neighbor_index(self, height: int, width: int) -> np.ndarray:
        """Flat positions of all neighbours: int64 [H*W, n], MISSING off the grid."""
        return _neighbor_index(self, height, width)

    def valid_positions(self, height: int, width: int) -> torch.Tensor:
        """Which positions are indexed and augmented: bool [H, W]."""
        wanted = ~self.boundary_mask(height, width) | (self.border == "zero")
        return torch.from_numpy(wanted.reshape(height, width))

    def boundary_mask(self, height: int, width: int) -> np.ndarray:
        """Which positions have a neighbourhood that leaves the grid: bool [H*W]."""
        return (self.neighbor_index(height, width) == MISSING).any(axis=1)

    def gather(
        self, codes: torch.Tensor, known: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Gather the codes of the neighbours of some positions.

        Args:
            codes: integer [B, H, W].
            known: bool [B, H, W], which codes are generated.
            positions: integer [P], flat in raster order.

        Returns:
            int64 [B, P, n] on the device of ``codes``, MISSING where the neighbour is off the grid
            or unknown.
        """
        batch, height, width = codes.shape
        around = _neighbor_index_on(self, height, width, codes.device)[positions]  # [P, n]
        flat = torch.full((batch, height * width + 1), MISSING, device=codes.device)
        flat[:, :-1] = torch.where(known, codes.long(), MISSING).flatten(1)
        return flat[:, around]  # MISSING = -1 reads the extra last column


@lru_cache(maxsize=64)
def _neighbor_index(neighborhood: Neighborhood, height: int, width: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(height * width), width)  # [N]
    steps = np.array(neighborhood.offsets)  # [n, 2]
    row, column = rows[:, None] + steps[:, 0], columns[:, None] + steps[:, 1]  # [N, n]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    table = np.where(inside, row * width + column, MISSING)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=64)
def _neighbor_index_on(
    neighborhood: Neighborhood, height: int, width: int, device: torch.device
) -> torch.Tensor:
    return torch.tensor(neighborhood.neighbor_index(height, width), device=device)
