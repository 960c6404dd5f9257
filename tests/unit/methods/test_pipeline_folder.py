"""Folders in diffusers' format: every way one is broken, and pickles to safetensors."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_tiny

from arrag.config.generators import Diffusers
from arrag.methods.diffusion import load_diffusion
from arrag.methods.pipeline_folder import INDEX, convert_pipeline
from arrag.utils.errors import ArragError, FormatError, MissingError, OutputError

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_tiny("StableDiffusionPipeline", tmp_path_factory.mktemp("whole") / "sd")


@pytest.fixture
def broken(whole, tmp_path):
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "sd")


def load(folder):
    settings = {"kind": "diffusers", "steps": 2, "guidance_scale": 4.0}
    return load_diffusion(Diffusers(checkpoint=folder, **settings))


def refused(folder, kind=ArragError):
    with pytest.raises(kind) as error:
        load(folder)
    return error.value


def change_index(folder, **entries):
    """Set entries of model_index.json; None removes one."""
    index = json.loads((folder / INDEX).read_text()) | entries
    kept = {name: value for name, value in index.items() if value is not None}
    (folder / INDEX).write_text(json.dumps(kept))


def test_another_pipeline(broken):
    change_index(broken, _class_name="FluxPipeline")
    error = refused(broken, FormatError)
    assert (error.path, error.field) == (broken / INDEX, "_class_name") and error.hint
    (broken / INDEX).unlink()
    assert refused(broken, MissingError).path == broken / INDEX


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_component_that_is_missing(broken, part):
    shutil.rmtree(broken / part)
    error = refused(broken)
    assert error.path in (broken, broken / part, broken / part / "config.json") and error.hint


def test_a_component_that_is_not_listed(broken):
    change_index(broken, unet=None)
    assert refused(broken, FormatError).path == broken


def test_a_tokenizer_without_its_words(broken):
    """transformers would make one that knows none."""
    (broken / "tokenizer" / "tokenizer.json").unlink()
    assert refused(broken, MissingError).path == broken / "tokenizer"


def test_pickled_weights_alone(broken):
    file = broken / UNET
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert refused(broken, FormatError).path == file.with_suffix(".bin")
    file.with_suffix(".bin").unlink()
    assert refused(broken, MissingError).path == broken / "unet"


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_missing_weights_are_not_random(broken, part):
    file = broken / f"{part}.safetensors"
    weights = load_file(file)
    lost = sorted(weights)[len(weights) // 2]
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    error = refused(broken, FormatError)
    assert error.path == file.parent and lost.removeprefix("text_model.") in str(error)


def test_a_truncated_file(broken):
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refused(broken, FormatError).path == broken / "vae"


@pytest.mark.parametrize("entry", [["mine", "UNet"], ["os", "system"], ["diffusers", "nothing"]])
def test_code_in_the_folder_is_not_run(broken, tmp_path, entry):
    (broken / "unet" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change_index(broken, unet=entry)
    error = refused(broken, FormatError)
    assert (error.path, error.field) == (broken / INDEX, "unet")
    assert not (tmp_path / "ran").exists()


class Settings:
    """No tensor: reading it would run code."""


def test_pickled_weights_are_converted(whole, tmp_path):
    pickled = tmp_path / "pickled"
    for file in (p for p in whole.rglob("*") if p.is_file()):
        out = pickled / file.relative_to(whole)
        out.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            name = "pytorch_model" if file.stem == "model" else file.stem
            torch.save(load_file(file), out.with_name(f"{name}.bin"))
        else:
            out.write_bytes(file.read_bytes())
    assert "arrag convert pipeline" in refused(pickled).hint
    done = convert_pipeline(pickled, tmp_path / "converted")
    assert done["converted"] == ["text_encoder", "unet", "vae"]
    assert not list((tmp_path / "converted").rglob("*.bin"))
    images = [load(f).generate(["a dog"], [0], 7) for f in (whole, tmp_path / "converted")]
    assert np.array_equal(*images)
    with pytest.raises(OutputError):
        convert_pipeline(pickled, tmp_path / "converted")
    with pytest.raises(FormatError):  # nothing to convert
        convert_pipeline(tmp_path / "converted", tmp_path / "again")
    evil = pickled / "vae" / "diffusion_pytorch_model.bin"
    torch.save({"a": Settings()}, evil)
    with pytest.raises(ArragError) as error:
        convert_pipeline(pickled, tmp_path / "again")
    assert error.value.path == evil and not (tmp_path / "again").exists()
