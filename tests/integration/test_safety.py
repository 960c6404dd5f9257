"""Promises of docs/explanation/security.md that are about the code itself, not about one file."""

import ast
import hashlib
import http.server
import re
import socket
import threading
from functools import partial
from pathlib import Path

import bad_files
import pytest

from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.data.download import fetch_file
from arrag.report import render
from arrag.report.model import Block, Cell, Page
from arrag.utils.errors import ArragError

SHELL = re.compile(r"\bshell:\n((?: +\".*\n)+)")
# Numbers, the words of ``options()``, which quotes them, and names that the configuration's pattern
# or a rule's own constraint keeps free of what a shell reads.
UNQUOTED = {
    "params": "ceiling exclude images images_per_prompt judge key lists metric number options "
    "rules seed settings steps",
    "resources": "batch_size gpu join method shard_size workers",
    "wildcards": "benchmark codebook grid kind metric name number part parts",
}


def calls(path):
    """(name as it is written, {keyword: value}, line) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            yield ast.unparse(node.func), words, f"{path}:{node.lineno}"


def unsafe(name, words, where):
    """Why a call may run code that stands in data, or write where an archive says; or None."""
    last = name.rpartition(".")[2]
    rules = {
        "eval or exec": name in ("eval", "exec", "compile", "__import__"),
        "a pickle": name.startswith(("pickle.", "dill.", "joblib.", "cloudpickle.")),
        "torch.load": name == "torch.load" and words.get("weights_only") != "True",
        "np.load": name == "np.load" and words.get("allow_pickle") != "False",
        "yaml": name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
        "a shell": words.get("shell") == "True" or name in ("os.system", "os.popen"),
        "extractall": last in ("extractall", "unpack_archive") and "data/hub.py" not in where,
        "code of a repository": words.get("trust_remote_code") == "True",
        "TorchScript": name == "torch.jit.load" and "extractors" not in where,
        "any image": last == "open" and name == "Image.open" and "formats" not in words,
    }
    return next((rule for rule, found in rules.items() if found), None)


def test_no_call_runs_code_of_data(root):
    files = list(root.glob("arrag/**/*.py"))
    found = [
        f"{where}: {name}: {rule}"
        for path in files
        for name, words, where in calls(path)
        if "micro/assets" not in where  # reads wheels of pinned SHA-256
        if (rule := unsafe(name, words, where))
    ]
    assert not found, "\n".join(found)


def test_a_call_that_would_is_found():
    bad = ["eval(x)", "pickle.loads(x)", "torch.load(x)", "np.load(x, allow_pickle=True)"]
    bad += ["yaml.load(x)", "run(x, shell=True)", "tar.extractall(x)", "Image.open(x)"]
    for text in bad:
        call = ast.parse(text).body[0].value
        words = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert unsafe(ast.unparse(call.func), words, "x.py"), text
    assert unsafe("torch.load", {"weights_only": "True"}, "x.py") is None


def test_a_shell_reads_nothing_unquoted(root):
    """Prompts go by files; whatever else a rule puts into a shell is quoted, or a plain name."""
    rules = [*root.glob("workflow/rules/*.smk"), root / "Snakefile"]
    shells = [text for path in rules for text in SHELL.findall(path.read_text())]
    assert len(shells) > 30
    fields = [field for text in shells for field in re.findall(r"\{([^}]+)\}", text)]
    plain = {f"{kind}.{name}" for kind, names in UNQUOTED.items() for name in names.split()}
    assert {f for f in fields if not f.endswith(":q")} <= plain | {"log"}


@pytest.mark.parametrize("name", ["a;b", "a b", "$(a)", "../a", "a\nb", "-a", "A", "a'b", ""])
def test_a_name_of_a_configuration_is_a_plain_word(root, tmp_path, name):
    import yaml

    text = (root / "config/micro-ci.yaml").read_text()
    whole = yaml.safe_load(text)
    for block in ("methods", "benchmarks", "generators", "grids"):
        held = dict(whole.get(block) or {})
        held[name] = next(iter(held.values()), {"method": "vanilla"})
        (tmp_path / "x.yaml").write_text(yaml.safe_dump({**whole, block: held}))
        with pytest.raises(ArragError):
            load_config(tmp_path / "x.yaml")


def test_a_label_stays_in_its_cell():
    for harm in [*bad_files.HARMFUL, "a\n\n# b", r"\input{/etc/passwd}", "a & b"]:
        cells = [[Cell(harm, harm), Cell(harm)]]
        page = Page(harm, harm, [Block(harm, ["Row", harm], cells, [harm])], [harm])
        lines = render.markdown(page).split("\n")
        rows = [line for line in lines if line.startswith("| ")]
        assert len(rows) == 3
        assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows), harm
        assert not re.search(r"(?<!\\)<(?!br>|/?sub>)", "\n".join(lines)), harm
        assert len([line for line in lines if line.startswith("#")]) == 2, harm
        tex = render.latex(page)
        assert "\\input" not in tex and not re.search(r"(?<!\\)&(?! )", tex), harm


SECRET = "hf_" + "s3cret" * 5


@pytest.mark.parametrize(
    "url",
    [
        "http://me:{s}@127.0.0.1:{p}/x?token={s}",
        "http://me:{s}@127.0.0.1:{p}/a b?token={s}",
        "http://me:{s}@nowhere.invalid/x?token={s}",
        "http://me:{s}@127.0.0.1:port/x?token={s}",
        "http://me:{s}@[127/x?token={s}",
        "ftp://me:{s}@127.0.0.1/x?token={s}",
        "file:///etc/passwd?token={s}",
    ],
)
def test_no_secret_of_an_address_is_told(tmp_path, monkeypatch, capfd, url):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # a port where nobody answers
        url = url.format(s=SECRET, p=unused.getsockname()[1])
        words = ["assets", "get", url, "--sha256", "0" * 64, "--out", "x"]
        assert main(words) == 2
    told = capfd.readouterr()
    assert SECRET not in told.out + told.err and "arrag: error: " in told.err
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_digest_is_refused_and_not_left(tmp_path, monkeypatch, capsys):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/x").write_bytes(b"other")
    monkeypatch.chdir(tmp_path)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = partial(quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        wanted = hashlib.sha256(b"wanted").hexdigest()
        for pin in (wanted, "", "0", "x" * 64, "A" * 64):
            assert main(["assets", "get", url, "--sha256", pin, "--out", "out/x"]) == 2
            assert "sha" in capsys.readouterr().err.lower() and not list(Path().glob("out/*"))
        with pytest.raises(ArragError):  # no digest
            fetch_file(url, "out/x")
        fetch_file(url, "out/x", sha256=hashlib.sha256(b"other").hexdigest())
        server.shutdown()
