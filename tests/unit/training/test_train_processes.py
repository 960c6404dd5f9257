"""Training with several processes, each of which would have a GPU: as rules start them."""

import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from arrag.training.pairs import make_pairs

PAIRS, HELD_OUT = 8, 2


@pytest.fixture
def arguments(root, tmp_path, micro_janus, assets):
    """Options of a training of two steps of the control."""
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
    document["training"] |= {"pairs": PAIRS, "held_out": HELD_OUT, "global_batch": 4}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    pairs = tmp_path / "pairs"
    make_pairs(
        "micro:database", micro_janus, pairs, count=PAIRS, held_out=HELD_OUT,
        first_held_out=document["database"]["images"], assets=assets,
    )  # fmt: skip
    return ["--config", tmp_path / "config.yaml", "--pairs", pairs, "--batch-size", "2"]


def train(root, arguments, out, *more, **variables):
    """Train in a process of its own; returns the weights."""
    command = [sys.executable, "-m", "arrag.cli.main", "train", "adapter", "finetune", *arguments]
    done = subprocess.run(
        [*map(str, command), "--out", str(out), *more], cwd=root, env=os.environ | variables,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted(out.glob("*.safetensors"))
    return {(f.name, k): v for f in files for k, v in load_file(f).items()}


@pytest.mark.slow
def test_two_processes_train_what_one_does(root, arguments, tmp_path):
    alone = train(root, arguments, tmp_path / "alone", "--gpus", "0")
    # Every process leaves its rank behind. The GPUs need not be there: who has which is settled
    # before anything runs on them.
    note = f"import os; 'RANK' in os.environ and open('{tmp_path}/rank' + os.environ['RANK'], 'w')"
    (tmp_path / "sitecustomize.py").write_text(note)
    together = train(
        root, arguments, tmp_path / "together", "--gpus", "2",
        ARRAG_GPUS="1,2", TMPDIR=str(tmp_path), PYTHONPATH=f"{tmp_path}:{root}",
    )  # fmt: skip
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank0", "rank1"}
    assert {path.name for path in tmp_path.glob("arrag-gpus-*/*")} == {"1.lock", "2.lock"}
    assert alone.keys() == together.keys() and alone
    for key, weight in alone.items():
        torch.testing.assert_close(weight, together[key], rtol=1e-4, atol=1e-6)
    assert any((weight != 0).any() for weight in alone.values())
