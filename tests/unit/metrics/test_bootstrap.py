"""The bootstrap against plain loops over the same draws; McNemar against its closed form."""

from math import comb

import numpy as np
import pytest
from refusals import refused
from scipy.stats import binomtest

from arrag.metrics.bootstrap import (
    Estimate,
    bootstrap,
    mcnemar,
    paired_difference,
    resample_indices,
)
from arrag.utils.errors import MismatchError

TAGS = ["colors"] * 5 + ["position"] * 3 + ["colors"] * 2
VALUES = [0.0, 0.25, 1.0, 0.5, 0.75, 1.0, 0.0, 0.25, 0.5, 1.0]


def make_score(verdicts, tags=TAGS, **fields):
    rows = [
        {"tag": tag, "mean": bits.count("1") / len(bits), "verdicts": bits}
        for tag, bits in zip(tags, verdicts, strict=True)
    ]
    return {
        "metric": "geneval",
        "prompt_set_sha256": "a" * 64,
        "judge": {"detector": "d"},
        "compat": "official",
        "per_prompt": rows,
    } | fields


def test_bootstrap_equals_a_plain_loop_over_the_same_draws():
    drawn = resample_indices(TAGS, resamples=500, seed=7)
    spread = {"colors": [], "position": [], "overall": []}
    for r in range(500):
        means = []
        for tag in ("colors", "position"):
            total = 0.0
            for index in drawn[tag][r]:
                assert TAGS[index] == tag  # strata are never mixed
                total += VALUES[index]
            means.append(total / len(drawn[tag][r]))
            spread[tag].append(means[-1])
        spread["overall"].append(sum(means) / 2)
    found = bootstrap(TAGS, VALUES, resamples=500, seed=7)
    assert list(found) == ["colors", "position", "overall"]
    for name, values in spread.items():
        assert found[name].low == pytest.approx(np.percentile(values, 2.5), abs=1e-12)
        assert found[name].high == pytest.approx(np.percentile(values, 97.5), abs=1e-12)
    assert found["colors"].value == pytest.approx(4.0 / 7)
    assert found["position"].value == pytest.approx(1.25 / 3)
    assert found["overall"].value == pytest.approx((4.0 / 7 + 1.25 / 3) / 2)


def test_draws_are_seeded_and_as_many_as_the_task_has_prompts():
    drawn = resample_indices(TAGS, resamples=50, seed=1)
    assert {tag: d.shape for tag, d in drawn.items()} == {"colors": (50, 7), "position": (50, 3)}
    again, other = resample_indices(TAGS, 50, seed=1), resample_indices(TAGS, 50, seed=2)
    assert all(np.array_equal(drawn[tag], again[tag]) for tag in drawn)
    assert not all(np.array_equal(drawn[tag], other[tag]) for tag in drawn)
    assert set(drawn["colors"].ravel()) == {0, 1, 2, 3, 4, 8, 9}


def test_interval_width_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    values = (rng.random(400) < 0.6).astype(float)
    estimate = bootstrap(["colors"] * 400, values)["colors"]
    half = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.006)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.006)


def test_paired_difference_is_the_bootstrap_of_per_prompt_differences():
    first = ["1111", "1000", "1111", "1100", "1110", "1111", "0000", "1000", "1100", "1111"]
    second = ["1111", "0000", "1110", "1100", "1100", "1111", "0000", "0000", "1100", "1110"]
    found = paired_difference(make_score(first), make_score(second))
    gaps = [(a.count("1") - b.count("1")) / 4 for a, b in zip(first, second, strict=True)]
    assert found == bootstrap(TAGS, gaps)
    assert found["position"].value == pytest.approx(0.25 / 3)
    assert found["position"].low == 0  # it holds 0 ...
    assert not found["colors"].holds(0)  # ... this does not
    same = paired_difference(make_score(first), make_score(first))
    assert set(same.values()) == {Estimate(0.0, 0.0, 0.0)} and same["overall"].holds(0)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 5), (2, 9), (30, 18)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    both, neither = 3, 4
    first = "1" * b + "0" * c + "1" * both + "0" * neither
    second = "0" * b + "1" * c + "1" * both + "0" * neither
    found = mcnemar(make_score([first], ["colors"]), make_score([second], ["colors"]))
    assert (found.only_first, found.only_second) == (b, c)
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    if b + c:
        assert found.p == pytest.approx(binomtest(b, b + c, 0.5).pvalue)


def test_scores_that_do_not_fit_are_refused():
    score = make_score(["1"] * 10)
    for field in ("metric", "prompt_set_sha256", "judge", "compat"):
        for compare in (paired_difference, mcnemar):
            with refused(MismatchError, field=field):
                compare(score, score | {field: "other"})
    with refused(MismatchError):  # another number of images
        mcnemar(score, make_score(["11"] * 10))
