"""Diffusion pipelines: diffusers' own images, whatever the batch; every way a folder is broken."""

import json
import shutil
from importlib.util import find_spec

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import PARTS, save_tiny

from arrag.config.pipelines import Diffusers
from arrag.methods.diffusion import generator_of, load_diffusion
from arrag.utils.errors import ArragError

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


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of Stable Diffusion's folder, to break."""
    return shutil.copytree(folders["StableDiffusionPipeline"], tmp_path / "sd")


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
    told = [pipeline.conditioning([prompt], [0]) for prompt in PROMPTS[:2]]
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    images = []
    for one in told:
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
def test_any_text_is_a_prompt_and_what_is_cut_is_told(loaded, name, capfd, caplog):
    pipeline = loaded[name]
    images = pipeline.generate(ODD, [0] * len(ODD), 7)
    assert len({image.tobytes() for image in images}) == len(ODD)
    assert pipeline.truncated_prompts([*PROMPTS, *ODD]) == ODD[-1:]
    told = capfd.readouterr()
    assert "truncated" not in told.out + told.err + caplog.text


def test_a_prompt_is_cut_short_if_no_encoder_reads_it_all(loaded):
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
    with pytest.raises(ArragError, match="negative_prompt: a LDMTextToImagePipeline takes none"):
        load_diffusion(settings(folders["LDMTextToImagePipeline"], negative_prompt="blurred"))


def test_size_and_arithmetic(folders):
    folder = folders["PixArtAlphaPipeline"]
    small = load_diffusion(settings(folder, size=16, dtype="bfloat16"))
    assert small.generate(PROMPTS, [0, 0, 0], 7).shape == (3, 16, 16, 3)
    assert small.denoiser.dtype == torch.bfloat16
    with pytest.raises(ArragError, match="size: found 24; .* multiples of 16"):
        load_diffusion(settings(folder, size=24))


def test_numbers_that_are_not_finite_are_no_black_image(folders):
    pipeline = load_diffusion(settings(folders["StableDiffusionPipeline"]))
    with torch.no_grad():
        next(pipeline.pipeline.vae.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(ArragError, match="not finite with dtype float32"):
        pipeline.generate(PROMPTS[:1], [0], 7)


def test_another_pipeline(broken):
    change(broken, "_class_name", "FluxPipeline")
    with pytest.raises(
        ArragError, match=r"model_index.json: _class_name is 'FluxPipeline', expect"
    ):
        load_diffusion(settings(broken))
    (broken / "model_index.json").unlink()
    with pytest.raises(ArragError, match=r"model_index.json: no such file"):
        load_diffusion(settings(broken))


def test_a_component_that_is_missing(broken):
    shutil.rmtree(broken / "vae")
    with pytest.raises(ArragError, match=r"sd/vae/config.json: missing, .* lists vae"):
        load_diffusion(settings(broken))


def test_a_tokenizer_that_is_missing(broken):
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(ArragError, match=r"sd/tokenizer/tokenizer_config.json: missing"):
        load_diffusion(settings(broken))


def test_a_tokenizer_without_its_words(broken):
    """transformers would make one that knows none."""
    (broken / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ArragError, match=r"sd/tokenizer: holds no vocabulary \(tokenizer.json, vo"):
        load_diffusion(settings(broken))
    if find_spec("sentencepiece") is None:
        (broken / "tokenizer" / "spiece.model").write_bytes(b"words")
        with pytest.raises(ArragError, match=r"spiece.model: is read with sentencepiece, which"):
            load_diffusion(settings(broken))


def test_a_component_that_is_not_listed(broken):
    index = json.loads((broken / "model_index.json").read_text())
    del index["unet"]
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ArragError, match=r"model_index.json: what it lists makes no StableDiff"):
        load_diffusion(settings(broken))


def test_pickled_weights_alone(broken):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ArragError, match=r"unet/diffusion_pytorch_model.bin: .* as a pickle alone"):
        load_diffusion(settings(broken))
    file.with_suffix(".bin").unlink()
    with pytest.raises(ArragError, match="sd/unet"):
        load_diffusion(settings(broken))


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_weights_that_are_missing_are_not_drawn_at_random(broken, part):
    file = broken / f"{part}.safetensors"
    weights = load_file(file)
    lost = sorted(weights)[len(weights) // 2]
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ArragError, match=rf"sd/{part.split('/')[0]}: 1 weights of .* missing"):
        load_diffusion(settings(broken))


def test_a_truncated_file(broken):
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArragError, match="sd/vae: cannot be read as AutoencoderKL"):
        load_diffusion(settings(broken))


def test_code_in_the_folder_is_not_run(broken, tmp_path):
    (broken / "unet" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(broken, "unet", ["mine", "UNet"])
    with pytest.raises(ArragError, match=r"unet is 'UNet' of 'mine'; only classes of"):
        load_diffusion(settings(broken))
    assert not (tmp_path / "ran").exists()


def change(folder, key, value):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, key: value}))
