"""RDM: which images a prompt retrieves, what the denoiser sees of them, and what comes out."""

import json

import diffusers
import numpy as np
import pytest
import torch
from retrieval_fixtures import retriever  # noqa: F401 (a fixture)
from tiny_pipelines import ddim, save_rdm, stir, unet

from arrag.config.generators import Rdm
from arrag.methods.diffusion import generator_of
from arrag.methods.pipeline_folder import INDEX
from arrag.methods.rdm import load_rdm
from arrag.utils.errors import FormatError, MismatchError

PROMPTS = ["a photo of a dog", "two red cups left of a blue umbrella", "a\nplant 🪴"]
STEPS, GUIDANCE, K = 3, 4.0, 4
FEATURES = 64  # of the shipped retriever


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_rdm(tmp_path_factory.mktemp("rdm"), FEATURES)


def settings(folder, **more):
    more = {"steps": STEPS, "guidance_scale": GUIDANCE, "k": K, **more}
    return Rdm(kind="rdm", checkpoint=folder, clip="clip", tokenizer="tokenizer", **more)


@pytest.fixture(scope="module")
def rdm(folder, retriever):  # noqa: F811
    return load_rdm(settings(folder), retriever.index, retriever.clip)


def brute_force(retriever, prompt):  # noqa: F811
    """Neighbours by loops over everything, in float64; the context made of them."""
    text = retriever.clip.encode_texts([prompt])[0]
    features = torch.from_numpy(np.array(retriever.index.features))
    cosines = [float((text.double() * row.double()).sum()) for row in features]
    near = sorted(range(len(features)), key=lambda i: -cosines[i])[:K]
    return near, torch.stack([text, *(features[i] for i in near)])


def test_the_neighbours_are_those_of_brute_force(rdm, retriever):  # noqa: F811
    found = [rdm.retrieved_images(prompt, 0) for prompt in PROMPTS]
    for prompt, one in zip(PROMPTS, found, strict=True):
        near, context = brute_force(retriever, prompt)
        assert one.images == near and one.query == prompt
        assert one.keys == [f"database/{i}" for i in near]
        assert one.cosines == sorted(one.cosines, reverse=True)
        assert torch.allclose(rdm.context(prompt), context, atol=1e-6)
        assert json.loads(json.dumps(one.as_json()))["images"] == near
    assert len({tuple(one.images) for one in found}) > 1  # else nothing is tried


def test_the_image_is_that_of_a_plain_ddim_loop(rdm, folder, retriever):  # noqa: F811
    """DDIM (eta 0) with guidance from zeros, written out."""
    denoiser = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    decoder = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    kept = ddim().alphas_cumprod.double()
    stride = 1000 // STEPS
    want = []
    with torch.no_grad():
        for i, prompt in enumerate(PROMPTS):
            context = brute_force(retriever, prompt)[1][None]
            x = torch.randn(1, 4, 4, 4, generator=generator_of(7, prompt, i))
            for step in reversed(range(STEPS)):
                t = step * stride + 1
                told, blank = (
                    denoiser(x, t, encoder_hidden_states=c).sample.double()
                    for c in (context, torch.zeros_like(context))
                )
                noise = blank + GUIDANCE * (told - blank)
                now, then = kept[t], kept[t - stride] if t >= stride else kept[0]
                clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
                x = (then.sqrt() * clean + (1 - then).sqrt() * noise).float()
            want.append(decoder.decode(x / decoder.config.scaling_factor).sample[0])
    want = (torch.stack(want) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(rdm.pixels(PROMPTS, [0, 1, 2], 7) - want).max() <= 1e-5


def test_an_image_depends_on_seed_prompt_and_sample_alone(rdm, monkeypatch):
    together = rdm.generate(PROMPTS, [0, 1, 2], 7)
    order = [2, 0, 1]
    assert np.array_equal(rdm.generate([PROMPTS[i] for i in order], order, 7), together[order])
    assert np.array_equal(rdm.generate(PROMPTS[1:2], [1], 7), together[1:2])
    assert not np.array_equal(rdm.generate(PROMPTS[1:2], [1], 8), together[1:2])
    apart = rdm.pixels(PROMPTS, [0, 1, 2], 7)
    monkeypatch.setattr(rdm, "batched", True)  # as on an accelerator
    assert np.abs(rdm.pixels(PROMPTS, [0, 1, 2], 7) - apart).max() <= 1e-5


def test_the_neighbours_are_looked_at(folder, rdm, retriever):  # noqa: F811
    images = rdm.pixels(PROMPTS, [0, 0, 0], 7)
    for k in (0, 1):
        few = load_rdm(settings(folder, k=k), retriever.index, retriever.clip)
        assert len(few.retrieved_images(PROMPTS[0], 0).images) == k
        assert few.context(PROMPTS[0]).shape == (1 + k, FEATURES)
        assert np.abs(few.pixels(PROMPTS, [0, 0, 0], 7) - images).max() > 1e-3


def test_a_vq_decoder(tmp_path, retriever):  # noqa: F811
    decoder = diffusers.VQModel(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2,
        num_vq_embeddings=16,
    )  # fmt: skip
    rdm = load_rdm(settings(save_rdm(tmp_path, FEATURES, decoder)), retriever.index, retriever.clip)
    assert isinstance(rdm.pipeline.vae, diffusers.VQModel)
    images = rdm.generate(PROMPTS, [0, 0, 0], 7)
    assert images.shape == (3, 32, 32, 3) and len({i.tobytes() for i in images}) == 3


def test_truncated_prompts(rdm):
    assert rdm.truncated_prompts([*PROMPTS, "dog " * 500]) == ["dog " * 500]
    # With start and end, the 16 of this encoder.
    assert rdm.truncated_prompts(["dog " * 14, "dog " * 15]) == ["dog " * 15]


def test_features_of_another_model(tmp_path, retriever):  # noqa: F811
    save_rdm(tmp_path, FEATURES)
    stir(other := unet(24))
    other.save_pretrained(tmp_path / "unet")
    with pytest.raises(MismatchError) as error:
        load_rdm(settings(tmp_path), retriever.index, retriever.clip)
    assert error.value.path == tmp_path and error.value.hint


def test_a_folder_of_another_pipeline(tmp_path, retriever):  # noqa: F811
    index = json.loads((save_rdm(tmp_path, FEATURES) / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**index, "_class_name": "DDPMPipeline"}))
    with pytest.raises(FormatError) as error:
        load_rdm(settings(tmp_path), retriever.index, retriever.clip)
    assert error.value.field == "_class_name"
