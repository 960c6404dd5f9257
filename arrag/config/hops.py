"""How far a window reaches: one hop, or several together (the paper's "12" means hops 1 and 2).

Here and not in the neighbourhood, because configurations are read without torch.
"""

from __future__ import annotations

from typing import Any


def checked_hops(value: Any) -> int | tuple[int, ...]:
    """``value`` as a hop, or as a tuple of several.

    value: a whole number of 1 or more, or a list of such numbers in ascending order; one number
    alone in a list is that number. Raises ValueError for anything else.
    """
    hops = list(value) if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(hop, int) and not isinstance(hop, bool) and hop >= 1 for hop in hops)
    if not hops or not whole or hops != sorted(set(hops)):
        raise ValueError(
            f"found {value!r}; use a whole number of 1 or more, or several in ascending order, "
            "like [1, 2]"
        )
    return hops[0] if len(hops) == 1 else tuple(hops)
