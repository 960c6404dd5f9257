"""Prompt files of every kind of benchmark, and the micro world's own prompts and questions."""

import csv
import json
import random

import pytest
from refusals import refused

from arrag.data.micro.prompts import CAPTIONS, benchmark_prompts, caption_lines, metadata_of
from arrag.data.micro.questions import ITEMS, propositions, question_rows
from arrag.data.micro.world import World, draw_metadata
from arrag.data.prompts import (
    TASKS,
    first_of_each_task,
    load_captions,
    load_geneval_prompts,
    load_question_prompts,
    write_subset,
)
from arrag.data.questions import COLUMNS
from arrag.utils.errors import FormatError

CUP = {"class": "cup", "count": 1}


def prompt(*include, **fields):
    return {"tag": "colors", "include": list(include), "prompt": "a photo of a cup"} | fields


# -- GenEval -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "not a JSON object"),
        ("[]", "metadata"),
        (prompt(CUP, tag="color"), "tag"),
        (prompt(CUP, prompt=" "), "prompt"),
        (prompt(), "include"),
        (prompt({"class": "cup"}), "include.0.count"),
        (prompt(CUP | {"count": 0}), "include.0.count"),
        (prompt(CUP | {"count": True}), "include.0.count"),
        (prompt(CUP | {"color": "grey"}), "include.0.color"),
        (prompt(CUP | {"position": ["above", 0]}), "metadata"),  # of no earlier clause
        (prompt(CUP, CUP | {"position": ["near", 0]}), "include.1.position.0"),
        (prompt(CUP, exclude=["cup"]), "exclude.0"),
    ],
)
def test_a_bad_geneval_prompt_names_its_line_and_field(tmp_path, line, field):
    path = tmp_path / "prompts.jsonl"
    line = line if isinstance(line, str) else json.dumps(line)
    good = prompt(CUP, CUP | {"position": ["above", 0]}, more="fields")
    path.write_text(json.dumps(good) + "\n\n" + line + "\n")
    with refused(FormatError, path=path, field="line 3") as caught:
        load_geneval_prompts(path)
    assert caught.value.message.startswith(field)
    path.write_text(json.dumps(good))
    assert load_geneval_prompts(path) == [good]


def test_an_empty_or_absent_prompt_file(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "absent.jsonl"):
        with refused():
            load_geneval_prompts(tmp_path / name)


def test_the_first_prompts_of_each_task():
    prompts = [{"tag": "a"}, {"tag": "b"}, {"tag": "a"}, {}]
    assert first_of_each_task(prompts, 1) == [0, 1, 3]
    assert first_of_each_task(prompts, None) == [0, 1, 2, 3]
    assert first_of_each_task(prompts, 1, task=len) == [0, 3]


# -- captions ----------------------------------------------------------------------------------


def test_captions_of_either_format_and_bad_ones(tmp_path):
    path = tmp_path / "meta_data.json"
    path.write_text(json.dumps({"ab12": {"category": "animals", "prompt": "a fox"}}))
    assert load_captions(path) == [{"id": "ab12", "category": "animals", "prompt": "a fox"}]
    for text, field in (
        ("", None),
        ("{", None),
        ('{"text": "x"}', "entry 1"),
        ('{"prompt": " "}', "entry 1"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "entry 2"),
    ):
        (tmp_path / "prompts.jsonl").write_text(text)
        with refused(FormatError, path=tmp_path / "prompts.jsonl", field=field):
            load_captions(tmp_path / "prompts.jsonl")


def test_shipped_captions_are_of_scenes_each_once(root, assets):
    lines = load_captions(root / "benchmarks/mjhq_micro.jsonl")
    assert len(lines) == sum(CAPTIONS.values()) == 900 > 768
    assert len({line["prompt"] for line in lines}) == 900  # a prompt twice is an image twice
    world = World(assets, "reference")
    for line in lines[::60]:
        assert world.scene(line["scene"], line["category"]).caption == line["prompt"]
    small = caption_lines(assets, per_task=3)
    assert [line["category"] for line in small] == [task for task in TASKS for _ in range(3)]


# -- question tables ---------------------------------------------------------------------------


