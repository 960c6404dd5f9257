"""The training loop: exact resume, refusals, NaN, learning rate."""

import json

import pytest
import torch
from torch import nn

from arrag.training import loop
from arrag.utils.errors import ArragError, MismatchError


def train(folder, steps, stop=None, config="a"):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss_of_step(step):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()

    loop.train(
        model, [{"params": model.parameters()}], loss_of_step, steps=steps, peak=0.05,
        work_dir=folder, train_config={"what": config}, warmup=2, log_every=2, save_seconds=0,
    )  # fmt: skip
    return model


def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    straight = train(tmp_path / "straight", 20)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", 20, stop=13)
    resumed = train(tmp_path / "killed", 20)
    assert torch.equal(straight.weight, resumed.weight)
    logs = [
        [json.loads(x) for x in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("straight", "killed")
    ]
    assert [(r["step"], r["loss"]) for r in logs[0]] == [(r["step"], r["loss"]) for r in logs[1]]
    assert logs[0][-1]["loss"] < logs[0][0]["loss"] / 2
    assert (tmp_path / "killed" / "loss.png").stat().st_size > 1000


def test_another_configuration_is_refused(tmp_path):
    train(tmp_path, 4)
    with pytest.raises(MismatchError):
        train(tmp_path, 8, config="b")


def test_nan_is_an_error(tmp_path):
    model = nn.Linear(1, 1)
    with pytest.raises(ArragError, match="NaN"):
        loop.train(
            model, [{"params": model.parameters()}],
            lambda step: model(torch.ones(1, 1)).sum() * float("nan"), steps=4, peak=0.1,
            work_dir=tmp_path, train_config={}, log_every=2,
        )  # fmt: skip


def test_learning_rate_warms_up_stays_and_falls():
    rates = [loop.learning_rate(s, 100, 1.0, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[74] == 1.0
    assert rates[75] == 1.0 and rates[99] == pytest.approx(0.04)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
