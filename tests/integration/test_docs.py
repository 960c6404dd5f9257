"""The code of the documentation's pages runs and does what they say."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError

from arrag.backbones.registry import load_backbone
from arrag.cli.main import main
from arrag.config.benchmarks import Distribution, Metrics
from arrag.config.root import load_config
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.pipeline.plan import Plan
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.files import read_json

# -- docs/add-your-own-backbone.md ---------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone_test(root, tmp_path_factory):
    """The names of the page's test, its backbone being a module that Python finds."""
    page = (root / "docs" / "add-your-own-backbone.md").read_text(encoding="utf-8")
    code, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    folder = tmp_path_factory.mktemp("backbone")
    (folder / "imagegpt.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    names = {}
    exec(compile(test, "add-your-own-backbone.md", "exec"), names)
    yield names
    sys.path.remove(str(folder))


def test_the_backbone_of_the_page_passes_the_tests_of_the_page(backbone_test, tmp_path):
    tests = [name for name in backbone_test if name.startswith("test_")]
    for name in tests:
        (tmp_path / name).mkdir()
        backbone_test[name](tmp_path / name)
    assert len(tests) == 2


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
    known = torch.ones_like(images, dtype=torch.bool)
    inside = Neighborhood("causal").valid_positions(side, side).flatten().nonzero()[:, 0]
    found = index.search(images[:2], known[:2], inside, 1)
    assert (found.distances == 0).all()


# -- docs/add-your-own-metric.md -----------------------------------------------------------------


@pytest.fixture(scope="module")
def metric_page(root):
    return (root / "docs" / "add-your-own-metric.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def metric_module(metric_page, tmp_path_factory):
    """The page's module in a folder that Python finds; its name."""
    code = re.findall(r"```python\n(.*?)```", metric_page, re.DOTALL)[0]
    folder = tmp_path_factory.mktemp("module")
    (folder / "page_metric.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield "page_metric"
    sys.path.remove(str(folder))


def test_the_metric_of_the_page_passes_the_test_of_the_page(metric_page, metric_module, tmp_path):
    importlib.import_module(metric_module)
    names = {}
    test = re.findall(r"```python\n(.*?)```", metric_page, re.DOTALL)[1]
    exec(compile(test, "add-your-own-metric.md", "exec"), names)
    names["test_mean_color_has_a_closed_form"](tmp_path)


def test_the_metric_of_the_page_is_scored_by_name(metric_module, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, level in (("a", 10), ("b", 50)):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (level, i, 0)).save(tmp_path / name / f"{i}.png")
    command = ["score", "distance", "mean_color", "a", "b", "--module", metric_module, "--json"]
    assert main([*command, "--settings", '{"scale": 2}', "--out", "score.json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == pytest.approx(80)
    assert read_json("score.json")["label"] == "MEAN_COLOR-mean-color"
    assert main([*command, "--settings", '{"scael": 2}']) == 2
    assert "--settings.scael" in capsys.readouterr().err


def test_a_configuration_may_name_the_metric_of_the_page(metric_page):
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", metric_page, re.DOTALL)[0])
    benchmark = Distribution.model_validate(block["benchmarks"]["mjhq"])
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
