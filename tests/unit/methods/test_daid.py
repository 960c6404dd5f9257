"""DAiD against distributions worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_database import make_patch_index

from arrag.methods.daid import DAiD, retrieval_distribution
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError, MismatchError, UsageError

INF = math.inf
BOOK = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
GRIDS = np.array([[[0, 1, 0], [1, 3, 2]], [[0, 1, 1], [1, 2, 2]]], np.uint16)
# A causal query at position 4 that knows 0, 1, 0, 1 meets (0, 1, 0, 1) -> 3 at distance 0 and
# (0, 1, 1, 1) -> 2 at distance 1.


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_patch_index(tmp_path_factory.mktemp("daid"), GRIDS, BOOK, Neighborhood("causal"))


@pytest.fixture
def step():
    """Codes, what is known and the position about to be predicted."""
    codes = torch.tensor([[[0, 1, 0], [1, 0, 0]]])
    known = torch.tensor([[[True, True, True], [True, False, False]]])
    return codes, known, torch.tensor([4])


class Unsearchable:
    """An index that must not be searched."""


def test_the_retrieved_distribution_by_hand():
    got = retrieval_distribution(
        torch.tensor([0.0, 1.0, 3.0]), torch.tensor([3, 0, 1]), V=4, tau=2.0
    )
    weights = [math.exp(-0.5), math.exp(-1.5), 0.0, 1.0]
    assert got.tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_repeats_of_a_code_keep_the_nearest():
    distances, codes = torch.tensor([0.5, 1.0, 1.0, 2.0]), torch.tensor([1, 0, 1, 0])
    got = retrieval_distribution(distances, codes, V=3, tau=1.0)
    weights = [math.exp(-1.0), math.exp(-0.5)]
    assert got.tolist() == pytest.approx([*(w / sum(weights) for w in weights), 0.0])
    turned = retrieval_distribution(distances.flip(0), codes.flip(0), V=3, tau=1.0)
    assert torch.equal(turned, got)
    every = retrieval_distribution(distances, codes, V=3, tau=1.0, dedupe="none")
    weights = [math.exp(-1.0) + math.exp(-2.0), math.exp(-0.5) + math.exp(-1.0)]
    assert every.tolist() == pytest.approx([*(w / sum(weights) for w in weights), 0.0])


@pytest.mark.parametrize("dedupe", ["nearest", "none"])
def test_absent_slots_get_no_mass(dedupe):
    distances = torch.tensor([[1.0, INF, INF], [INF, INF, INF]])
    codes = torch.tensor([[2, -1, -1], [-1, -1, -1]])
    got = retrieval_distribution(distances, codes, V=4, tau=0.1, dedupe=dedupe)
    assert got.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dedupe", ["nearest", "none"])
@given(st.data())
@settings(max_examples=50, deadline=None)
def test_rows_sum_to_one_or_are_zero(dedupe, data):
    rows, k, codes = (data.draw(st.integers(1, 6)) for _ in range(3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    distances = 10 ** data.draw(st.floats(-6, 6)) * torch.rand(rows, k, generator=generator)
    chosen = torch.randint(-1, codes, (rows, k), generator=generator)
    distances[chosen < 0] = INF
    tau = 10 ** data.draw(st.floats(-300, 6))
    got = retrieval_distribution(distances, chosen, codes, tau, dedupe)
    assert (got >= 0).all()
    found = (chosen >= 0).any(dim=1)
    assert torch.allclose(got.sum(dim=1), found.float(), atol=1e-5)
    for row in torch.nonzero(found).flatten():
        # The nearest code is never less likely than another under "nearest".
        nearest = chosen[row, distances[row].argmin()]
        assert dedupe == "none" or got[row, nearest] == got[row].max()


def test_blending_by_hand(index, step):
    probs = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    got = DAiD(index, k=2, lam=0.25, tau=0.5).on_probs(probs, *step)
    far = math.exp(-2.0) / (1 + math.exp(-2.0))
    want = [0.75 * 0.1, 0.75 * 0.2, 0.75 * 0.3 + 0.25 * far, 0.75 * 0.4 + 0.25 * (1 - far)]
    assert got.shape == (1, 1, 4)
    assert got.flatten().tolist() == pytest.approx(want)


def test_lam_0_returns_the_same_tensor_without_searching(step):
    probs = torch.rand(1, 1, 4)
    assert DAiD(Unsearchable(), k=2, lam=0, tau=1.0).on_probs(probs, *step) is probs


def test_lam_1_gives_the_retrieved_distribution(index, step):
    probs = torch.softmax(torch.arange(4.0), 0).view(1, 1, 4)
    got = DAiD(index, k=2, lam=1, tau=0.5).on_probs(probs, *step)
    found = index.search(*step, 2)
    assert torch.equal(got, retrieval_distribution(found.distances, found.codes, 4, 0.5))


@pytest.mark.parametrize("lam", [0.5, 1])
def test_rows_that_retrieve_nothing_are_unchanged(index, step, lam):
    codes, known, _ = step
    probs = torch.softmax(torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)), -1)
    got = DAiD(index, k=2, lam=lam, tau=0.5).on_probs(probs, codes, known, torch.tensor([5, 4]))
    assert torch.equal(got[:, 0], probs[:, 0])  # position 5 has no upper right neighbour
    assert not torch.equal(got[:, 1], probs[:, 1])
    assert torch.allclose(got.sum(-1), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("lam", [-0.1, 1.1, math.nan, "0.5", None, True]),
        ("tau", [0, -1.0, math.inf, math.nan, "1", None]),
        ("k", [0, -1, 1.5, "2", None, True]),
        ("dedupe", ["mean", None]),
    ],
)
def test_values_out_of_range_are_named(option, values):
    for value in values:
        options = {"k": 2, "lam": 0.5, "tau": 1.0, option: value}
        with pytest.raises(UsageError) as error:
            DAiD(Unsearchable(), **options)
        assert error.value.field == f"daid.{option}" and error.value.hint


def test_a_database_of_another_tokenizer_or_too_small_is_refused(index, step):
    with pytest.raises(MismatchError):
        DAiD(index, k=2, lam=0.5, tau=1.0).on_probs(torch.rand(1, 1, 5), *step)
    with pytest.raises(ArragError):  # two patches are indexed
        DAiD(index, k=3, lam=0.5, tau=1.0).on_probs(torch.rand(1, 1, 4), *step)
    with pytest.raises(UsageError):
        retrieval_distribution(torch.zeros(1), torch.zeros(1, dtype=torch.long), 2, 1.0, "mean")
