"""The command line: help, parsing, errors on one line, what is printed."""

import contextlib
import inspect
import io
import json
import shlex
import subprocess
import sys

import docstring_parser
import pytest
from cyclopts import App

from arrag.cli.common import Result, given, options_of
from arrag.cli.main import COMMANDS, build_app, describe, escape, main
from arrag.config.benchmarks import FwdSettings
from arrag.utils.resource_errors import translate_resource_errors


def leaves(app: App, path=()):
    """(words, application) of every command that runs something."""
    for name in app:
        if name.startswith("-"):
            continue
        inner = app[name]
        names = [n for n in inner if not n.startswith("-")]
        if names:
            yield from leaves(inner, (*path, name))
        else:
            yield (*path, name), inner


@pytest.fixture(scope="module")
def commands():
    return dict(leaves(build_app(*COMMANDS)))


def parse(words):
    with contextlib.redirect_stdout(io.StringIO()):
        return build_app(*words[:1]).parse_args(words, exit_on_error=False, print_error=False)


def run(capsys, *words):
    """(exit status, standard output, standard error) of a command."""
    status = main([str(word) for word in words])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_every_command_has_an_example_that_parses(commands):
    for words, app in commands.items():
        paragraphs = inspect.cleandoc(app.default_command.__doc__ or "").split("\n\n")
        examples = [text for text in paragraphs if text.startswith("Example: arrag ")]
        assert examples, words
        for example in examples:
            found = shlex.split(example.removeprefix("Example: arrag "))
            assert tuple(found[: len(words)]) == words
            parse(found)


def test_every_parameter_is_described(commands):
    for words, app in commands.items():
        described = {p.arg_name for p in docstring_parser.parse(app.default_command.__doc__).params}
        grouped = {
            "inputs",
            "artifacts",
            "judges",
            "computing",
            "settings",
        }  # each describes its own
        named = set(inspect.signature(app.default_command).parameters)
        assert named - grouped <= described, words


def test_the_help_loads_no_slow_library():
    code = (
        "import sys, contextlib, io\n"
        "from arrag.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    assert main(['--help']) == 0\n"
        "assert 'generate' in out.getvalue()\n"
        "print({'torch', 'numpy', 'transformers', 'pandas'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "words, named",
    [
        (["frobnicate"], "frobnicate"),
        (["db", "encod"], "encode"),
        (["db", "encode", "x", "--tokeniser", "t", "--out", "o"], "--tokenizer"),
        (["db", "encode", "x", "--out", "o"], "--tokenizer"),
        (["db", "encode", "x", "--tokenizer", "t", "--out", "o", "--images", "0"], "--images"),
        (["train", "adapter", "foo"], "KIND"),
        (["train", "neighbours", "--part", "4/3"], "--part"),
        (["score", "fwd", "a", "b", "--level", "0"], "--level"),
        (["score", "dpg", "--questions", "q"], "--images"),
        (["score", "geneval", "--images", "a"], "--detector"),
        (["generate", "--method", "daid"], "PROMPT"),
        (["generate", " ", "--method", "daid", "--out", "a.png"], "PROMPT"),
        (["generate", "a", "--method", "daid", "--out", "a.jpg"], "--out"),
        (["generate", "a", "--method", "daid", "--benchmark", "geneval"], "PROMPT"),
        (["assets", "get", "https://example.org/a"], "--out"),
        (["assets", "get", "hub:nothing"], "NAME"),
        (["config", "check", "missing.yaml"], "missing.yaml"),
        (["index", "info", "missing"], "missing"),
        (["train", "neighbours", "-k", "5"], "--out"),
        (["train", "pairs", "--exclude", "x"], "--out"),
        (["generate", "--benchmark", "geneval", "--method", "daid", "--codes", "x"], "--out"),
        (["generate", "a", "--method", "daid", "--out", "a.png", "--join"], "--join"),
        (["score", "distance", "geneval", "a", "b"], "METRIC"),
        (["fid-stats", "a", "--out", "o", "--metric", "fwd", "--extractor", "clip"], "--extractor"),
        (["report", "table", "1", "--timing", "x"], "--timing"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(capsys, words, named):
    status, out, err = run(capsys, *words)
    assert status == 2 and out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("arrag: error: ") and named in line


def test_a_result_is_lines_or_json(capsys, root, monkeypatch):
    monkeypatch.chdir(root)
    status, out, _ = run(capsys, "config", "check", "config/micro-ci.yaml")
    assert status == 0 and "scale: micro" in out.splitlines()
    status, out, _ = run(capsys, "--json", "config", "check", "config/micro-ci.yaml")
    assert status == 0 and json.loads(out)["scale"] == "micro"


def test_text_and_status_of_a_result():
    result = Result(a=1)
    result.text, result.status = "one line", 1
    assert describe({"a": 1, "b": [1, "ü"]}) == 'a: 1\nb: [1, "ü"]'
    assert (result.text, result.status, dict(result)) == ("one line", 1, {"a": 1})


def test_control_characters_do_not_reach_the_terminal(capsys):
    assert escape("a\x1b[31m\u202eb\n\t") == "a\\u001b[31m\\u202eb\n\t"
    _, _, err = run(capsys, "config", "check", "a\x1b[31m.yaml")
    assert "\x1b" not in err and "\\u001b" in err


def test_a_command_replaces_none_of_its_inputs(capsys, tmp_path):
    questions = tmp_path / "q.csv"
    questions.write_text("kept")
    for out in (tmp_path, questions):
        words = ["score", "dpg", "--questions", questions, "--answers", questions, "--out", out]
        status, _, err = run(capsys, *words)
        assert status == 2 and "--out" in err
    assert run(capsys, "db", "scan", questions, "--out", questions)[0] == 2
    assert questions.read_text() == "kept"


def test_options_of_a_settings_model_are_parsed_as_text():
    app = App()

    @app.default
    def command(*, settings: options_of(FwdSettings) = None):
        return given(settings)

    found = app(["--level", "2", "--wavelet", "db2"], result_action="return_value")
    assert found == {"level": 2, "wavelet": "db2"}
    assert app([], result_action="return_value") == {}


def test_a_defect_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError), translate_resource_errors("out"):
        1 / 0  # noqa: B018
