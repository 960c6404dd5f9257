"""Which images are generated together: prompts of similar length, as many as memory holds.

An image does not depend on its batch, so this is about time alone: a short prompt next to a long
one is padded to its length, and a GPU is faster the more it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from arrag.utils.resource_errors import is_out_of_memory

BUCKET_BYTES = 128  # of a prompt: about 32 tokens
CPU_BATCH_SIZE = 32  # beyond it an image takes the same time, and more memory
FIRST_GPU_BATCH, MAX_BATCH = 8, 1024
MEMORY_SHARE = 0.9  # of what is free, for a batch


def length_bucket(prompt: str) -> int:
    """Prompts of one bucket are about as long; generated bucket by bucket, few are padded much."""
    return len(prompt.encode()) // BUCKET_BYTES


class GpuMemory(NamedTuple):
    """Bytes of a GPU: the peak of the last batch above what was held before, and what is free."""

    peak: int
    free: int


def gpu_memory() -> GpuMemory | None:
    """Memory since the last call; None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    held = torch.cuda.memory_allocated()
    peak = torch.cuda.max_memory_allocated() - held
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - held
    torch.cuda.reset_peak_memory_stats()
    return GpuMemory(peak, free)


def next_batch_size(size: int, memory: GpuMemory) -> int:
    """Twice ``size`` if twice of what a batch of it took is free, else what fits."""
    fits = int(MEMORY_SHARE * memory.free * size / max(memory.peak, 1))
    return max(1, min(2 * size, fits, MAX_BATCH))


def batched_by_memory(
    run: Callable[[Sequence[Any]], Any],
    jobs: Sequence[Any],
    size: int | None,
    memory: Callable[[], GpuMemory | None] = gpu_memory,
) -> Iterator[tuple[Sequence[Any], Any]]:
    """Run all jobs in order, in batches.

    A batch that runs out of memory is run again by halves.

    Args:
        run: A batch to its results.
        jobs: All jobs.
        size: Jobs at a time; None: 32 on a CPU; on a GPU 8 at first, then more while they fit.
        memory: Measures the memory of the last batch.

    Yields:
        Each batch and its results.
    """
    limit = MAX_BATCH
    now = size or (FIRST_GPU_BATCH if memory() else CPU_BATCH_SIZE)
    start = 0
    while start < len(jobs):
        batch = jobs[start : start + now]
        try:
            results = run(batch)
        except Exception as error:
            if size is not None or len(batch) == 1 or not is_out_of_memory(error):
                raise
            now = limit = len(batch) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, results
        start += len(batch)
        if size is None and (used := memory()):
            now = min(next_batch_size(now, used), limit)
