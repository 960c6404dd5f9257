"""Fréchet distances: closed forms, the other libraries' formulas, and resampling."""

import numpy as np
import pytest
import torch
from cleanfid.fid import fid_from_feats
from cleanfid.fid import frechet_distance as cleanfid_distance
from pytorch_fid.fid_score import calculate_frechet_distance
from refusals import refused
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from arrag.metrics.bootstrap import image_bootstrap, image_weights, paired_difference
from arrag.metrics.frechet import (
    frechet_distance,
    gaussian_of_features,
    gaussian_of_moments,
    resampled_distances,
)
from arrag.utils.errors import FormatError, MismatchError, UsageError


def features(seed, n, dim, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift


def of(x):
    return gaussian_of_moments(x.mean(0), np.cov(x, rowvar=False))


def test_one_dimension_and_diagonals_have_closed_forms():
    one = gaussian_of_moments([1.0], [[4.0]])
    two = gaussian_of_moments([4.0], [[9.0]])
    assert frechet_distance(one, two) == pytest.approx(3**2 + (2 - 3) ** 2, abs=1e-12)
    rng = np.random.default_rng(0)
    m1, m2, s1, s2 = rng.normal(size=(4, 12))
    a, b = gaussian_of_moments(m1, np.diag(s1**2)), gaussian_of_moments(m2, np.diag(s2**2))
    expected = np.sum((m1 - m2) ** 2) + np.sum((np.abs(s1) - np.abs(s2)) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-9)


def test_commuting_covariances_and_a_known_map():
    """N(m, S) pushed through x -> A x + b, A symmetric and positive: no map is shorter."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(8, 8))
    s, a = root @ root.T, np.eye(8) + 0.1 * (root @ root.T)
    m, b = rng.normal(size=(2, 8))
    # E|A x + b - x|² for x ~ N(m, S)
    move = a - np.eye(8)
    expected = np.sum((move @ m + b) ** 2) + np.trace(move @ s @ move.T)
    pushed = gaussian_of_moments(a @ m + b, a @ s @ a.T)
    distance = frechet_distance(gaussian_of_moments(m, s), pushed)
    assert distance == pytest.approx(expected, rel=1e-9)


def test_agrees_with_the_other_libraries():
    x, y = features(0, 300, 24), features(1, 200, 24, shift=0.3)
    ours = frechet_distance(gaussian_of_features(x), gaussian_of_features(y))
    moments = x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)
    assert ours == pytest.approx(fid_from_feats(x, y), rel=1e-9)
    assert ours == pytest.approx(cleanfid_distance(*moments), rel=1e-9)
    assert ours == pytest.approx(calculate_frechet_distance(*moments), rel=1e-9)
    root = sqrtm(moments[1] @ moments[3])
    by_hand = np.sum((moments[0] - moments[2]) ** 2) + np.trace(moments[1] + moments[3] - 2 * root)
    assert ours == pytest.approx(by_hand.real, rel=1e-9)
    assert ours == pytest.approx(frechet_distance(of(x), of(y)), rel=1e-12)

    class Given(torch.nn.Module):
        num_features = 24

        def forward(self, given):
            return given

    metric = FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    assert ours == pytest.approx(metric.compute().item(), rel=1e-9)


def test_fewer_images_than_dimensions_need_no_epsilon():
    """Two points on a line inside 40 dimensions: the distance is that of the line."""
    direction = np.zeros(40)
    direction[3] = 1
    x = np.outer([-1.0, 1.0], direction)  # variance 2 along the line
    y = np.outer([1.0, 3.0, 5.0], direction)  # mean 3, variance 4
    expected = 3**2 + (np.sqrt(2) - 2) ** 2
    first, second = gaussian_of_features(x), gaussian_of_features(y)
    assert first.rank_deficient and second.rank_deficient
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-12)
    moments = (gaussian_of_moments(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y))
    assert frechet_distance(*moments) == pytest.approx(expected, abs=1e-9)
    few, many = features(2, 20, 40), features(3, 90, 40)
    both = frechet_distance(gaussian_of_features(few), gaussian_of_features(many))
    assert both == pytest.approx(frechet_distance(of(few), of(many)), rel=1e-6)
    assert both == pytest.approx(fid_from_feats(few, many), rel=1e-5)


@pytest.mark.parametrize("covariance", [[[1.0, 0.5], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_what_is_no_covariance_is_refused(covariance):
    with refused(FormatError):
        gaussian_of_moments(np.zeros(2), covariance)


def test_bad_features_are_refused():
    with refused(UsageError):
        gaussian_of_features(np.ones((1, 4)))
    with refused(FormatError):
        gaussian_of_features(np.array([[np.nan], [1.0]]))
    with refused(MismatchError):
        frechet_distance(of(features(0, 9, 2)), of(features(0, 9, 3)))


@pytest.mark.parametrize("n", [60, 10])
def test_a_resample_is_the_distance_of_the_repeated_images(n):
    x, reference = features(5, n, 12), gaussian_of_features(features(6, 80, 12, shift=0.2))
    weights = image_weights(n, 4)
    assert (weights.sum(1) == n).all() and weights.max() > 1
    fast = resampled_distances(x, reference, weights)
    for w, distance in zip(weights.astype(int), fast, strict=True):
        repeated = gaussian_of_features(np.repeat(x, w, axis=0))
        assert distance == pytest.approx(frechet_distance(repeated, reference), rel=1e-6)


def score(x, reference, value_of=None):
    gaussian = gaussian_of_features(reference)
    value = frechet_distance(gaussian_of_features(x), gaussian)
    values = resampled_distances(x, gaussian, image_weights(len(x), 200))
    bootstrap = image_bootstrap(value, values, "names")
    return {
        "metric": "fid", "compat": "clean", "judge": {}, "reference": {"sha256": "r"},
        "n": len(x), "value": value, "interval": bootstrap.pop("interval"), "bootstrap": bootstrap,
    }  # fmt: skip


def test_pairing_by_names_sees_differences_that_separate_intervals_do_not():
    reference = features(7, 400, 6)
    x = features(8, 200, 6)
    worse = score(x + 0.02, reference)
    better = score(x, reference)
    assert better["interval"][0] < better["value"] < better["interval"][1]
    assert better["bootstrap"]["bias"] > 0  # repeats make a resample look farther away
    difference = paired_difference(worse, better)["overall"]
    assert difference.value == worse["value"] - better["value"]
    width = better["interval"][1] - better["interval"][0]
    assert 0 < difference.high - difference.low < width / 5
    assert paired_difference(better, better)["overall"] == (0, 0, 0)
    for change in ({"n": 9}, {"metric": "kid"}, {"reference": {"sha256": "q"}}):
        with refused(MismatchError, field=next(iter(change))):
            paired_difference(better, worse | change)
    with refused(UsageError, field="bootstrap"):
        paired_difference(better | {"bootstrap": None}, better | {"bootstrap": None})
