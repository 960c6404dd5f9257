"""Real scenes of the micro world, which score as the ceiling of a benchmark."""

import json

import numpy as np
import pytest
from PIL import Image

from arrag.config.root import load_config
from arrag.data.micro.prompts import metadata_of
from arrag.data.micro.world import World
from arrag.data.prompts import load_captions, load_prompt_set
from arrag.methods import ceiling
from arrag.utils.errors import ArragError


def test_the_reference_shows_the_captions_scenes(root, assets, tmp_path):
    lines = load_captions(root / "benchmarks/mjhq_micro_ci.jsonl")
    assert ceiling.write_reference(
        root / "benchmarks/mjhq_micro_ci.jsonl", tmp_path / "reference", assets
    ) == len(lines)
    meta = json.loads((tmp_path / "reference/meta_data.json").read_text())
    assert [(k, v["prompt"]) for k, v in meta.items()] == [(x["id"], x["prompt"]) for x in lines]
    assert len(list((tmp_path / "reference").rglob("*.png"))) == len(lines)
    line = lines[-1]
    path = tmp_path / "reference" / line["category"] / f"{line['id']}.png"
    scene = World(assets, "reference").scene(line["scene"], line["category"])
    assert np.array_equal(np.asarray(Image.open(path)), scene.image)


def test_a_reference_of_other_scenes_is_refused_and_leaves_nothing(assets, tmp_path):
    path = tmp_path / "prompts.jsonl"
    line = {"id": "0", "category": "colors", "prompt": "a photo of a red dog", "scene": 0}
    path.write_text(json.dumps(line))
    with pytest.raises(ArragError, match="scene 0 shows"):
        ceiling.write_reference(path, tmp_path / "reference", assets)
    path.write_text(json.dumps({"prompt": "a photo of a red dog"}))
    with pytest.raises(ArragError, match="1 lines lack id, category or scene"):
        ceiling.write_reference(path, tmp_path / "reference", assets)
    assert not (tmp_path / "reference").exists()


@pytest.mark.parametrize("name", ["dpg", "mjhq"])
def test_real_images_of_every_benchmark(root, assets, tmp_path, name, monkeypatch):
    monkeypatch.chdir(root)
    config = load_config("config/micro-ci.yaml")
    run = ceiling.write_real(config, tmp_path / name, assets, name)
    prompts = load_prompt_set(config.benchmark(name))
    assert run["prompts"] == len(prompts)
    found = json.loads((tmp_path / name / "00003/metadata.jsonl").read_text())
    assert found == prompts[3]
    count = config.benchmark(name).images_per_prompt
    images = sorted((tmp_path / name / "00003/samples").iterdir())
    assert len(images) == count
    shown = World(assets, "reference").scene_for(metadata_of(prompts[3]["prompt"]), 0)
    assert np.array_equal(np.asarray(Image.open(images[0])), shown.image)
