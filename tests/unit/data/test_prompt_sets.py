"""Prompts of every kind of benchmark, and the micro world's own."""

import csv
import json
import random

import numpy as np
import pytest
from PIL import Image

from arrag.config.root import load_config
from arrag.data.micro.prompts import CAPTIONS, benchmark_prompts, caption_lines, metadata_of
from arrag.data.micro.questions import FIELDS, ITEMS, propositions, question_rows
from arrag.data.micro.world import CLASSES, RELATIONS, TASKS, World, draw_metadata
from arrag.data.prompts import load_captions, load_prompt_set, load_question_prompts
from arrag.methods import ceiling
from arrag.utils.errors import ArragError

# -- captions and their metadata ---------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_caption_says_all_that_its_metadata_says(task):
    rng = random.Random(7)
    for _ in range(300):
        metadata = draw_metadata(task, rng)
        assert metadata_of(metadata["prompt"]) == metadata


@pytest.mark.parametrize(
    "caption",
    [
        "a dog",
        "a photo of a unicorn",
        "a photo of five dogs",
        "a photo of a dog and a cat and a cup",
        "a photo of a red dog left of a cat",
        "a photo of a red dog and a cup",
        "a photo of ",
    ],
)
def test_a_caption_outside_the_grammar_is_refused(caption):
    with pytest.raises(ArragError, match="no caption of the micro world"):
        metadata_of(caption)


# -- the question table ------------------------------------------------------------------------


def test_questions_have_the_official_columns_and_sound_dependencies(root):
    with open(root / "benchmarks/dpg_micro.csv", newline="") as handle:
        table = csv.DictReader(handle)
        assert tuple(table.fieldnames) == FIELDS
        rows = list(table)
    by_item = {}
    for row in rows:
        by_item.setdefault(row["item_id"], []).append(row)
    assert len(by_item) == sum(ITEMS.values()) == 100
    for item in by_item.values():
        numbers = [int(row["proposition_id"]) for row in item]
        assert numbers == list(range(1, len(item) + 1))
        for row in item:
            parents = [int(p) for p in row["dependency"].split(",")]
            free = row["category_broad"] in ("entity", "global")
            assert (parents == [0]) is free
            assert free or all(
                by_item[row["item_id"]][p - 1]["category_broad"] == "entity" for p in parents
            )
            assert row["tuple"].startswith(
                f"{row['category_broad']} - {row['category_detailed']} ("
            )
            assert row["question_natural_language"].endswith("?")
    broad = {row["category_broad"] for row in rows}
    assert broad == {"global", "entity", "attribute", "relation", "other"}


def test_propositions_say_what_the_caption_says_and_no_more():
    rng = random.Random(3)
    relation = draw_metadata("position", rng)
    target, subject = (clause["class"] for clause in relation["include"])
    way = relation["include"][1]["position"][0]
    assert list(propositions(relation)) == [
        ("entity - whole", target, [], f"Is there at least one {target}?"),
        ("entity - whole", subject, [], f"Is there at least one {subject}?"),
        (
            "relation - spatial",
            f"{subject}, {target}, {way}",
            [1, 2],
            f"Is the {subject} {way} the {target}?",
        ),
        ("global - objects", "==2", [], "Are there exactly two objects in the picture?"),
    ]
    counted = draw_metadata("counting", rng)
    label, count = counted["include"][0]["class"], counted["include"][0]["count"]
    assert [p[:3] for p in propositions(counted)] == [
        ("entity - whole", label, []),
        ("other - count", f"{label}, =={count}", [1]),
        ("global - objects", f"=={count}", []),
    ]
    colored = list(propositions(draw_metadata("color_attr", rng)))
    assert [p[2] for p in colored] == [[], [], [1], [2], []]
    assert all(
        row["tuple"].split("(")[1].rstrip(")").split(", ")[0] in CLASSES
        for row in question_rows()
        if row["category_broad"] != "global"
    )
    relations = [r["tuple"] for r in question_rows() if r["category_broad"] == "relation"]
    assert {text.rstrip(")").split(", ")[2] for text in relations} == set(RELATIONS)


def test_prompts_of_a_question_table(root, tmp_path):
    found = load_question_prompts(root / "benchmarks/dpg_micro.csv")
    assert len(found) == 100
    assert found[0].keys() == {"item_id", "prompt"} and found[0]["item_id"] == "micro0000"
    texts = {line["prompt"] for line in found}
    assert len(texts) == 100
    known = {prompt["prompt"] for prompt in benchmark_prompts()}
    assert {metadata_of(text)["tag"] for text in texts & known} == {"counting"}  # only 48 exist
    path = tmp_path / "table.csv"
    path.write_text("item_id,text\na,one\na,two\n")
    with pytest.raises(ArragError, match=r"table\.csv:3: item a has another text"):
        load_question_prompts(path)
    path.write_text("item_id,text\na,\n")
    with pytest.raises(ArragError, match=r"table\.csv:2: item_id or text is missing"):
        load_question_prompts(path)
    path.write_text("item_id,text\n")
    with pytest.raises(ArragError, match="holds no question"):
        load_question_prompts(path)
    with pytest.raises(ArragError, match="cannot be read"):
        load_question_prompts(tmp_path / "none.csv")


# -- captions of a distribution ----------------------------------------------------------------


def test_shipped_captions_are_of_scenes_each_once(root, assets):
    lines = load_captions(root / "benchmarks/mjhq_micro.jsonl")
    assert len(lines) == sum(CAPTIONS.values()) == 900 > 768
    assert len({line["prompt"] for line in lines}) == 900  # a prompt twice is an image twice
    world = World(assets, "reference")
    for line in lines[::60]:
        assert world.scene(line["scene"], line["category"]).caption == line["prompt"]
    small = caption_lines(assets, per_task=3)
    assert [line["category"] for line in small] == [task for task in TASKS for _ in range(3)]


def test_prompts_in_mjhq_s_own_file(tmp_path):
    path = tmp_path / "meta_data.json"
    path.write_text(json.dumps({"ab12": {"category": "animals", "prompt": "a fox"}}))
    assert load_captions(path) == [{"id": "ab12", "category": "animals", "prompt": "a fox"}]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no prompt"),
        ("{", "cannot be read"),
        ('{"text": "x"}', "entry 1 has no text under `prompt`"),
        ('{"prompt": " "}', "entry 1: `prompt` is empty"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "id 1 is given twice"),
    ],
)
def test_bad_captions_are_named(tmp_path, text, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ArragError, match=message):
        load_captions(path)


# -- real scenes -------------------------------------------------------------------------------


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
