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
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

from arrag.cli.main import main
from arrag.config.benchmarks import Distribution, Metrics
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.files import read_json

SIDE, COLOURS = 6, 20


@pytest.fixture(scope="module")
def example(root):
    """The names that docs/add-your-own-backbone.md defines."""
    page = (root / "docs" / "add-your-own-backbone.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) < 60
    names = {}
    exec(compile(code, "add-your-own-backbone.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def backbone(example):
    torch.manual_seed(0)
    config = ImageGPTConfig(
        vocab_size=COLOURS + 1, n_positions=SIDE * SIDE, n_embd=32, n_layer=2, n_head=2,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    model = ImageGPTForCausalImageModeling(config).double()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return example["ImageGptBackbone"](model)


def test_greedy_equals_transformers_token_for_token(backbone):
    mine = decode_raster(backbone, [""], None, guidance_scale=1.0).flatten(1)
    start = torch.full((1, 1), COLOURS)
    theirs = backbone.model.generate(
        input_ids=start, max_new_tokens=SIDE * SIDE, do_sample=False, eos_token_id=None
    )
    assert torch.equal(mine, theirs[:, 1:])
    assert len(mine.unique()) > 2


def test_images_are_their_own_and_retrieval_plugs_in(example, backbone, tmp_path):
    colours = torch.rand(COLOURS, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokenizer = example["ColourTokenizer"](colours, SIDE, "by hand")
    draws = np.stack([seeded_uniforms(0, "", i, SIDE * SIDE) for i in range(3)])
    images = decode_raster(backbone, [""] * 3, draws, guidance_scale=1.0)
    assert torch.equal(tokenizer.encode(tokenizer.decode(images)), images)
    alone = decode_raster(backbone, [""], draws[2:], guidance_scale=1.0)
    assert torch.equal(alone[0], images[2])
    with StoreWriter(
        tmp_path / "codes", tokenizer_digest=tokenizer.digest, grid=tokenizer.grid,
        codebook=colours.numpy(), source="drawn", shard_size=9,
    ) as writer:  # fmt: skip
        writer.add(["a", "b"], images[:2].numpy().astype(np.uint16))
    store = TokenStore.open(tmp_path / "codes")
    build_index(store, tmp_path / "index", neighborhood=Neighborhood("causal"), progress=False)
    index = open_index(tmp_path / "index", store, tokenizer.digest)
    for lam, same in ((0.0, True), (1.0, False)):
        daid = DAiD(index, k=2, lam=lam, tau=0.1)
        got = decode_raster(backbone, [""] * 3, draws, guidance_scale=1.0, augmentation=daid)
        assert torch.equal(got[2], images[2]) == same
    known = torch.ones_like(images, dtype=torch.bool)
    inside = Neighborhood("causal").valid_positions(SIDE, SIDE).flatten().nonzero()[:, 0]
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
