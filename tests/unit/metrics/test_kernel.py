"""CMMD and KID: closed forms, plain double loops, clean-fid's and torchmetrics' figures."""

import numpy as np
import pytest
import torch
from cleanfid.fid import kernel_distance
from refusals import refused
from torchmetrics.image.kid import poly_mmd

from arrag.metrics import kernel
from arrag.metrics.bootstrap import image_weights
from arrag.metrics.cmmd import cmmd
from arrag.metrics.kid import kid
from arrag.utils.errors import MismatchError, UsageError


def unit(seed, n, dim=6):
    x = np.random.default_rng(seed).normal(size=(n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loops(x, y, k):
    """Means of k over all pairs, and over pairs of different rows."""
    n, m = len(x), len(y)
    xx, yy = [[[k(a, b) for b in z] for a in z] for z in (x, y)]
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    biased = np.sum(xx) / n**2 + np.sum(yy) / m**2 - 2 * xy
    unbiased = (np.sum(xx) - np.trace(xx)) / (n * (n - 1))
    unbiased += (np.sum(yy) - np.trace(yy)) / (m * (m - 1)) - 2 * xy
    return biased, unbiased


def rbf(a, b):
    return np.exp(-np.sum((a - b) ** 2) / 200)


def cubic(a, b):
    return (a @ b / len(a) + 1) ** 3


def test_cmmd_of_two_unit_vectors():
    e = np.eye(2)
    assert cmmd(e[:1], e[1:])[0] == pytest.approx(2000 * (1 - np.exp(-0.01)), abs=1e-9)
    assert cmmd(e, e)[0] == pytest.approx(0, abs=1e-9)


def test_equal_plain_loops(monkeypatch):
    x, y = unit(0, 13), unit(1, 9)
    for rows, columns in ((1024, 4096), (4, 5)):
        monkeypatch.setattr(kernel, "ROWS", rows)
        monkeypatch.setattr(kernel, "COLUMNS", columns)
        assert cmmd(x, y)[0] == pytest.approx(1000 * loops(x, y, rbf)[0], rel=1e-9)
        assert kid(x, y)[0] == pytest.approx(loops(x, y, cubic)[1], rel=1e-9)


def test_kid_is_clean_fids_and_torchmetrics_where_one_subset_holds_all():
    x, y = 3 * unit(2, 40, 16), 3 * unit(3, 40, 16) + 0.1
    ours = kid(x, y)[0]
    assert ours == pytest.approx(kernel_distance(x, y, num_subsets=3), rel=1e-9)
    theirs = poly_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert ours == pytest.approx(theirs.item(), rel=1e-9)


def test_kid_is_unbiased_for_few_images():
    """Both sets from one distribution: the mean over many draws is 0 within its error."""
    rng = np.random.default_rng(0)
    found = [kid(rng.normal(size=(8, 4)), rng.normal(size=(8, 4)))[0] for _ in range(600)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    biased = [loops(*rng.normal(size=(2, 8, 4)), cubic)[0] for _ in range(50)]
    assert np.mean(biased) > 10 * error  # what the diagonal would do


def test_resamples_are_repeated_images():
    x, y = unit(4, 12), unit(5, 7)
    weights = image_weights(len(x), 3)
    for w, value in zip(weights.astype(int), cmmd(x, y, weights), strict=True):
        assert value == pytest.approx(cmmd(np.repeat(x, w, axis=0), y)[0], rel=1e-9)
    # KID never pairs an image with its own copy
    w = weights[:1]
    k = np.array([[cubic(a, b) for b in x] for a in x])
    pairs = np.outer(w[0], w[0]) * (1 - np.eye(len(x)))
    cross = sum(c * cubic(a, b) for c, a in zip(w[0], x, strict=True) for b in y) / (12 * 7)
    own = loops(y, y, cubic)
    yy = (own[1] + 2 * np.mean([[cubic(a, b) for b in y] for a in y])) / 2
    expected = np.sum(pairs * k) / pairs.sum() + yy - 2 * cross
    assert kid(x, y, w)[0] == pytest.approx(expected, rel=1e-9)


def test_bad_input():
    with refused(MismatchError):
        cmmd(unit(0, 3, 4), unit(0, 3, 5))
    with refused(UsageError):
        cmmd(np.empty((0, 4)), unit(0, 3, 4))
    with refused(UsageError):
        kid(unit(0, 1), unit(0, 3))
