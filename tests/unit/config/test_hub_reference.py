"""References to the hub, and which files of a repository they name."""

import pytest
from hub_server import COMMIT, FILES
from refusals import refused

from arrag.config.hub import FOLDER, local, parse, reference_of, wanted


def test_a_folder_s_name_holds_the_whole_reference():
    for text in (
        "hub:owner/name@main",
        "hub:owner/name.v1_2-x@refs/pr/3",
        "hub:datasets/owner/name@main#images.zip",
        f"hub:owner/name@{COMMIT}#a.pt,unet/*.bin",
    ):
        reference, inside = parse(text)
        assert (f"hub:{reference}", inside) == (text, "")
        assert reference.folder.parent == FOLDER
        assert reference_of(reference.folder) == reference_of(reference.folder / "x") == reference


def test_a_part_of_a_repository_is_a_path_in_its_folder():
    assert local("hub:a/b@main:text_encoder") == "data/hub/a~b@main/text_encoder"
    assert local("checkpoints/micro-janus") == "checkpoints/micro-janus"
    assert reference_of("checkpoints/micro-janus") is None
    assert parse("hub:a/b@main")[0].fixed is False and parse(f"hub:a/b@{COMMIT}")[0].fixed
    for text in ("a/b", "b@main", "a/../b@main", "a/b@", "a/b@m#", "a--b/c@m"):
        with pytest.raises(ValueError):
            parse(f"hub:{text}")


def test_no_pickle_unless_it_is_named():
    assert wanted(FILES) == ["config.json", "model.safetensors"]
    assert "pytorch_model.bin" in wanted(FILES, ["*.bin"])
    for names, also in ((FILES, ["other.bin"]), (["model.bin", ".gitattributes"], [])):
        with refused():
            wanted(names, also)
    names = ["a/model.safetensors", "a/config.json", "b/model.safetensors", "images.zip"]
    assert wanted(names, ["a/*"]) == ["a/config.json", "a/model.safetensors"]
    assert wanted(names, ["images.zip"]) == ["images.zip"]
    assert len(wanted(names)) == 3


def test_a_pipeline_is_fetched_once_not_in_each_of_its_forms():
    kept = [
        "model_index.json",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    copies = [
        "all_in_one.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "vae/onnx/model.json",
        "unet/diffusion_pytorch_model.bin",
    ]
    assert wanted({*kept, *copies}) == kept
