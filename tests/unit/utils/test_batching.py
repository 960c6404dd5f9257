"""Batches: like lengths together, as many as memory holds, each job once and in order."""

import pytest
import torch

from arrag.utils.batching import BUCKET, MOST, ON_CPU, Memory, bucket, grown, in_batches

FREE = Memory(taken=1, free=1 << 40)


def batches(count, size, memory=lambda: None, draw=len):
    return [list(batch) for batch, _ in in_batches(draw, range(count), size, memory)]


def test_prompts_of_like_length_share_a_bucket():
    prompts = ["ä" * BUCKET, "b" * (BUCKET - 1), "c", "d" * BUCKET]
    assert [bucket(prompt) for prompt in prompts] == [2, 0, 0, 1]  # an ä is two bytes


def test_a_size_that_is_told_is_kept():
    assert [len(b) for b in batches(10, 4, lambda: FREE)] == [4, 4, 2]


def test_a_cpu_has_a_size_of_its_own():
    assert [len(b) for b in batches(ON_CPU + 1, None)] == [ON_CPU, 1]


def test_an_accelerator_takes_more_while_they_fit():
    drawn = batches(100, None, lambda: FREE)
    assert [len(b) for b in drawn] == [8, 16, 32, 44]
    assert sum(drawn, []) == list(range(100))


@pytest.mark.parametrize(
    ("size", "memory", "expected"),
    [
        (8, Memory(taken=80, free=1000), 16),  # 90 would fit
        (64, Memory(taken=640, free=1000), 90),
        (64, Memory(taken=640, free=500), 45),  # somebody else has taken some meanwhile
        (8, Memory(taken=80, free=0), 1),
        (MOST, FREE, MOST),
    ],
)
def test_growth_takes_nine_tenths_of_what_is_free(size, memory, expected):
    assert grown(size, memory) == expected


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room"), MemoryError(), RuntimeError("can't allocate memory: 9")],
)  # fmt: skip
def test_what_does_not_fit_is_drawn_again_by_halves(error):
    tried = []

    def draw(batch):
        tried.append(len(batch))
        if len(batch) > 20:
            raise error
        return len(batch)

    drawn = batches(50, None, lambda: FREE, draw)
    assert sum(drawn, []) == list(range(50))
    assert tried == [8, 16, 26, 13, 13]


@pytest.mark.parametrize("size", [4, None])
def test_other_errors_and_too_large_a_size_of_ones_own_are_told(size):
    error = MemoryError("no room") if size else RuntimeError("something else")

    def draw(batch):
        raise error

    with pytest.raises(type(error), match=str(error)):
        batches(5, size, draw=draw)


def test_one_image_without_room_is_an_error():
    def draw(batch):
        raise MemoryError("no room")

    with pytest.raises(MemoryError):
        batches(5, None, draw=draw)
