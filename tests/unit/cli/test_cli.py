import argparse
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from arrag.cli.main import bound_threads, build_parser, main
from arrag.cli.micro import keep_first
from arrag.data.prompts import first_of_each_task


def commands(parser, name="arrag"):
    """Every command and group below a parser, by its full name."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from commands(inner, f"{name} {word}")


ALL = dict(commands(build_parser()))
LEAVES = {name: parser for name, parser in ALL.items() if parser.get_default("run")}


def test_there_is_a_command_for_every_stage():
    stages = "fetch, encode, index build, index search, index info, index verify, "
    stages += "index merge, index images, generate, sample, "
    stages += "score geneval, report table1, report gallery, micro prompts, micro train lm, "
    stages += "config check, config schema"
    assert {f"arrag {stage}" for stage in stages.split(", ")} <= set(LEAVES)


@pytest.mark.parametrize("name", ALL)
def test_every_help_shows_an_example(name):
    text = ALL[name].format_help()
    assert "\nexample:\n  arrag " in text


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_can_answer_in_json(name):
    assert "--json" in LEAVES[name].format_help()


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from arrag.cli.main import build_parser; build_parser().format_help();"
        "print([m for m in ('torch', 'numpy', 'faiss', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_json_is_one_object_and_nothing_else(root, capsys):
    assert main(["config", "check", str(root / "config/micro.yaml"), "--json"]) == 0
    out = capsys.readouterr().out
    assert set(json.loads(out)["methods"]) >= {"vanilla", "daid", "faid"}


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["faid", "--method", "daid"],
            r"--method: 'daid' is not of kind faid; .*\(known: faid, showo-faid\)",
        ),
        (["faid", "--method", "fiad"], r"unknown method 'fiad'; did you mean faid\?"),
        (["references", "--method", "faid"], r"is not of kind racm3"),
        (["pairs", "--method", "vanilla"], r"not of kind finetune or faid or racm3"),
    ],
)
def test_training_is_for_a_method_of_its_kind(root, argv, message, capsys):
    assert main(["train", *argv, "--config", str(root / "config/micro.yaml")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_what_a_stage_prints_goes_to_stderr(monkeypatch, capsys):
    def noisy(args):
        print("progress")
        return {"a": {"b": 1}, "c": 2}

    monkeypatch.setattr("arrag.cli.data.run_fetch", noisy)
    assert main(["fetch", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": {"b": 1}, "c": 2} and captured.err == "progress\n"
    assert main(["fetch"]) == 0
    assert capsys.readouterr().out == 'a: {"b": 1}\nc: 2\n'


def test_a_mistake_is_one_line_and_status_2(root, tmp_path, capsys):
    text = (root / "config/micro.yaml").read_text(encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text(text.replace("tau:", "tua:", 1), encoding="utf-8")
    assert main(["config", "check", str(bad)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"arrag: error: {bad}: methods.daid.augment.tua: unknown key")


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("arrag.cli.data.run_fetch", interrupted)
    assert main(["fetch"]) == 130
    assert "goes on" in capsys.readouterr().err


def test_threads_of_every_library_follow_one_variable(monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    bound_threads()
    assert os.environ["NUMBA_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "3"


def test_schema_can_be_printed(capsys):
    assert main(["config", "schema", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False


def test_generate_saves_one_image_or_numbers_several(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)  # checkpoints are named from there
    base = ["generate", "--method", "vanilla"]
    dog, cup = "a photo of a dog", "a photo of a cup"
    assert main([*base, dog, "--seed", "7", "--out", str(tmp_path / "x.png")]) == 0
    one = np.asarray(Image.open(tmp_path / "x.png"))
    assert one.shape == (48, 48, 3)

    argv = [*base, cup, dog, "--images", "2", "--seed", "7", "--out", str(tmp_path / "y.png")]
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    names = [f"y-{i:04d}.png" for i in range(4)]
    assert json.loads(capsys.readouterr().out)["images"] == [str(tmp_path / n) for n in names]
    several = [np.asarray(Image.open(tmp_path / name)) for name in names]
    assert np.array_equal(several[2], one)  # the dog's first image, whatever is drawn beside it
    assert len({image.tobytes() for image in several}) == 4


@pytest.mark.parametrize(
    "argv, message",
    [
        (["a dog", "--method", "vanila", "--out", "x.png"], "did you mean vanilla?"),
        (["a dog", "--method", "vanilla", "--out", "x.jpg"], "--out: found x.jpg; wanted"),
        ([" ", "--method", "vanilla", "--out", "x.png"], "PROMPT: found ' '"),
        (["a dragon", "--method", "vanilla", "--out", "x.png"], "does not know 'dragon'"),
    ],
)
def test_generate_names_what_is_wrong(root, argv, message, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["generate", *argv, "--config", str(root / "config/micro.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_samples_are_not_drawn_into_a_folder_of_something_else(root, tmp_path, capsys):
    (tmp_path / "letters.txt").write_text("dear all")
    argv = ["sample", "--method", "vanilla", "--config", str(root / "config/micro.yaml")]
    assert main([*argv, "--out", str(tmp_path)]) == 2
    assert "holds other files than samples" in capsys.readouterr().err
    assert (tmp_path / "letters.txt").exists()


def test_a_method_that_retrieves_says_how_to_make_its_index(root, tmp_path, capsys):
    argv = ["generate", "a dog", "--method", "daid", "--out", str(tmp_path / "x.png")]
    argv += ["--config", str(root / "config/micro.yaml"), "--codes", str(tmp_path / "codes")]
    argv += ["--index", str(tmp_path / "index")]
    assert main(argv) == 2
    assert "manifest.json: method 'daid' needs it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A store of ten random grids, and arguments that name it."""
    from arrag.data.token_store import StoreWriter

    path = tmp_path_factory.mktemp("database") / "codes"
    rng = np.random.default_rng(0)
    with StoreWriter(
        path,
        tokenizer_digest="t",
        grid=(6, 6),
        codebook=rng.normal(size=(32, 4)).astype(np.float32),
        source="random",
        shard_size=4,
    ) as writer:
        keys = [f"image {i}" for i in range(10)]
        writer.add(keys, rng.integers(0, 32, (10, 6, 6)).astype(np.uint16))
    return path