def test_prompts_of_a_question_table(root, tmp_path):
    found = load_question_prompts(root / "benchmarks/dpg_micro.csv")
    assert len(found) == 100
    assert found[0].keys() == {"item_id", "prompt"} and found[0]["item_id"] == "micro0000"
    texts = {line["prompt"] for line in found}
    assert len(texts) == 100
    known = {prompt["prompt"] for prompt in benchmark_prompts()}
    assert {metadata_of(text)["tag"] for text in texts & known} == {"counting"}  # only 48 exist
    path = tmp_path / "table.csv"
    for text, field in (
        ("item_id,text\na,one\na,two\n", "data row 2"),
        ("item_id,text\na,\n", "data row 1"),
        ("item_id,text\na\n", "data row 1"),
        ("item_id,text\n", None),
        ("item_id\na\n", None),
    ):
        path.write_text(text)
        with refused(FormatError, path=path, field=field):
            load_question_prompts(path)
    with refused(FormatError, path=tmp_path / "none.csv"):
        load_question_prompts(tmp_path / "none.csv")


def test_micro_questions_have_the_official_columns_and_sound_dependencies(root):
    with open(root / "benchmarks/dpg_micro.csv", newline="") as handle:
        table = csv.DictReader(handle)
        assert tuple(table.fieldnames) == COLUMNS
        rows = list(table)
    assert rows == [{k: str(v) for k, v in row.items()} for row in question_rows()]
    by_item = {}
    for row in rows:
        by_item.setdefault(row["item_id"], []).append(row)
    assert len(by_item) == sum(ITEMS.values()) == 100
    for item in by_item.values():
        assert [int(row["proposition_id"]) for row in item] == list(range(1, len(item) + 1))
        for row in item:
            parents = [int(p) for p in row["dependency"].split(",")]
            free = row["category_broad"] in ("entity", "global")
            assert (parents == [0]) is free
            assert free or all(item[p - 1]["category_broad"] == "entity" for p in parents)
            category = f"{row['category_broad']} - {row['category_detailed']}"
            assert row["tuple"].startswith(f"{category} (")


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
    counted = list(propositions(draw_metadata("counting", rng)))
    assert [p[0] for p in counted] == ["entity - whole", "other - count", "global - objects"]
    assert [p[2] for p in counted] == [[], [1], []]
    colored = list(propositions(draw_metadata("color_attr", rng)))
    assert [p[2] for p in colored] == [[], [], [1], [2], []]


# -- captions of the micro world ---------------------------------------------------------------


def test_a_caption_says_all_that_its_metadata_says():
    rng = random.Random(7)
    for task in TASKS * 300:
        metadata = draw_metadata(task, rng)
        assert metadata_of(metadata["prompt"]) == metadata


def test_a_caption_outside_the_grammar_is_refused():
    for caption in (
        "a dog",
        "a photo of a unicorn",
        "a photo of five dogs",
        "a photo of a dog and a cup and a car",
        "a photo of a red dog left of a cup",
        "a photo of a red dog and a cup",
        "a photo of ",
    ):
        with refused(FormatError):
            metadata_of(caption)


# -- subsets -----------------------------------------------------------------------------------


def test_a_subset_keeps_every_nth_in_the_file_s_own_format(tmp_path):
    lines = tmp_path / "p.jsonl"
    lines.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(25)))
    assert write_subset(lines, tmp_path / "few.jsonl", 10) == 3
    kept = (tmp_path / "few.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in kept] == ["p0", "p10", "p20"]

    meta = tmp_path / "meta_data.json"
    meta.write_text(json.dumps({f"h{i}": {"prompt": f"é{i}"} for i in range(25)}))
    assert write_subset(meta, tmp_path / "few.json", 10) == 3
    assert list(json.loads((tmp_path / "few.json").read_text())) == ["h0", "h10", "h20"]

    table = tmp_path / "dpg.csv"
    rows = [f'{item},"a, ""b""\nc",{q}' for item in range(5) for q in range(3)]
    table.write_text("item_id,text,proposition_id\n" + "\n".join(rows) + "\n")
    assert write_subset(table, tmp_path / "few.csv", 2) == 3
    found = load_question_prompts(tmp_path / "few.csv")
    assert [q["item_id"] for q in found] == ["0", "2", "4"] and found[0]["prompt"] == 'a, "b"\nc'
    for name, text in (("bad.json", "[]"), ("bad.csv", "item_id,text\n")):
        (tmp_path / name).write_text(text)
        with refused(FormatError, path=tmp_path / name):
            write_subset(tmp_path / name, tmp_path / "x", 2)
    assert not (tmp_path / "x").exists()
