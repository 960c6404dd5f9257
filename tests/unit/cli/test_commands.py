"""Whole commands: images from prompts, an index and its search, trainings by kind, prompt files."""

import json
import os

import numpy as np
import prompts
import pytest
from patch_indexes import UNIT, random_store
from PIL import Image

from arrag.cli.main import bound_threads, main
from arrag.data.prompts import first_of_each_task


def run(capsys, *words):
    """(exit status, result or error) of a command."""
    capsys.readouterr()
    status = main([*map(str, words), "--json"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out) if printed.out else printed.err


def test_progress_goes_to_stderr_and_an_interruption_is_status_130(monkeypatch, capsys):
    def noisy(config):
        print("progress")
        return {"a": {"b": 1}}

    monkeypatch.setattr("arrag.config.root.config_schema", lambda: noisy(None))
    assert main(["config", "schema"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ('a: {"b": 1}\n', "progress\n")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("arrag.config.root.config_schema", interrupted)
    assert main(["config", "schema"]) == 130


def test_threads_of_every_library_follow_one_variable(monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    bound_threads()
    assert os.environ["NUMBA_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "3"


def test_generate_saves_one_image_or_numbers_several(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)  # checkpoints are named from there
    base = ["generate", "--method", "vanilla", "--seed", 7]
    dog, cup = "a photo of a dog", "a photo of a cup"
    assert run(capsys, *base, dog, "--out", tmp_path / "x.png")[0] == 0
    one = np.asarray(Image.open(tmp_path / "x.png"))
    _, found = run(capsys, *base, cup, dog, "--num-images", 2, "--out", tmp_path / "y.png")
    names = [str(tmp_path / f"y-{i:04d}.png") for i in range(4)]
    assert found["images"] == names
    several = [np.asarray(Image.open(name)) for name in names]
    assert np.array_equal(several[2], one)  # the dog's first image, whatever is drawn with it
    assert len({image.tobytes() for image in several}) == 4


@pytest.mark.parametrize(
    "words, named",
    [
        (["generate", "a dog", "--method", "vanila", "--out", "{t}/x.png"], "vanilla"),
        (["generate", "a dragon", "--method", "vanilla", "--out", "{t}/x.png"], "dragon"),
        (
            ["generate", "a dog", "--method", "daid", "--out", "{t}/x.png", "--codes", "{t}/no"],
            "no",
        ),
        (["generate", "--benchmark", "geneval", "--method", "vanilla", "--out", "{t}"], "{t}"),
        (["generate", "--benchmark", "x", "--method", "vanilla", "--num-images", "2"], "--num-im"),
        (["train", "adapter", "faid", "--method", "daid"], "faid"),
        (["train", "adapter", "faid", "--method", "fiad"], "faid"),
        (["train", "references", "--method", "faid"], "racm3"),
        (["train", "pairs", "--method", "vanilla"], "finetune"),
    ],
)
def test_what_a_method_cannot_do_is_one_line(root, words, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)
    (tmp_path / "letters.txt").write_text("dear all")
    status, error = run(capsys, *(word.format(t=tmp_path) for word in words))
    (line,) = [line for line in error.splitlines() if line.startswith("arrag: error: ")]
    assert status == 2 and named.format(t=tmp_path) in line
    assert (tmp_path / "letters.txt").exists()


@pytest.mark.parametrize(
    "mode, options",
    [
        ("exact", ["--context", "full", "--border", "zero", "--masked-distance"]),
        ("ivf", ["--nlist", 2, "--nprobe", 2]),
        ("faiss:Flat", []),
    ],
)
def test_an_index_is_built_described_and_searched(mode, options, tmp_path, capsys):
    codes, index = random_store(tmp_path / "codes", UNIT, 10, (6, 6)).path, tmp_path / "index"
    built = ["index", "build", "--codes", codes, "--out", index, "--mode", mode, *options]
    assert run(capsys, *built)[0] == 0
    info = run(capsys, "index", "info", index)[1]
    assert info["mode"] == mode and info["images"] == 10
    assert info["neighborhood"]["masked_distance"] == ("--masked-distance" in options)
    search = ["index", "search", index, "--codes", codes, "--image", 7, "--col", 3, "-k", 4]
    nearest = run(capsys, *search, "--row", 2)[1]["nearest"]
    first = nearest[0]
    assert (first["distance"], first["key"], first["row"], first["col"]) == (0, "7", 2, 3)
    assert [n["distance"] for n in nearest] == sorted(n["distance"] for n in nearest)
    for row in (6, -1):
        status, error = run(capsys, *search, "--row", row)
        assert status == 2 and "row" in error.lower()


@pytest.mark.parametrize(
    "name, write, options",
    [
        ("geneval_micro.jsonl", prompts.geneval, {}),
        ("geneval_micro_ci.jsonl", prompts.geneval, {"per_task": 2}),
        ("dpg_micro.csv", prompts.dpg, {}),
        ("dpg_micro_ci.csv", prompts.dpg, {"per_task": 2}),
        ("mjhq_micro_ci.jsonl", prompts.captions, {"per_task": 4, "assets": None}),
    ],
)
def test_the_shipped_prompts_are_what_the_script_writes(
    root, assets, tmp_path, name, write, options
):
    write(out=tmp_path / name, **options | ({"assets": assets} if "assets" in options else {}))
    assert (tmp_path / name).read_bytes() == (root / "benchmarks" / name).read_bytes()


def test_first_prompts_of_each_task():
    tags = ["a", "a", "b", "a", "b", "b"]
    assert first_of_each_task([{"tag": tag} for tag in tags], 2) == [0, 1, 2, 4]