@pytest.mark.parametrize("mode", ["exact", "ivf", "faiss:Flat"])
def test_an_index_is_built_described_and_finds_a_patch_at_distance_0(
    mode, database, tmp_path, capsys
):
    index = str(tmp_path / "index")
    lists = ["--nlist", "2", "--nprobe", "2"] if mode == "ivf" else []
    argv = ["index", "build", "--codes", str(database), "--out", index, "--mode", mode, *lists]
    assert main(argv) == 0
    capsys.readouterr()

    assert main(["index", "info", index, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["mode"] == mode and info["images"] == 10

    argv = ["index", "search", index, "--codes", str(database), "--image", "7", "--row", "2"]
    argv += ["--col", "3", "-k", "4", "--json"]
    assert main(argv) == 0
    nearest = json.loads(capsys.readouterr().out)["nearest"]
    first = nearest[0]
    assert (first["distance"], first["key"], first["row"], first["col"]) == (0, "image 7", 2, 3)
    assert [n["distance"] for n in nearest] == sorted(n["distance"] for n in nearest)


def test_an_index_that_measures_what_is_known(database, tmp_path, capsys):
    argv = ["index", "build", "--codes", str(database), "--out", str(tmp_path / "index")]
    argv += ["--mode", "exact", "--context", "full", "--border", "zero", "--masked-distance"]
    assert main([*argv, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["neighborhood"]
    assert about == {"context": "full", "hop": 1, "border": "zero", "masked_distance": True}


@pytest.mark.parametrize("option, value", [("--image", "10"), ("--row", "6"), ("--col", "-1")])
def test_a_search_outside_the_store_is_refused(option, value, database, tmp_path, capsys):
    index = str(tmp_path / "index")
    main(["index", "build", "--codes", str(database), "--out", index, "--mode", "exact"])
    place = {"--image": "0", "--row": "2", "--col": "3"} | {option: value}
    argv = [word for pair in place.items() for word in pair]
    assert main(["index", "search", index, "--codes", str(database), *argv]) == 2
    assert f"{option}: found {value}; wanted 0 to" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_a_count_is_at_least_one(text, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", "gallery", "--images", text])
    assert caught.value.code == 2
    assert "wanted a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, options",
    [
        ("geneval_micro.jsonl", []),
        ("geneval_micro_ci.jsonl", ["--per-task", "2"]),
        ("dpg_micro.csv", ["--dpg"]),
        ("dpg_micro_ci.csv", ["--dpg", "--per-task", "2"]),
        ("mjhq_micro_ci.jsonl", ["--mjhq", "--per-task", "4"]),
    ],
)
def test_the_shipped_prompts_are_what_the_command_writes(root, assets, tmp_path, name, options):
    out = tmp_path / "prompts"
    argv = ["micro", "prompts", "--out", str(out), "--assets", str(assets), *options]
    assert main(argv) == 0
    assert out.read_bytes() == (root / "benchmarks" / name).read_bytes()


def test_first_prompts_of_each_task(tmp_path):
    tags = ["a", "a", "b", "a", "b", "b"]
    assert first_of_each_task([{"tag": tag} for tag in tags], 2) == [0, 1, 2, 4]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"tag": tag, "i": i}) + "\n" for i, tag in enumerate(tags)))
    keep_first(path, 1)
    assert [json.loads(line)["i"] for line in path.read_text().splitlines()] == [0, 2]
