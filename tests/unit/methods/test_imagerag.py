"""ImageRAG: which reference is retrieved, and which image comes out."""

import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from retrieval_fixtures import retriever  # noqa: F401 (a fixture)
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_imagerag
from transformers import CLIPVisionModelWithProjection

from arrag.config.generators import Diffusers, ImageRag
from arrag.methods.diffusion import generator_of, load_diffusion
from arrag.methods.imagerag import load_imagerag
from arrag.methods.retrieval_gate import RecordedAnswers, open_gate
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import ArragError, MismatchError

PROMPTS = ["a photo of a dog", "a red umbrella", "two cups"]
CALL = {"steps": 3, "guidance_scale": 4.0, "negative_prompt": "grey"}
ALWAYS = {"kind": "always"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny SDXL, an image encoder, and an adapter of either kind."""
    return save_imagerag(tmp_path_factory.mktemp("imagerag"))


def settings(folder, adapter="bare", judge=ALWAYS, **more):
    return ImageRag(
        kind="imagerag", checkpoint=folder / "sdxl", ip_adapter=folder / f"{adapter}.safetensors",
        image_encoder=folder / "encoder", clip="clip", tokenizer="tokenizer", judge=judge,
        **{**CALL, **more},
    )  # fmt: skip


def load(settings, retriever, gate=None):  # noqa: F811
    return load_imagerag(settings, gate or open_gate(settings.judge), *retriever)


@pytest.fixture(scope="module")
def always(folder, retriever):  # noqa: F811
    return load(settings(folder), retriever)


def answers(path, *lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def difference(one, other):
    return float(np.abs(one - other).max())


def nearest(retriever, text):  # noqa: F811
    features = torch.from_numpy(np.array(retriever.index.features)).double()
    return int((features @ retriever.clip.encode_texts([text])[0].double()).argmax())


def test_the_reference_is_the_nearest_image_as_the_tokenizer_shows_it(always, retriever, assets):  # noqa: F811
    from arrag.data.micro.world import World

    chosen = set()
    for prompt in PROMPTS:
        found = always.retrieved_images(prompt, 0)
        wanted = nearest(retriever, prompt)
        assert found.images == [wanted] and found.keys == [f"database/{wanted}"]
        scene = World(assets, "database").scene(wanted).image
        codes = retriever.tokenizer.encode(np.asarray(scene)[None])
        assert np.array_equal(always.reference(found), retriever.tokenizer.decode(codes)[0])
        chosen.add(wanted)
    assert len(chosen) > 1


@pytest.mark.parametrize("adapter", ["bare", "plus"])
def test_the_image_is_that_of_diffusers_own_adapter(folder, retriever, adapter):  # noqa: F811
    """Called as diffusers documents it: a picture, one prompt at a time."""
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "encoder")
    plain = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder / "sdxl", image_encoder=encoder
    )
    plain.load_ip_adapter(
        str(folder), subfolder="", weight_name=f"{adapter}.safetensors", image_encoder_folder=None
    )
    plain.set_ip_adapter_scale(0.5)
    plain.set_progress_bar_config(disable=True)
    want = []
    for i, prompt in enumerate(PROMPTS):
        codes = retriever.index.store.grids(np.array([nearest(retriever, prompt)]))
        picture = retriever.tokenizer.decode(torch.from_numpy(codes.astype(np.int64)))[0]
        stream = generator_of(7, prompt, i)
        want.append(plain(
            prompt=f"According to this image of {prompt}, generate {prompt}",
            negative_prompt="grey", ip_adapter_image=Image.fromarray(picture),
            latents=torch.randn(1, 4, 4, 4, generator=stream), generator=stream, height=32,
            width=32, num_inference_steps=3, guidance_scale=4.0, output_type="np",
        ).images[0])  # fmt: skip
    ours = load(settings(folder, adapter), retriever)
    images = ours.pixels(PROMPTS, [0, 1, 2], 7)
    assert difference(images, np.stack(want)) <= 1e-5
    without = load(settings(folder, adapter, ip_adapter_scale=0.0), retriever)
    assert difference(without.pixels(PROMPTS, [0, 1, 2], 7), images) > 1e-3


def test_an_image_that_lacks_nothing_is_the_one_of_sdxl(folder, retriever, tmp_path):  # noqa: F811
    file = answers(
        tmp_path / "a.jsonl",
        {"prompt": PROMPTS[0], "caption": None},
        {"prompt": PROMPTS[1], "sample": 1, "caption": "an umbrella"},
        {"prompt": PROMPTS[1], "sample": 0, "caption": None},
        {"prompt": PROMPTS[2], "caption": "a cup"},
    )
    judge = {"kind": "recorded", "name": "some model", "answers": file}
    ours = load(settings(folder, judge=judge), retriever)
    row = Diffusers(kind="diffusers", checkpoint=folder / "sdxl", **CALL)
    alone = load_diffusion(row).generate(PROMPTS, [0, 0, 0], 7)
    images = ours.generate(PROMPTS, [0, 0, 0], 7)
    assert np.array_equal(images[:2], alone[:2])
    assert not np.array_equal(images[2], alone[2])
    assert ours.retrieved_images(PROMPTS[1], 0) is None
    found = ours.retrieved_images(PROMPTS[1], 1)
    assert found.query == "an umbrella" and found.images == [nearest(retriever, "an umbrella")]
    assert ours.prompt_with("a dog", "fur") == "According to this image of fur, generate a dog"


def test_an_image_depends_on_seed_prompt_and_sample_alone(folder, retriever, tmp_path):  # noqa: F811
    prompts = [*PROMPTS, "a green car"]
    captions = ["a red umbrella", None, "two cups", None]
    lines = [{"prompt": p, "caption": c} for p, c in zip(prompts, captions, strict=True)]
    gate = RecordedAnswers(answers(tmp_path / "a.jsonl", *lines), "some model")
    ours = load(settings(folder, "plus"), retriever, gate)
    samples = [0, 1, 2, 3]
    assert (
        ours.retrieved_images(prompts[0], 0).images != ours.retrieved_images(prompts[2], 2).images
    )
    together = ours.generate(prompts, samples, 7)
    order = [3, 2, 0, 1]
    assert np.array_equal(ours.generate([prompts[i] for i in order], order, 7), together[order])
    for i in (1, 2):
        assert np.array_equal(ours.generate(prompts[i : i + 1], [i], 7), together[i : i + 1])
        assert not np.array_equal(ours.generate(prompts[i : i + 1], [i], 8), together[i : i + 1])
    assert ours.spec.one_by_one  # on any machine: diffusers shows all references to each of a batch


def test_without_guidance(folder, retriever):  # noqa: F811
    ours = load(settings(folder, guidance_scale=1.0), retriever)
    assert ours.generate(PROMPTS, [0, 0, 0], 7).shape == (3, 32, 32, 3)


def test_what_the_encoder_cuts_is_the_whole_text(always):
    room = 75 - len(
        always.prompt_with("", "").replace(" ", "")
    )  # a letter is a token, a space is none
    fits, cut = "x" * (room // 2), "x" * (room // 2 + 1)
    assert always.truncated_prompts([*PROMPTS, fits, cut, "🌊\n" * 1000]) == [cut, "🌊\n" * 1000]
    assert always.generate(["🌊\n" * 1000], [0], 7).shape == (1, 32, 32, 3)


def test_a_database_of_another_tokenizer(folder, retriever, tiny_janus):  # noqa: F811
    other = retriever._replace(tokenizer=load_tokenizer(tiny_janus))
    with pytest.raises(MismatchError) as error:
        load(settings(folder), other)
    assert error.value.path == retriever.index.store.path


def test_what_is_missing_or_does_not_fit_is_named(folder, retriever, tmp_path):  # noqa: F811
    def refused(**changed):
        with pytest.raises(ArragError) as error:
            load(settings(folder).model_copy(update=changed), retriever)
        return error.value

    assert refused(ip_adapter=folder / "none.safetensors").field == "ip_adapter"
    torch.save({}, tmp_path / "a.bin")
    assert refused(ip_adapter=tmp_path / "a.bin").field == "ip_adapter"
    missing = refused(image_encoder=folder / "none")
    assert missing.path == folder / "none" / "config.json" and missing.hint
    whole, part = folder / "bare.safetensors", tmp_path / "part.safetensors"
    for lost in ("image_proj.proj.bias", "ip_adapter.1.to_k_ip.weight"):
        weights = load_file(whole)
        del weights[lost]
        save_file(weights, part)
        assert refused(ip_adapter=part).path == part
    part.write_bytes(whole.read_bytes()[:-50])
    assert refused(ip_adapter=part).path == part
