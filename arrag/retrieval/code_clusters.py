"""Codes put in order: 256 groups of as many codes near to each other.

A group and a place in it are a byte each, the same two bytes as a code; but the groups alone say
roughly where a code is, and a table of a byte a group fits four registers.
"""

from __future__ import annotations

import numpy as np

GROUPS = 256


def balanced_clusters(points: np.ndarray) -> np.ndarray:
    """Codes by group: float32 [P, d] -> int64 [GROUPS, s], s = P / GROUPS rounded up.

    Halved again and again along the line between two codes far apart, at the median. A group short
    of codes repeats one; with fewer codes than groups, groups do.
    """
    groups = _halved(points, np.arange(len(points)), GROUPS)
    held, longest = max(groups, key=len), max(map(len, groups))
    table = np.empty((GROUPS, longest), np.int64)
    for row, group in zip(table, groups, strict=True):
        held = group if len(group) else held
        row[: len(held)], row[len(held) :] = held, held[0]
    return table


def _halved(points: np.ndarray, members: np.ndarray, parts: int) -> list[np.ndarray]:
    """int64 [M] -> ``parts`` lists of about M / parts each."""
    if parts == 1:
        return [members]
    if len(members) > 1:
        steps = points[members] - points[members].mean(axis=0)
        one = steps[(steps**2).sum(axis=1).argmax()]
        other = steps[((steps - one) ** 2).sum(axis=1).argmax()]
        members = members[np.argsort(steps @ (one - other), kind="stable")]
    half = len(members) // 2
    lower, upper = members[:half], members[half:]
    return _halved(points, lower, parts // 2) + _halved(points, upper, parts // 2)
