"""Long work that several jobs share, each a run of its items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

Items = TypeVar("Items", bound=Sequence)


class Part(NamedTuple):
    """Part ``number`` of ``of``, from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    def share(self, items: Items) -> Items:
        """This part of some items: parts follow each other, and differ by one item at most."""
        first, last = (len(items) * i // self.of for i in (self.number - 1, self.number))
        return items[first:last]
