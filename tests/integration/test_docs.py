"""The documentation: every command parses, marked ones run, and so does the code of its pages."""

import contextlib
import importlib
import io
import json
import re
import shlex
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError

from arrag.backbones.registry import load_backbone
from arrag.cli.main import build_app, main
from arrag.config.benchmarks import Distribution, Metrics
from arrag.config.root import load_config
from arrag.data.micro.world import World
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.pipeline.plan import Plan
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.files import read_json

BLOCK = re.compile(r"(<!-- runs -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def pages(root):
    """All pages: the README, and the site without its generated parts."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in found if not {"_build", "_generated"} & set(page.parts)]


def blocks(page, language):
    """(whether it is to be run, text) of the code blocks of a page in one language."""
    for runs, found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if found == language:
            yield bool(runs), text


def commands(text):
    """The lines of a shell block that call arrag, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["arrag"]:
            yield words[1:]


# -- all pages


def test_every_command_of_the_documentation_parses(root):
    for page in pages(root):
        for _, text in blocks(page, "bash"):
            for words in commands(text):
                words = [word for word in words if word != "--json"]
                with contextlib.redirect_stdout(io.StringIO()):
                    build_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)


def test_every_command_in_a_sentence_exists(root):
    """`arrag GROUP COMMAND` within a line of text, or in a message of the code."""
    for path in [*pages(root), *(root / "arrag").rglob("*.py")]:
        for words in re.findall(r"`arrag ([a-z][a-z0-9 -]*)", path.read_text(encoding="utf-8")):
            if words == "codes":  # a PNG's text chunk
                continue
            app = build_app(words.split()[0])
            for word in words.split():
                names = {name for name in app if not name.startswith("-")}
                if not names or word.startswith("-"):
                    break
                assert word in names, f"{path}: arrag {words}"
                app = app[word]


def test_every_link_between_pages_leads_somewhere(root):
    for page in pages(root):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.fixture(scope="module")
def project(root, assets, tmp_path_factory):
    """A folder with what the marked commands name: images, and the shipped checkpoints."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("checkpoints", "config", "benchmarks", "data"):
        (folder / name).symlink_to(root / name)
    world = World(assets, "database")
    for name, numbers in {
        "my_images": range(24),
        "more_images": range(24, 32),
        "test_images": range(20, 24),
        "generated": range(40, 52),
        "reference": range(60, 72),
    }.items():
        (folder / name).mkdir()
        for i in numbers:
            Image.fromarray(world.scene(i).image).save(folder / name / f"{i:03}.png")
    return folder


def test_the_marked_commands_run(root, project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    ran = set()
    for page in pages(root):
        for runs, text in blocks(page, "bash"):
            for words in commands(text) if runs else ():
                assert main(words) == 0, f"{page}: {words}: {capsys.readouterr().err}"
                ran.add(page.name)
    assert ran >= {"own-database.md", "score-images.md", "train-adapters.md"}


# -- code of pages


@contextlib.contextmanager
def importable(folder, **modules):
    """Modules of these texts in a folder on Python's path."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def backbone_test(root, tmp_path_factory):
    """The names of the page's test, its backbone being a module that Python finds."""
    (_, code), (_, test) = blocks(root / "docs/how-to/own-backbone.md", "python")
    names = {}
    with importable(tmp_path_factory.mktemp("backbone"), imagegpt=code):
        exec(compile(test, "own-backbone.md", "exec"), names)
        yield names


def test_the_backbone_of_the_page_passes_the_tests_of_the_page(backbone_test, tmp_path):
    for name in [name for name in backbone_test if name.startswith("test_")]:
        (tmp_path / name).mkdir()
        backbone_test[name](tmp_path / name)


