"""Samples that several jobs draw: the same files as from one job, whoever dies in between."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from test_generate import PROMPT, database, settings  # noqa: F401 (fixtures)

from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.methods.runner import image_path, sample_benchmark
from arrag.methods.sample_parts import complete
from arrag.utils.errors import ArragError
from arrag.utils.files import write_json, write_text
from arrag.utils.hashing import sha256_file
from arrag.utils.shards import JobPart

GENERATE = ["generate", "--benchmark", "geneval"]


def files(out):
    return {str(p.relative_to(out)): sha256_file(p) for p in out.rglob("*") if p.is_file()}


def draw(config, out, **options):
    return sample_benchmark(config, "vanilla", out, progress=False, **options)


@pytest.mark.parametrize(("count", "of"), [(0, 1), (5, 1), (5, 2), (7, 3), (2, 4)])
def test_parts_follow_each_other_and_are_alike(count, of):
    parts = [JobPart(i, of).slice(range(count)) for i in range(1, of + 1)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_draw_what_one_job_draws(settings, tmp_path):  # noqa: F811
    config, out = load_config(settings), tmp_path / "parts"
    run = draw(config, tmp_path / "whole", batch_size=3)
    whole = files(tmp_path / "whole")
    assert len(whole) == 4 + 2 + 2  # images, metadata, begun.json and run.json
    draw(config, out, batch_size=3, part=JobPart(1, 2))
    drawn = list(out.rglob("*.png"))
    assert len(drawn) == 3, "a part is not of whole batches, but a batch may change an image"
    assert complete(config, "vanilla", out, None) is None and not (out / "run.json").exists()
    dates = [path.stat().st_mtime_ns for path in drawn]
    for i in (3, 2, 1):  # another number of parts in between
        draw(config, out, batch_size=3, part=JobPart(i, 3))
    assert [path.stat().st_mtime_ns for path in drawn] == dates
    assert not (out / "run.json").exists()
    assert complete(config, "vanilla", out, None).items() >= run.items()
    assert files(out) == whole


def test_what_parts_left_out_is_drawn_by_the_last_job(settings, tmp_path):  # noqa: F811
    config, out = load_config(settings), tmp_path / "out"
    command = [
        "generate",
        "--benchmark",
        "geneval",
        "--config",
        settings,
        "--method",
        "vanilla",
        "--out",
        out,
    ]
    draw(config, out)
    whole = files(out)
    image_path(out, 1, 0).unlink()
    (out / "run.json").unlink()
    assert main([*map(str, command), "--join"]) == 0
    assert files(out) == whole


def test_a_part_removes_nothing(settings, tmp_path):  # noqa: F811
    config, out = load_config(settings), tmp_path / "out"
    draw(config, out, part=JobPart(1, 2), batch_size=1)
    before = files(out)
    document = yaml.safe_load(settings.read_text())
    write_text(tmp_path / "other.yaml", yaml.safe_dump(document | {"seed": 1}))
    other = load_config(tmp_path / "other.yaml")
    with pytest.raises(ArragError, match=r"begun\.json: is of images of other settings.*delete"):
        draw(other, out, part=JobPart(2, 2), batch_size=1)
    assert complete(other, "vanilla", out, None) is None
    assert files(out) == before
    write_json(out / "begun.json", {})
    assert complete(config, "vanilla", out, None) is None


def test_bad_parts_are_refused(settings, tmp_path, capsys):  # noqa: F811
    command = [
        "generate",
        "--benchmark",
        "geneval",
        "--config",
        str(settings),
        "--out",
        str(tmp_path / "out"),
    ]
    for text in ("0/3", "4/3", "3", "a/b", "-1/3"):
        assert main([*command, "--method", "vanilla", f"--part={text}"]) == 2
        assert "--part" in capsys.readouterr().err
    assert main([*command, "--method", "real", "--part", "1/2"]) == 2
    assert "--part" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_begun_together_and_killed(settings, root, tmp_path):  # noqa: F811
    document = yaml.safe_load(settings.read_text())
    prompts = "".join(
        PROMPT % f"a photo of a {color} dog" for color in ("red", "green", "blue", "pink")
    )
    write_text(tmp_path / "prompts.jsonl", prompts)
    document["benchmarks"]["geneval"] |= {
        "prompts": str(tmp_path / "prompts.jsonl"),
        "images_per_prompt": 2,
    }
    document["resources"] = {"batch_size": 1}
    write_text(tmp_path / "config.yaml", yaml.safe_dump(document))
    out, config = tmp_path / "out", load_config(tmp_path / "config.yaml")
    command = [sys.executable, "-m", "arrag", *GENERATE]
    command += ["--config", tmp_path / "config.yaml"]
    command += ["--method", "vanilla", "--out", out, "--part"]
    jobs = [subprocess.Popen([*map(str, command), f"{i}/2"], cwd=root) for i in (1, 2)]
    deadline = time.monotonic() + 240
    while not image_path(out, 2, 0).is_file():  # the second part's first
        assert jobs[1].poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    jobs[1].send_signal(signal.SIGKILL)
    assert jobs[1].wait() == -signal.SIGKILL and jobs[0].wait() == 0
    drawn = list(out.rglob("[0-9]*.png"))
    assert 4 < len(drawn) < 8, "all was drawn before the kill"
    dates = {path: os.stat(path).st_mtime_ns for path in drawn}
    draw(config, out, part=JobPart(2, 2), batch_size=1)
    assert {path: os.stat(path).st_mtime_ns for path in drawn} == dates
    assert complete(config, "vanilla", out, None) and (out / "run.json").is_file()
