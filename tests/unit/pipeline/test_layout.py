import re

import pytest
import yaml

from arrag.config.root import Config
from arrag.pipeline.layout import Layout
from arrag.utils.errors import MissingError


@pytest.fixture
def place(tmp_path, root, monkeypatch):
    """A folder with stand-ins of models and prompts; the micro configuration, of Janus alone."""
    for name in ("micro-janus", "micro-detector", "micro-clip"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "model.safetensors").write_text(name)
    (tmp_path / "benchmarks").mkdir()
    for name in ("geneval_micro.jsonl", "dpg_micro.csv", "mjhq_micro.jsonl"):
        (tmp_path / "benchmarks" / name).write_text(f"{name}\n")
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load((root / "config/micro.yaml").read_text(encoding="utf-8"))
    del document["generators"]["showo"]
    for name in [n for n, method in document["methods"].items() if "generator" in method]:
        del document["methods"][name]
    return document


def names(document):
    """Every folder name that the layout gives out."""
    layout = Layout(Config.model_validate(document))
    rows = ("vanilla", "daid", "real", "reconstructions")
    found = {row: layout.run(row) for row in rows}
    found |= {f"{row} dpg": layout.run(row, "dpg") for row in ("daid", "real")}
    scores = {
        f"score {metric}": path
        for name in ("geneval", "dpg", "mjhq")
        for metric, path in layout.scores("daid", name).items()
    }
    return found | scores | {"codes": layout.codes("daid"), "index": layout.index("daid")}


SCORES = {f"score {metric}" for metric in ("geneval", "dpg", "cmmd", "fid", "fwd")}


def changed_names(before, after):
    return {key for key in before if before[key] != after[key]}


def test_names_are_distinct_and_say_what_they_hold(place):
    found = names(place)
    assert len({str(name) for name in found.values()}) == len(found)
    assert all(found[row].startswith(f"{row}-") for row in ("vanilla", "daid", "real"))
    assert found["score fid"].parts[:3] == ("results", "scores", "mjhq")
    assert found["codes"].parts[:2] == ("results", "codes")
    assert found["codes"].parts[2].startswith("micro-janus-")


def test_a_parameter_of_a_method_changes_its_names_only(place):
    before = names(place)
    place["methods"]["daid"]["augment"]["lam"] = 0.3
    assert changed_names(before, names(place)) == {"daid", "daid dpg"} | SCORES


def test_the_index_changes_what_is_searched_only(place):
    before = names(place)
    place["index"]["nprobe"] = 3
    assert changed_names(before, names(place)) == {"daid", "daid dpg", "index"} | SCORES


def test_the_generators_weights_change_all_but_real_images(place, tmp_path):
    before = names(place)
    (tmp_path / "checkpoints/micro-janus/model.safetensors").write_text("trained longer")
    assert changed_names(before, names(place)) == set(before) - {"real", "real dpg"}


def test_the_judges_weights_change_scores_only(place, tmp_path):
    before = names(place)
    (tmp_path / "checkpoints/micro-detector/model.safetensors").write_text("trained longer")
    assert changed_names(before, names(place)) == {"score geneval", "score dpg"}


def test_a_metric_s_setting_changes_its_score_only(place, tmp_path):
    before = names(place)
    place["benchmarks"]["mjhq"]["metrics"]["fwd"]["wavelet"] = "sym5"
    assert changed_names(before, names(place)) == {"score fwd"}
    (tmp_path / "checkpoints/micro-clip/model.safetensors").write_text("trained longer")
    now = names(place)
    assert changed_names(before, now) == {f"score {m}" for m in ("geneval", "dpg", "cmmd", "fwd")}


def test_the_compat_of_questions_changes_their_score_only(place):
    before = names(place)
    place["benchmarks"]["dpg"]["compat"] = "official"
    assert changed_names(before, names(place)) == {"score dpg"}


def test_who_answers_questions_changes_their_score_only(place, tmp_path):
    before = names(place)
    place["scorers"]["vqa"] = "mplug"
    assert changed_names(before, names(place)) == {"score dpg"}
    place["scorers"]["vqa"] = "checkpoints/vqa"
    with pytest.raises(MissingError) as raised:
        names(place)
    assert raised.value.field == "scorers.vqa"
    (tmp_path / "checkpoints/vqa").mkdir()
    (tmp_path / "checkpoints/vqa/model.safetensors").write_text("answers")
    assert changed_names(before, names(place)) == {"score dpg"}


def test_the_prompts_change_their_own_benchmark_s_images(place, tmp_path):
    before = names(place)
    (tmp_path / "benchmarks/geneval_micro.jsonl").write_text("{}\n{}\n")
    images = {"vanilla", "daid", "real", "reconstructions"}
    assert changed_names(before, names(place)) == images | {"score geneval"}
    before = names(place)
    (tmp_path / "benchmarks/dpg_micro.csv").write_text("item_id\n")
    assert changed_names(before, names(place)) == {"daid dpg", "real dpg", "score dpg"}


