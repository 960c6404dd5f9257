"""Batches: similar lengths together, as many as memory holds, each job once and in order."""

import pytest
import torch

from arrag.utils.batching import (
    BUCKET_BYTES,
    CPU_BATCH_SIZE,
    MAX_BATCH,
    GpuMemory,
    batched_by_memory,
    length_bucket,
    next_batch_size,
)

FREE = GpuMemory(peak=1, free=1 << 40)


def batches(count, size, memory=lambda: None, run=len):
    return [list(batch) for batch, _ in batched_by_memory(run, range(count), size, memory)]


def test_prompts_of_similar_length_share_a_bucket():
    prompts = ["ä" * BUCKET_BYTES, "b" * (BUCKET_BYTES - 1), "c", "d" * BUCKET_BYTES]
    assert [length_bucket(prompt) for prompt in prompts] == [2, 0, 0, 1]  # an ä is two bytes


@pytest.mark.parametrize(
    ("count", "size", "memory", "sizes"),
    [
        (10, 4, FREE, [4, 4, 2]),
        (CPU_BATCH_SIZE + 1, None, None, [CPU_BATCH_SIZE, 1]),
        (100, None, FREE, [8, 16, 32, 44]),
    ],
)
def test_sizes_of_batches(count, size, memory, sizes):
    found = batches(count, size, lambda: memory)
    assert [len(batch) for batch in found] == sizes
    assert sum(found, []) == list(range(count))


@pytest.mark.parametrize(
    ("size", "memory", "expected"),
    [
        (8, GpuMemory(peak=80, free=1000), 16),  # 90 would fit
        (64, GpuMemory(peak=640, free=1000), 90),
        (64, GpuMemory(peak=640, free=500), 45),  # another process has taken some meanwhile
        (8, GpuMemory(peak=80, free=0), 1),
        (MAX_BATCH, FREE, MAX_BATCH),
    ],
)
def test_growth_takes_nine_tenths_of_what_is_free(size, memory, expected):
    assert next_batch_size(size, memory) == expected


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room"), MemoryError(), RuntimeError("can't allocate memory: 9")],
)
def test_what_does_not_fit_is_run_again_by_halves(error):
    tried = []

    def run(batch):
        tried.append(len(batch))
        if len(batch) > 20:
            raise error

    assert sum(batches(50, None, lambda: FREE, run), []) == list(range(50))
    assert tried == [8, 16, 26, 13, 13]


@pytest.mark.parametrize(
    ("count", "size", "error"),
    [(5, 4, MemoryError("x")), (5, None, RuntimeError("something else")), (1, None, MemoryError())],
)
def test_other_errors_a_given_size_and_single_jobs_are_not_tried_again(count, size, error):
    def run(batch):
        raise error

    with pytest.raises(type(error)):
        batches(count, size, run=run)
