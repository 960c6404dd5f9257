"""Context: offsets by hand, gathering against loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from arrag.retrieval.neighborhood import MISSING, Neighborhood
from arrag.utils.errors import ConfigError


def test_offsets_are_those_of_the_paper():
    causal = ((-1, -1), (-1, 0), (-1, 1), (0, -1))  # upper left, upper, upper right, left
    assert Neighborhood("causal").offsets == causal
    assert Neighborhood("full").offsets == (*causal, (0, 1), (1, -1), (1, 0), (1, 1))


def test_wider_hops_go_top_to_bottom_and_left_to_right():
    for hop in (1, 2, 3):
        full, causal = Neighborhood("full", hop).offsets, Neighborhood("causal", hop).offsets
        assert list(full) == sorted(full) and len(full) == (2 * hop + 1) ** 2 - 1
        assert causal == full[: len(full) // 2]
        assert len(causal) % 4 == 0  # the scan takes them in fours


def test_border_rule_says_which_positions_are_indexed_and_augmented():
    skip = Neighborhood("causal", border="skip").valid_positions(3, 4)
    assert skip.tolist() == [[False] * 4, [False, True, True, False], [False, True, True, False]]
    assert Neighborhood("causal", border="zero").valid_positions(3, 4).all()
    assert Neighborhood("full", border="skip").valid_positions(3, 3).sum() == 1
    assert not Neighborhood("full", hop=2, border="skip").valid_positions(3, 3).any()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_gather_agrees_with_loops(data):
    neighborhood = Neighborhood(
        data.draw(st.sampled_from(["causal", "full"])), data.draw(st.integers(1, 3))
    )
    batch, height, width = (data.draw(st.integers(1, 4)) for _ in range(3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    codes = torch.randint(0, 50, (batch, height, width), generator=generator)
    known = torch.rand(batch, height, width, generator=generator) < 0.6
    positions = torch.randperm(height * width, generator=generator)
    found = neighborhood.gather(codes, known, positions)
    assert found.dtype == torch.int64
    for b in range(batch):
        for p, position in enumerate(positions.tolist()):
            for i, (dr, dc) in enumerate(neighborhood.offsets):
                row, column = position // width + dr, position % width + dc
                inside = 0 <= row < height and 0 <= column < width
                want = codes[b, row, column] if inside and known[b, row, column] else MISSING
                assert found[b, p, i] == want


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"context": "both"}, "context"),
        ({"context": "causal", "border": "wrap"}, "border"),
        ({"context": "causal", "masked_distance": "yes"}, "masked_distance"),
    ],
)
def test_a_wrong_value_is_named(options, field):
    with refused(ConfigError, field=field):
        Neighborhood(**options)


def test_hops_are_ascending_whole_numbers():
    for hop in ([], [1, 1], [2, 1], [0, 1], [1, True], ["1"], "12", None, 0, 1.5):
        with refused(ConfigError, field="hop"):
            Neighborhood("causal", hop)
    assert Neighborhood("causal", [2]).hop == 2
    assert Neighborhood("causal", [1, 2]) == Neighborhood("causal", (1, 2))
