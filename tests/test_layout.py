import pytest
import yaml

from arrag.config import Config
from arrag.errors import ArragError
from arrag.layout import Layout


@pytest.fixture
def place(tmp_path, root, monkeypatch):
    """A folder with stand-in checkpoints and prompts, and the micro configuration as a dict."""
    for name in ("micro-janus", "micro-detector", "micro-clip"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "model.safetensors").write_text(name)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/geneval_micro.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return yaml.safe_load((root / "config/micro.yaml").read_text(encoding="utf-8"))


def names(document):
    """Every folder name that the layout gives out."""
    layout = Layout(Config.model_validate(document))
    rows = ("vanilla", "daid", "real", "reconstructions")
    found = {row: layout.run(row) for row in rows}
    return found | {"codes": layout.codes, "index": layout.index, "score": layout.score("daid")}


def changed_names(before, after):
    return {key for key in before if before[key] != after[key]}


def test_names_are_distinct_and_say_what_they_hold(place):
    found = names(place)
    assert len({str(name) for name in found.values()}) == len(found)
    assert all(found[row].startswith(f"{row}-") for row in ("vanilla", "daid", "real"))
    assert found["codes"].parts[:2] == ("results", "codes")
    assert found["codes"].parts[2].startswith("micro-janus-")


def test_a_parameter_of_a_method_changes_its_names_only(place):
    before = names(place)
    place["methods"]["daid"]["augment"]["lam"] = 0.3
    assert changed_names(before, names(place)) == {"daid", "score"}


def test_the_index_changes_what_is_searched_only(place):
    before = names(place)
    place["index"]["nprobe"] = 3
    assert changed_names(before, names(place)) == {"daid", "index", "score"}


def test_the_generators_weights_change_all_but_real_images(place, tmp_path):
    before = names(place)
    (tmp_path / "checkpoints/micro-janus/model.safetensors").write_text("trained longer")
    assert changed_names(before, names(place)) == set(before) - {"real"}


def test_the_judges_weights_change_scores_only(place, tmp_path):
    before = names(place)
    (tmp_path / "checkpoints/micro-detector/model.safetensors").write_text("trained longer")
    assert changed_names(before, names(place)) == {"score"}


def test_the_prompts_change_all_images(place, tmp_path):
    before = names(place)
    (tmp_path / "benchmarks/geneval_micro.jsonl").write_text("{}\n{}\n")
    assert changed_names(before, names(place)) == set(before) - {"codes", "index"}


def test_batches_and_shards_change_nothing(place):
    before = names(place)
    place["resources"] |= {"batch_size": 1, "threads": 2}
    place["database"]["shard_size"] = 5
    assert names(place) == before


@pytest.mark.parametrize(
    "part, message",
    [
        ("checkpoints/micro-janus", r"backbone\.checkpoint: no folder checkpoints/micro-janus"),
        ("checkpoints/micro-clip", r"judge\.color: no folder checkpoints/micro-clip"),
        ("benchmarks", r"benchmark\.prompts: no file .*arrag micro prompts"),
    ],
)
def test_what_is_missing_is_named_with_its_field(place, tmp_path, part, message):
    (tmp_path / part).rename(tmp_path / "elsewhere")
    with pytest.raises(ArragError, match=message):
        names(place)