def test_retrieval_works_with_the_backbone_of_the_page(backbone_test, tmp_path):
    side = backbone_test["SIDE"]
    (tmp_path / "checkpoint").mkdir()
    backbone_test["write_checkpoint"](tmp_path / "checkpoint")
    backbone = load_backbone("imagegpt", tmp_path / "checkpoint", "float64")
    tokenizer = load_tokenizer(tmp_path / "checkpoint")
    noise = np.stack([seeded_uniforms(0, "", i, side * side) for i in range(3)])
    images = decode_raster(backbone, [""] * 3, noise, guidance_scale=1.0)
    alone = decode_raster(backbone, [""], noise[2:], guidance_scale=1.0)
    assert torch.equal(alone[0], images[2])
    with StoreWriter(
        tmp_path / "codes", tokenizer_digest=tokenizer.digest, grid=tokenizer.grid,
        codebook=tokenizer.codebook.numpy(), source="generated", shard_size=9,
    ) as writer:  # fmt: skip
        writer.add(["a", "b"], images[:2].numpy().astype(np.uint16))
    store = TokenStore.open(tmp_path / "codes")
    build_index(store, tmp_path / "index", neighborhood=Neighborhood("causal"), progress=False)
    index = open_index(tmp_path / "index", store, tokenizer.digest)
    for lam, same in ((0.0, True), (1.0, False)):
        daid = DAiD(index, k=2, lam=lam, tau=0.1)
        got = decode_raster(backbone, [""] * 3, noise, guidance_scale=1.0, augmentation=daid)
        assert torch.equal(got[2], images[2]) == same


METRIC = "docs/how-to/own-metric.md"


@pytest.fixture(scope="module")
def metric_test(root, tmp_path_factory):
    """The text of the page's test; its metric is the module `page_metric`."""
    (_, code), (_, test) = blocks(root / METRIC, "python")
    with importable(tmp_path_factory.mktemp("module"), page_metric=code):
        yield test


def test_the_metric_of_the_page_passes_the_test_of_the_page(metric_test, tmp_path, monkeypatch):
    module = importlib.import_module("page_metric")
    monkeypatch.setitem(sys.modules, "arrag.metrics.mean_color", module)
    names = {}
    exec(compile(metric_test, "own-metric.md", "exec"), names)
    names["test_mean_color_has_a_closed_form"](tmp_path)


def test_the_metric_of_the_page_is_scored_by_name(metric_test, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, level in (("a", 10), ("b", 50)):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (level, i, 0)).save(tmp_path / name / f"{i}.png")
    command = ["score", "distance", "mean_color", "a", "b", "--module", "page_metric", "--json"]
    assert main([*command, "--settings", '{"scale": 2}', "--out", "score.json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == pytest.approx(80)
    assert read_json("score.json")["label"] == "MEAN_COLOR-mean-color"
    assert main([*command, "--settings", '{"scael": 2}']) == 2
    assert "--settings" in capsys.readouterr().err


def test_a_configuration_may_name_the_metric_of_the_page(root):
    ((_, text),) = blocks(root / METRIC, "yaml")
    benchmark = Distribution.model_validate(yaml.safe_load(text)["benchmarks"]["mjhq"])
    assert list(benchmark.metrics.wanted) == ["fid", "mean_color"]
    assert benchmark.metrics.wanted["mean_color"].scale == 2
    with pytest.raises(ValidationError, match="fdi.module"):
        Metrics.model_validate({"fdi": {"extractor": "inception"}})


def test_the_workflow_scores_the_metric_of_the_page(root):
    config = load_config(root / "config" / "micro.yaml")
    name = next(k for k, b in config.benchmarks.items() if b.kind == "distribution")
    drawn = config.benchmarks[name]
    own = {"mean_color": {"module": "page_metric", "scale": 2}}
    metrics = Metrics.model_validate(drawn.metrics.model_dump(exclude_none=True) | own)
    drawn = drawn.model_copy(update={"metrics": metrics})
    config = config.model_copy(update={"benchmarks": config.benchmarks | {name: drawn}})
    plan = Plan(config)
    path = plan.layout.scores(next(iter(config.methods)), name)["mean_color"]
    arguments = plan[str(path)].arguments
    assert arguments["metric"] == "distance mean_color"
    assert "page_metric" in arguments["settings"] and '"scale": 2' in arguments["settings"]
