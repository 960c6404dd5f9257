"""DAiD draws the same tokens from inverted lists as from an exact search, all but a few."""

import importlib.util

import pytest
import torch

from arrag.backbones.janus import JanusBackbone
from arrag.config.root import load_config
from arrag.data.encode import encode_source
from arrag.data.prompts import load_geneval_prompts
from arrag.data.token_store import TokenStore


@pytest.fixture(scope="module")
def script(root):
    spec = importlib.util.spec_from_file_location("agreement", root / "benchmarks/agreement.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(root, micro_janus, assets, script, tmp_path_factory):
    """The shipped generator, and both indexes over a few scenes."""
    path = tmp_path_factory.mktemp("agreement")
    encode_source("micro:database", micro_janus, path / "codes", limit=60, assets=assets)
    store = TokenStore.open(path / "codes")
    indexes = {n: script.both_indexes(store, path / str(n), nprobe=n) for n in (1, 12, 10**6)}
    config = load_config(root / "config/micro.yaml")
    prompts = [
        prompt["prompt"] for prompt in load_geneval_prompts(root / config.benchmark().prompts)
    ]
    return (
        JanusBackbone.load(micro_janus, config.generators["janus"].dtype),
        indexes,
        prompts[::40][:4],
        config,
    )


def measured(script, place, nprobe, lam, images=4):
    backbone, indexes, prompts, config = place
    options = {"k": 50, "lam": lam, "tau": 0.2}
    return script.agreement(backbone, *indexes[nprobe], prompts[:images], config, **options)


def test_a_tenth_of_the_lists_gives_the_same_token_on_98_percent_of_the_steps(script, place):
    assert place[1][12][1].meta.nlist >= 120
    found = measured(script, place, nprobe=12, lam=0.1)
    assert found["steps"] == 4 * 110  # of 144: the border is not augmented
    assert 0.98 <= found["same_token"] <= 1
    assert 0 < found["mean_total_variation"] < 0.01


def test_the_comparison_tells_lists_apart(script, place):
    """All lists are the exact search, and with one list and a large weight much is lost."""
    whole = measured(script, place, nprobe=10**6, lam=0.1, images=1)
    assert (whole["same_token"], whole["mean_total_variation"]) == (1, 0)
    assert measured(script, place, nprobe=1, lam=1.0, images=1)["same_token"] < 0.95


def test_the_leading_run_is_that_of_its_own_method(script, place):
    from arrag.methods.daid import DAiD
    from arrag.methods.decoding import decode_raster, seeded_uniforms

    backbone, indexes, prompts, config = place
    draws = torch.tensor(seeded_uniforms(0, prompts[0], 0, 144))[None].numpy()
    methods = [DAiD(index, k=50, lam=0.9, tau=0.2) for index in indexes[1]]
    options = {"guidance_scale": 2.0, "temperature": 1.0}
    alone, beside = (
        decode_raster(backbone, prompts[:1], draws, augmentation=augment, **options)
        for augment in (methods[0], script.DrawComparison(*methods, draws))
    )
    assert torch.equal(alone, beside)
