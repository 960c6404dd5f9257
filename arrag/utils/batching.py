"""Which images are drawn together: prompts of like length, as many as memory holds.

An image does not depend on its batch, so all this is about time: a short prompt beside a long one
is padded to its length, and an accelerator is faster the more it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

BUCKET = 128  # bytes of a prompt: about 32 tokens
ON_CPU = 32  # from here on an image takes the same time, and more only take more memory
FIRST, MOST = 8, 1024  # on an accelerator, where the size grows with what is free
SPARE = 0.9  # of what is free, the share that a batch may take


def bucket(prompt: str) -> int:
    """Prompts of one bucket are about as long; drawn bucket by bucket, few are padded much."""
    return len(prompt.encode()) // BUCKET


class Memory(NamedTuple):
    """Bytes of an accelerator: the most that the last batch took, and what is free beside it."""

    taken: int
    free: int


def on_accelerator() -> Memory | None:
    """What the batch since the last call took at most; None where there is no accelerator."""
    if not torch.cuda.is_available():
        return None
    held = torch.cuda.memory_allocated()
    taken = torch.cuda.max_memory_allocated() - held
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - held
    torch.cuda.reset_peak_memory_stats()
    return Memory(taken, free)


def grown(size: int, memory: Memory) -> int:
    """Twice ``size`` if twice of what a batch of it took is free, else what fits; at most MOST."""
    fits = int(SPARE * memory.free * size / max(memory.taken, 1))
    return max(1, min(2 * size, fits, MOST))


def in_batches(
    draw: Callable[[Sequence[Any]], Any],
    jobs: Sequence[Any],
    size: int | None,
    memory: Callable[[], Memory | None] = on_accelerator,
) -> Iterator[tuple[Sequence[Any], Any]]:
    """Draw all jobs in order; yields each batch of them and what ``draw`` gave for it.

    ``size``: jobs at a time; None lets memory decide: 32 on a CPU; on an accelerator 8 at first,
    then more as long as they fit. Where they do not after all, half as many are drawn again.
    """
    told, most = size is not None, MOST
    now = size or (FIRST if memory() else ON_CPU)
    begun = 0
    while begun < len(jobs):
        batch = jobs[begun : begun + now]
        try:
            drawn = draw(batch)
        except Exception as error:
            if told or len(batch) == 1 or not out_of_memory(error):
                raise
            now = most = len(batch) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, drawn
        begun += len(batch)
        if not told and (used := memory()):
            now = min(grown(now, used), most)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is no memory, of the machine or of an accelerator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
