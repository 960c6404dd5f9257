"""aMUSEd: our loop over its networks against diffusers' own pipeline, code for code."""

import numpy as np
import pytest
import torch
from tiny_backbones import CODES, SIDE, N, amused_parts

from arrag.backbones.amused import AmusedBackbone
from arrag.methods.decoding import choice_temperatures, decode_masked, sample_codes, seeded_uniforms
from arrag.utils.errors import UsageError

PROMPTS = ["a photo of a dog", "two red cats and a bus"]


@pytest.fixture(scope="module")
def parts():
    return amused_parts()


@pytest.fixture(scope="module")
def backbone(parts):
    return AmusedBackbone(
        parts["transformer"], parts["text_encoder"], parts["tokenizer"], CODES + 3, patch=2
    )


@pytest.fixture(scope="module")
def pipeline(parts):
    from diffusers import AmusedPipeline

    pipeline = AmusedPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline, steps, temperature, guidance):
    return pipeline(
        PROMPTS, num_inference_steps=steps, guidance_scale=guidance, temperature=temperature,
        output_type="latent", height=2 * SIDE, width=2 * SIDE,
    ).images  # fmt: skip


@pytest.mark.parametrize(("steps", "guidance"), [(5, 3.0), (4, 1.0)])
def test_greedy_equals_the_pipeline_code_for_code(backbone, pipeline, monkeypatch, steps, guidance):
    """The pipeline draws each code; it is greedy when the draw takes the most likely one and no
    noise is added to the confidence."""
    monkeypatch.setattr(torch, "multinomial", lambda p, n, generator: p.argmax(-1, keepdim=True))
    wanted = theirs(pipeline, steps, (0, 0), guidance)
    got = decode_masked(backbone, PROMPTS, None, guidance_scale=guidance, steps=steps)
    assert torch.equal(got, wanted)
    assert len(got.unique()) > 5 and not torch.equal(got[0], got[1])


def test_sampled_equals_the_pipeline_with_the_same_random_numbers(backbone, pipeline, monkeypatch):
    from diffusers.schedulers import scheduling_amused

    steps, drawn = 7, []
    u = np.stack([seeded_uniforms(0, p, 0, steps * 2 * N).reshape(steps, 2, N) for p in PROMPTS])

    def multinomial(probs, count, generator):
        drawn.append(len(drawn))
        numbers = torch.from_numpy(u[:, drawn[-1], 0]).flatten()
        return sample_codes(probs, numbers)[:, None]

    def gumbel(like, generator):
        return -torch.log(-torch.log(torch.from_numpy(u[:, drawn[-1], 1])))

    monkeypatch.setattr(torch, "multinomial", multinomial)
    monkeypatch.setattr(scheduling_amused, "gumbel_noise", gumbel)
    wanted = theirs(pipeline, steps, (2, 0), 4.0)
    settings = {"guidance_scale": 4.0, "steps": steps, "choice_temperature": 2.0}
    got = decode_masked(backbone, PROMPTS, u, annealing="linear", **settings)
    assert len(drawn) == steps and torch.equal(got, wanted)
    other = decode_masked(backbone, PROMPTS, u, annealing="compound", **settings)
    assert not torch.equal(other, wanted)


def test_the_noise_of_both_annealings():
    assert choice_temperatures(2.0, 5, "linear") == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert choice_temperatures(1.0, 4, "compound") == [0.75, 0.375, 0.09375, 0.0]
    assert choice_temperatures(3.0, 1, "linear") == [3.0]


def test_a_model_that_halves_its_grid_has_no_layers_for_adapters():
    from diffusers import UVit2DModel

    with torch.device("meta"):
        model = UVit2DModel(sample_size=32, downsample=True, upsample=True)  # as amused-512
    halved = AmusedBackbone(model, None, None, 8255)
    with pytest.raises(UsageError):
        halved.decoder_layers  # noqa: B018


def test_the_published_size():
    """amused/amused-256, defaults of diffusers' class; 603 M in its paper (arXiv 2401.01808)."""
    from diffusers import UVit2DModel

    with torch.device("meta"):
        model = UVit2DModel(sample_size=16)
    backbone = AmusedBackbone(model, None, None, 8255)
    assert backbone.grid == (16, 16) and backbone.codebook_size == 8192
    assert backbone.num_parameters == 603_537_664
