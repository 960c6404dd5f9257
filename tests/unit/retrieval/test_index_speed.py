"""The speed benchmark runs, without a network, and says what it measured."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_benchmark_of_retrieval_runs_on_a_small_store(root, assets, tmp_path):
    command = [sys.executable, str(root / "benchmarks/speed/retrieval.py"), "--json"]
    command += ["--work", str(tmp_path), "--assets", str(assets), "--repeats", "1"]
    command += ["--patches", "50000", "--codes", "512"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["patches"] >= 50000
    figures = result["figures"]
    assert figures["exact, largest difference from Flat's distances"] < 1e-4
    assert 0.9 < figures["ivf recall@50"] <= 1
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["arrag exact"]["recall"] == 1 and rows["arrag exact"]["TV"] == 0
    # The same lists and probes: what is left out of the scan loses nothing.
    assert rows["arrag ivf"]["recall"] == pytest.approx(rows["faiss IVFFlat"]["recall"], abs=0.01)
    assert "arrag ivf" in (tmp_path / "retrieval.md").read_text()
