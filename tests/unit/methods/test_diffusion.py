"""Diffusion pipelines: diffusers' own images, whatever the batch."""

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipelines import PARTS, save_tiny

from arrag.config.generators import Diffusers
from arrag.methods.diffusion import generator_of, load_diffusion
from arrag.utils.errors import ConfigError, FormatError

PROMPTS = ["a photo of a dog", "two red cups left of a very blue umbrella", "a"]
ODD = ["a dog\nand a cat\r\n\ttoo", "a 🐕 next to a 🇫🇷 flag", "كلب أحمر بجانب قطة", "dog " * 500]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The tiny pipelines' folders, by class."""
    path = tmp_path_factory.mktemp("pipelines")
    return {name: save_tiny(name, path / name) for name in PARTS}


@pytest.fixture(scope="module")
def loaded(folders):
    return {name: load_diffusion(settings(folder)) for name, folder in folders.items()}


def settings(folder, **more):
    more = {"steps": 3, "guidance_scale": 4.0, **more}
    return Diffusers(kind="diffusers", checkpoint=folder, **more)


def difference(one, other):
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("name", PARTS)
def test_an_image_depends_on_seed_prompt_and_sample_alone(loaded, name):
    pipeline = loaded[name]
    together = pipeline.generate(PROMPTS, [0, 1, 2], 7)
    assert together.shape == (3, 32, 32, 3) and together.dtype == np.uint8
    order = [2, 0, 1]
    moved = pipeline.generate([PROMPTS[i] for i in order], order, 7)
    assert np.array_equal(moved, together[order])
    alone = pipeline.generate(PROMPTS[1:2], [1], 7)
    assert np.array_equal(alone, together[1:2])
    for other in (
        pipeline.generate(PROMPTS[1:2], [1], 8),
        pipeline.generate(PROMPTS[1:2], [2], 7),
        pipeline.generate(["two red cups left of a very blue umbrellas"], [1], 7),
    ):
        assert not np.array_equal(other, alone)


@pytest.mark.parametrize("name", PARTS)
def test_the_image_is_that_of_diffusers_own_pipeline(folders, loaded, name):
    plain = getattr(diffusers, name).from_pretrained(folders[name])
    plain.set_progress_bar_config(disable=True)
    streams = [generator_of(7, prompt, i) for i, prompt in enumerate(PROMPTS)]
    latents = [torch.randn(1, 4, 4, 4, generator=stream) for stream in streams]
    more = {} if name == "LDMTextToImagePipeline" else {"negative_prompt": None}
    if "PixArt" in name:
        more = {"use_resolution_binning": False}
    want = [
        plain(
            prompt=[prompt], latents=noise, generator=[stream], num_inference_steps=3, height=32,
            width=32, guidance_scale=4.0, output_type="np", **more,
        ).images[0]
        for prompt, noise, stream in zip(PROMPTS, latents, streams, strict=True)
    ]  # fmt: skip
    assert difference(loaded[name].pixels(PROMPTS, [0, 1, 2], 7), np.stack(want)) <= 1e-5


@pytest.mark.parametrize("name", PARTS)
def test_the_prompt_is_looked_at(folders, loaded, name):
    """With the very same noise, so that nothing else can make the difference."""
    pipeline, noise = loaded[name], torch.randn(1, 4, 4, 4)
    arguments = [pipeline.conditioning([prompt], [0]) for prompt in PROMPTS[:2]]
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    images = []
    for one in arguments:
        generator = torch.Generator().manual_seed(0)
        call |= {"latents": noise, "generator": [generator], "guidance_scale": 4.0}
        images.append(pipeline.pipeline(**call, **pipeline.spec.call, **one).images)
    assert difference(*images) > 1e-3


@pytest.mark.parametrize("name", PARTS)
def test_images_computed_at_once_are_the_same_but_for_rounding(loaded, name, monkeypatch):
    pipeline = loaded[name]
    apart = pipeline.pixels(PROMPTS, [0, 1, 2], 7)
    assert not pipeline.batched  # on a CPU
    if not pipeline.spec.one_by_one:  # as on an accelerator
        monkeypatch.setattr(pipeline, "batched", True)
    assert difference(pipeline.pixels(PROMPTS, [0, 1, 2], 7), apart) <= 1e-4


@pytest.mark.parametrize("name", PARTS)
def test_any_text_is_a_prompt_and_truncation_is_reported(loaded, name, capfd, caplog):
    pipeline = loaded[name]
    images = pipeline.generate(ODD, [0] * len(ODD), 7)
    assert len({image.tobytes() for image in images}) == len(ODD)
    assert pipeline.truncated_prompts([*PROMPTS, *ODD]) == ODD[-1:]
    printed = capfd.readouterr()
    assert "truncated" not in printed.out + printed.err + caplog.text


def test_a_prompt_is_truncated_if_no_encoder_reads_it_all(loaded):
    hundred = "x" * 100  # more letters than CLIP reads, fewer than T5 does in SD3
    assert loaded["StableDiffusionPipeline"].truncated_prompts([hundred]) == [hundred]
    assert loaded["StableDiffusion3Pipeline"].truncated_prompts([hundred]) == []
    # With start and end, 77.
    assert loaded["StableDiffusionXLPipeline"].truncated_prompts(["x" * 75, "x" * 76]) == ["x" * 76]


def test_the_negative_prompt(folders, loaded):
    folder = folders["StableDiffusionXLPipeline"]
    own = loaded["StableDiffusionXLPipeline"].pixels(PROMPTS[:1], [0], 7)
    away = load_diffusion(settings(folder, negative_prompt="blurred"))
    assert difference(away.pixels(PROMPTS[:1], [0], 7), own) > 1e-3
    with pytest.raises(ConfigError) as error:
        load_diffusion(settings(folders["LDMTextToImagePipeline"], negative_prompt="blurred"))
    assert error.value.field == "negative_prompt" and error.value.hint


def test_size_and_arithmetic(folders):
    folder = folders["PixArtAlphaPipeline"]
    small = load_diffusion(settings(folder, size=16, dtype="bfloat16"))
    assert small.generate(PROMPTS, [0, 0, 0], 7).shape == (3, 16, 16, 3)
    assert small.denoiser.dtype == torch.bfloat16
    with pytest.raises(ConfigError) as error:
        load_diffusion(settings(folder, size=24))
    assert error.value.field == "size"


def test_numbers_that_are_not_finite_are_no_black_image(folders):
    folder = folders["StableDiffusionPipeline"]
    pipeline = load_diffusion(settings(folder))
    with torch.no_grad():
        next(pipeline.pipeline.vae.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(FormatError) as error:
        pipeline.generate(PROMPTS[:1], [0], 7)
    assert error.value.path == folder and error.value.hint