def test_a_reference_of_the_world_follows_its_prompts_and_a_folder_is_itself(place, tmp_path):
    before = Layout(Config.model_validate(place)).reference("mjhq")
    assert before.parts[:2] == ("results", "reference")
    (tmp_path / "benchmarks/mjhq_micro.jsonl").write_text("other\n")
    assert Layout(Config.model_validate(place)).reference("mjhq") != before
    place["benchmarks"]["mjhq"]["reference"] = "images"
    assert str(Layout(Config.model_validate(place)).reference("mjhq")) == "images"


def folders(document):
    """The retrieval folders of each method of kind DAiD."""
    layout = Layout(Config.model_validate(document))
    augments = {name: method.augment for name, method in layout.config.methods.items()}
    daid = [name for name, augment in augments.items() if augment and augment.kind == "daid"]
    return {name: layout.artifacts_for(name) for name in daid}


def test_methods_of_equal_settings_share_their_folders(place):
    daid = place["methods"]["daid"]
    place["methods"] |= {
        "same": daid | {"generator": "janus", "index": {"border": "skip", "nprobe": 32}},
        "far": daid | {"index": {"key_hop": 2}},
        "small": daid | {"database": {"images": 7}},
        "exact": daid | {"index": {"mode": "exact"}},
    }
    found = folders(place)
    assert found["same"] == found["daid"]
    assert {name for name in found if found[name]["codes"] != found["daid"]["codes"]} == {"small"}
    assert len({parts["index"] for parts in found.values()}) == 4


def test_each_generator_has_a_database_of_its_own(place, tmp_path):
    (tmp_path / "checkpoints/micro-showo").mkdir()
    (tmp_path / "checkpoints/micro-showo/model.safetensors").write_text("showo")
    before, daid = names(place), place["methods"]["daid"]
    showo = {"kind": "showo", "checkpoint": "checkpoints/micro-showo", "guidance_scale": 1.0}
    place["generators"]["showo"] = showo
    place["methods"]["other"] = daid | {"generator": "showo"}
    found = folders(place)
    assert found["other"]["codes"].parts[2].startswith("micro-showo-")
    assert found["other"]["index"].name.startswith("ivf-full-")
    assert changed_names(before, names(place)) == set()
    (tmp_path / "checkpoints/micro-showo/model.safetensors").write_text("trained longer")
    assert folders(place)["other"]["codes"] != found["other"]["codes"]
    assert folders(place)["daid"] == found["daid"]


def test_an_adapter_is_shared_by_all_methods_that_train_it_alike(place, tmp_path):
    (tmp_path / "checkpoints/micro-retriever").mkdir()
    faid = {"label": "f", "augment": {"kind": "faid"}}
    place["methods"] |= {
        "faid": faid,
        "fewer": faid | {"augment": {"kind": "faid", "k": 3}},
        "hops": faid | {"training": {"faid": {"hops": [1, 2]}}},
    }
    layout = Layout(Config.model_validate(place))
    assert layout.artifacts_for("fewer") == layout.artifacts_for("faid")
    made, other = layout.artifacts_for("faid"), layout.artifacts_for("hops")
    assert {part for part in made if made[part] != other[part]} == {"trained_adapter"}
    assert layout.adapter("hops") == other["trained_adapter"]
    trains = ("codes", "image_index", "pairs", "references", "trained_adapter")
    assert set(layout.artifacts_for("racm3")) == set(trains)
    assert set(layout.artifacts_for("finetune")) == {"pairs", "trained_adapter"}


def test_batches_and_shards_change_nothing(place):
    before = names(place)
    place["resources"] |= {"batch_size": 1, "threads": 2}
    place["database"]["shard_size"] = 5
    assert names(place) == before


@pytest.mark.parametrize("part, field", [
    ("checkpoints/micro-janus", "generators.janus.checkpoint"),
    ("checkpoints/micro-clip", "scorers.color"),
    ("benchmarks", "benchmarks.geneval.prompts"),
])  # fmt: skip
def test_what_is_missing_is_named_with_its_field(place, tmp_path, part, field):
    (tmp_path / part).rename(tmp_path / "elsewhere")
    with pytest.raises(MissingError) as raised:
        names(place)
    assert raised.value.field == field and raised.value.hint


def test_a_factory_string_makes_no_folders(place):
    place["index"]["mode"] = "faiss:OPQ4_8,IVF8,PQ4x4"
    assert re.fullmatch(r"faiss-causal-[0-9a-f]{10}", names(place)["index"].name)


def test_other_test_images_are_another_database(place, tmp_path):
    before = names(place)
    (tmp_path / "tests" / "sub").mkdir(parents=True)
    image = tmp_path / "tests" / "sub" / "a.png"
    image.write_bytes(b"1234")
    (tmp_path / "x-0.tar").write_bytes(b"12")
    place["database"]["exclude"] = ["tests", "x-{0..0}.tar"]
    guarded = names(place)
    assert changed_names(before, guarded) == {"codes", "index", "daid", "daid dpg"} | SCORES
    image.write_bytes(b"12345")
    assert changed_names(guarded, names(place)) == {"codes", "index"}
    image.write_bytes(b"4321")  # the names see sizes; the store sees pixels, and refuses
    assert names(place) == guarded
    (tmp_path / "x-0.tar").unlink()
    with pytest.raises(MissingError) as raised:
        names(place)
    assert raised.value.field == "database.exclude"
