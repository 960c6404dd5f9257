"""How much is copied: against loops, and what must be 0 or 1."""

import numpy as np
import pytest
from refusals import refused

from arrag.metrics.memorization import nearest_similarity, other_images, patch_copy_rate, windows
from arrag.utils.errors import UsageError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(5, 3))


def grids(seed, codes=3, shape=(7, 9)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, codes, shape), rng.integers(0, codes, shape)


def loop(codes, other, size, value):
    """Mean over the windows of ``codes`` of the best ``value`` against a window of ``other``."""
    best = []
    for r in range(codes.shape[0] - size + 1):
        for c in range(codes.shape[1] - size + 1):
            here = codes[r : r + size, c : c + size]
            found = -2.0
            for i in range(other.shape[0] - size + 1):
                for j in range(other.shape[1] - size + 1):
                    found = max(found, value(here, other[i : i + size, j : j + size]))
            best.append(found)
    return np.mean(best)


def cosine(a, b):
    a, b = VECTORS[a].ravel(), VECTORS[b].ravel()
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 2), (2, 3)])
def test_shares_and_cosines_are_those_of_a_loop(seed, size):
    codes, other = grids(seed, 2)
    other[:4, :4] = codes[3:, 5:]
    want = loop(codes, other, size, lambda a, b: float(np.array_equal(a, b)))
    assert 0 < want <= 1
    assert patch_copy_rate(codes, other, size) == want
    want = loop(codes, other, size, cosine)
    assert nearest_similarity(codes, other, VECTORS, size) == pytest.approx(want, abs=1e-12)


def test_a_copy_is_found_wherever_it_stands():
    codes, other = grids(5, 5)
    assert patch_copy_rate(codes, codes) == nearest_similarity(codes, codes, VECTORS) == 1
    assert patch_copy_rate(codes, other) < 0.1
    pasted = other.copy()
    pasted[1:5, 2:6] = codes[2:6, 4:8]
    assert round(patch_copy_rate(pasted, codes) * 35) == 4  # 2 x 2 windows of the 4 x 4 codes


def test_windows_cover_the_grid_and_no_more():
    rows = windows(np.arange(12).reshape(3, 4))
    assert rows.tolist() == [[0, 1, 2, 4, 5, 6, 8, 9, 10], [1, 2, 3, 5, 6, 7, 9, 10, 11]]
    with refused(UsageError):
        windows(np.zeros((2, 4), int))


def test_another_image_is_never_the_reference():
    references = np.repeat(np.arange(5), 200)
    others = other_images(references, 5, seed=1)
    assert not (others == references).any()
    counts = [np.bincount(others[references == r], minlength=5) for r in range(5)]
    assert all((np.delete(count, r) > 20).all() for r, count in enumerate(counts))
    assert np.array_equal(others, other_images(references, 5, seed=1))
    with refused(UsageError):
        other_images(np.zeros(1, int), 1, seed=0)
