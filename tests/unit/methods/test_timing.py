"""The clock's arithmetic, with rows that take a known time; no assertion on the machine's speed."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
import yaml
from scipy import stats as scipy_stats

from arrag.cli.main import main
from arrag.methods import timing
from arrag.methods.timing import best_batch, overhead, seconds_of, time_rows, typical
from arrag.utils.errors import ResourceError
from arrag.utils.files import read_json


class Clock:
    """A time that passes only when a row draws."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def row(self, name, once, each):
        def draw(prompts):
            self.calls.append((name, list(prompts)))
            self.now += once + each * len(prompts)

        return draw


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_every_row_draws_the_same_prompts_in_turn(clock):
    rows = {name: clock.row(name, 1.0, each) for name, each in zip("abc", (1, 2, 4), strict=True)}
    prompts = ["p", "q", "r"]
    seconds = time_rows(rows, prompts, {"a": 1, "b": 2, "c": 3}, rounds=4)
    assert seconds == {"a": [6.0] * 4, "b": [8.0] * 4, "c": [13.0] * 4}
    warm, timed = clock.calls[:3], clock.calls[3:]
    assert warm == [("a", ["p"]), ("b", ["p", "q"]), ("c", prompts)]
    order = [name for name, _ in itertools.groupby(name for name, _ in timed)]
    # Each round begins with another row.
    assert "".join(order[:9]) == "abcbcacab"
    for name in rows:
        drawn = [prompt for row, some in timed if row == name for prompt in some]
        assert drawn == prompts * 4


def test_the_batch_is_doubled_until_no_faster(clock):
    found = best_batch(clock.row("a", 8.0, 1.0), ["p"], most=1024)
    # 8 / n + 1: halving what is shared pays until it is 3 % of an image.
    assert found.tried[1] == 9 and found.tried[4] == 3
    assert found.tried[found.best] == min(found.tried.values())
    assert found.end == f"{max(found.tried)} is no faster"
    flat = best_batch(clock.row("a", 0.0, 1.0), ["p", "q"], most=64)
    assert (flat.best, flat.end) == (1, "2 is no faster")
    capped = best_batch(clock.row("a", 8.0, 0.0), ["p", "q"], most=16)
    assert (capped.best, capped.end) == (16, "the largest tried, 16")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_memory_ends_the_search(clock, error):
    row = clock.row("a", 8.0, 0.0)

    def draw(prompts):
        if len(prompts) > 4:
            raise error
        row(prompts)

    found = best_batch(draw, ["p"], most=64)
    assert (found.best, found.end, list(found.tried)) == (4, "no memory for 8", [1, 2, 4])

    def nothing(prompts):
        raise error

    with pytest.raises(ResourceError):
        best_batch(nothing, ["p"], most=64)


def test_another_error_is_not_taken_for_a_full_memory():
    def draw(prompts):
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        best_batch(draw, ["p"], most=2)


def test_overheads_are_paired_and_geometric():
    drift = np.array([1.0, 3.0, 0.5, 2.0])  # the machine's, common to both rows
    found = overhead(1.36 * drift, drift)
    assert np.allclose(found, [36, 36, 36])
    seconds, base = np.array([1.1, 1.2, 1.3]), np.ones(3)
    low, high = scipy_stats.t.interval(
        0.95, 2, loc=np.log(seconds).mean(), scale=scipy_stats.sem(np.log(seconds))
    )
    want = [np.exp(np.log(seconds).mean()), np.exp(low), np.exp(high)]
    assert np.allclose(overhead(seconds, base), 100 * (np.array(want) - 1))
    one = overhead([2.0], [1.0])
    assert one.value == pytest.approx(100) and math.isnan(one.low) and math.isnan(one.high)


def test_no_time_can_be_negative():
    found = typical([1.0, 100.0])
    assert found.value == pytest.approx(10) and 0 < found.low < 1 and found.high > 100
    assert np.allclose(typical([3.0, 3.0, 3.0]), 3)


def test_a_batch_of_zero_is_all_at_once(clock):
    row = clock.row("a", 1.0, 1.0)
    assert seconds_of(row, ["p"] * 5) == 6
    assert seconds_of(row, ["p"] * 5, batch=2) == 8


@pytest.fixture(scope="module")
def timed(tmp_path_factory, tiny_janus, root):
    """A configuration of the bare model alone, and what `arrag time` says of it."""
    folder = tmp_path_factory.mktemp("timed")
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text(encoding="utf-8"))
    document["generators"]["janus"] |= {"checkpoint": str(tiny_janus), "dtype": "float32"}
    document["benchmarks"]["geneval"]["prompts"] = str(folder / "prompts.jsonl")
    clause = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
    line = json.dumps(clause | {"prompt": "a photo of a dog"})
    (folder / "prompts.jsonl").write_text(line + "\n", encoding="utf-8")
    document["methods"] = {"bare": document["methods"]["vanilla"]}
    document |= {"grids": {}, "figures": {}}
    document["timing"] = {"images": 1, "rounds": 1, "max_batch": 1, "weights": "random"}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    out = str(folder / "timing.json")
    assert main(["time", "--config", str(config), "--batch-size", "1", "--out", out]) == 0
    return config, folder / "timing.json"


def test_a_run_times_our_loop_and_upstream_s(timed, tmp_path):
    config, path = timed
    found = read_json(path)
    assert found["order"] == list(found["rows"]) == ["bare", "upstream"]
    for row in found["rows"].values():
        assert row["bare"] == "bare" and row["dtype"] == "float32"
        for run in row["runs"].values():
            assert run["batch"] == run["images"] == len(run["seconds"]) == 1
            assert run["seconds"][0] > 0
    assert found["machine"]["threads"] == 1 and found["machine"]["device"] == "cpu"
    assert found["weights"] == "random" and set(found["versions"]) >= {"torch", "transformers"}
    out = tmp_path / "table4.md"
    assert main(["report", "table4", str(path), "--config", str(config), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "transformers generate" in page and "Random weights" in page
    assert (tmp_path / "table4.csv").is_file() and (tmp_path / "table4.tex").is_file()


def test_an_unknown_row_is_one_line(timed, capsys):
    arguments = ["time", "--config", str(timed[0]), "--out", "x.json", "--methods", "bear"]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "bare" in printed and printed.count("\n") == 1
