import json
from pathlib import Path

import pytest
import yaml

from arrag.config.root import Config, config_schema, load_config
from arrag.utils.errors import ArragError

CONFIGS = Path(__file__).resolve().parents[3] / "config"
MICRO = CONFIGS / "micro.yaml"
FILES = sorted(CONFIGS.glob("*.yaml"))
TEXT = MICRO.read_text(encoding="utf-8")
BENCHMARKS = yaml.safe_load(TEXT)["benchmarks"]


def config_with(tmp_path, old, new):
    """A copy of config/micro.yaml with one text replaced."""
    assert TEXT.count(old) >= 1, f"config/micro.yaml no longer holds {old!r}"
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def changed(*, janus=None, **parts):
    """The micro configuration with nested values replaced: changed(index={"nprobe": 8})."""
    document = yaml.safe_load(TEXT)
    document["generators"]["janus"] |= janus or {}
    del document["grids"]  # they vary what these tests replace
    for name, value in parts.items():
        if isinstance(value, dict):
            document[name] |= value
        else:
            document[name] = value
    return Config.model_validate(document)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_says_how_to_run_it(path):
    config = load_config(path)
    head = Path(path).read_text(encoding="utf-8").split("scale:")[0]
    assert "snakemake --cores all" in head and "Takes:" in head and "Gives:" in head
    assert {config.config_hash(name) for name in config.methods}


MISTAKES = {
    "misspelt key": ("lam: 0.1", "lamda: 0.1", r"daid\.augment\.lamda: unknown key; did you mean"),
    "misspelt block": ("judge:", "jugde:", r"jugde: unknown key; did you mean 'judge'\?"),
    "lam above 1": (
        "lam: 0.1",
        "lam: 1.2",
        r"daid\.augment\.lam: found 1\.2; .*less than or equal",
    ),
    "lam below 0": ("lam: 0.1", "lam: -0.1", r"augment\.lam: found -0\.1; .*greater than or equal"),
    "lam in quotes": ("lam: 0.1", "lam: '0.1'", r"augment\.lam: found '0\.1'; .*valid number"),
    "tau zero": ("tau: 0.2", "tau: 0", r"augment\.tau: found 0; .*greater than 0"),
    "tau missing": ("tau: 0.2", "", r"augment\.tau: missing; add it"),
    "k zero": ("k: 50", "k: 0", r"augment\.k: found 0; .*greater than or equal to 1"),
    "guidance": (
        "guidance_scale: 2.0",
        "guidance_scale: -1",
        r"generators\.janus\.guidance_scale: found -1",
    ),
    "temperature": ("temperature: 1.0", "temperature: 0", r"janus\.temperature: found 0;"),
    "images": ("images_per_prompt: 4", "images_per_prompt: 0", r"images_per_prompt: found 0;"),
    "context": ("key_hop: 1", "context: full", r"index\.context: unknown key"),
    "old generator": ("generators:", "backbone:", r"generators: missing; .*backbone: unknown key"),
    "generator": ("  vanilla:", "  vanilla:\n    generator: shwo", r"found 'shwo', no such gener"),
    "table": (
        "  daid:",
        "  daid:\n    benchmarks: [dgp]",
        r"daid\.benchmarks: found 'dgp', no such",
    ),
    "no table": (
        "  daid:",
        "  daid:\n    benchmarks: []",
        r"daid\.benchmarks: found \[\]; .*at least",
    ),
    "baseline elsewhere": (
        "  vanilla:",
        "  vanilla:\n    benchmarks: [dpg]",
        r"methods\.finetune\.baseline: 'vanilla' is not in the table of benchmark 'geneval'",
    ),
    "changed key": (
        "  daid:",
        "  daid:\n    index: {key_hop: 0, nprob: 3}",
        r"methods\.daid\.index\.key_hop: found 0; use .* methods\.daid\.index\.nprob: unknown key; "
        r"did you mean 'nprobe'",
    ),
    "changed block": (
        "  daid:",
        "  daid:\n    index: {published: x}",
        r"methods\.daid\.index: mode ivf with published x; .*the others none",
    ),
    "changed database": (
        "  daid:",
        "  daid:\n    database: {images: null}",
        r"methods\.daid\.database: source 'micro' is endless",
    ),
    "changed training": (
        "  faid:\n    label",
        "  faid:\n    training: {lora: {r: 0}}\n    label",
        r"methods\.faid\.training\.lora\.r: found 0; .*rank",
    ),
    "endless": ("images: 4000", "images: null", r"database: source 'micro' is endless; say"),
    "nprobe": ("nlist: null", "nlist: 4", r"index: nprobe 32 exceeds nlist 4"),
    "old block": ("benchmarks:", "benchmark:", r"benchmark: unknown key; .*'benchmarks'"),
    "kind": ("kind: dpg", "kind: dgp", r"benchmarks\.dpg\.kind: unknown kind 'dgp'; .*'dpg'"),
    "no kind": ("kind: dpg", "", r"benchmarks\.dpg\.kind: missing; add it \(one of geneval, dpg"),
    "of another kind": (
        "questions: benchmarks",
        "prompts: benchmarks",
        r"benchmarks\.dpg\.questions: missing; .* benchmarks\.dpg\.prompts: unknown key",
    ),
    "in a benchmark": (
        "reference: micro",
        "refrence: micro",
        r"benchmarks\.mjhq\.refrence: unknown key; did you mean 'reference'",
    ),
    "metric": ("wavelet:", "wavlet:", r"benchmarks\.mjhq\.metrics\.fwd\.wavlet: unknown key; did"),
    "metric's value": ("level: 4", "level: 0", r"mjhq\.metrics\.fwd\.level: found 0; .*depth of"),
    "baseline": ("baseline: vanilla", "baseline: vanila", r"baseline: found 'vanila', no such"),
    "own baseline": ("baseline: vanilla", "baseline: finetune", r"baseline: found its own name"),
    "ceiling name": ("  vanilla:", "  real:", r"methods\.real: the name is taken"),
    "folder name": ("  vanilla:", "  ../up:", r"methods\.\.\./up: found '\.\./up'; "),
    "no index": ("index:", "resources:", r"'resources' is given twice"),
    "empty": (TEXT, "", r"found nothing, wanted"),
    "a list": (TEXT, "- 1", r"found a list, wanted"),
    "no YAML": ("methods:", "methods: [", r"not valid YAML .*correct that place"),
}


@pytest.mark.parametrize("old, new, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_file_field_and_remedy(tmp_path, old, new, message):
    path = config_with(tmp_path, old, new)
    with pytest.raises(ArragError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_one_misspelt_key_is_one_mistake(tmp_path):
    with pytest.raises(ArragError) as caught:
        load_config(config_with(tmp_path, "lam: 0.1", "lamb: 0.1"))
    assert "did you mean 'lam'?" in str(caught.value)
    assert "missing" not in str(caught.value)


def test_all_mistakes_of_a_file_come_at_once(tmp_path):
    path = config_with(tmp_path, "k: 50", "k: 0")
    path.write_text(path.read_text(encoding="utf-8").replace("seed: 0", "seed: -1"))
    with pytest.raises(ArragError, match=r"2 mistakes: \(1\) seed: .*; \(2\) .*k: found 0"):
        load_config(path)


def test_a_method_that_retrieves_needs_a_database(tmp_path):
    document = yaml.safe_load(TEXT)
    del document["database"], document["grids"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    for name in ("daid", "faid", "racm3", "showo-daid", "showo-faid"):
        with pytest.raises(ArragError, match=f"methods.{name} retrieves, but `database` is miss"):
            load_config(path)
        del document["methods"][name]
        path.write_text(yaml.safe_dump(document))
    assert set(load_config(path).methods) == {"vanilla", "finetune", "showo"}


def test_a_distribution_needs_a_metric():
    nothing = BENCHMARKS["mjhq"] | {"metrics": {}}
    with pytest.raises(ValueError, match="metrics: none is chosen; add one of cmmd, fid"):
        changed(benchmarks={"mjhq": nothing})


def test_a_benchmark_shapes_its_own_samples_only():
    before = changed()
    after = changed(benchmarks={"dpg": BENCHMARKS["dpg"] | {"images_per_prompt": 1}})
    assert hashes(before) == hashes(after)  # of the main benchmark
    assert before.config_hash("daid", "mjhq") == after.config_hash("daid", "mjhq")
    assert before.config_hash("daid", "dpg") != after.config_hash("daid", "dpg")
    scored = changed(benchmarks={"dpg": BENCHMARKS["dpg"] | {"compat": "official"}})
    assert scored.config_hash("daid", "dpg") == before.config_hash("daid", "dpg")


def test_ceilings_are_rows_of_the_micro_world_only():
    methods = list(changed().methods_in())
    assert list(changed().row_labels()) == [*methods, "real", "reconstructions"]
    assert list(changed(scale="paper").row_labels("dpg")) == list(changed().methods_in("dpg"))


def test_a_benchmark_that_does_not_exist_gets_a_suggestion():
    with pytest.raises(ArragError, match=r"no such benchmark 'dgp'; did you mean 'dpg'\?"):
        changed().benchmark("dgp")
    assert changed().benchmark_of_kind("distribution") == "mjhq"
    assert changed(benchmarks={"mjhq": BENCHMARKS["geneval"]}).benchmark_of_kind("x") is None


def test_an_adapter_is_named_or_trained(tmp_path):
    document = yaml.safe_load(TEXT)
    document["methods"]["faid"]["augment"]["adapter"] = None
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    assert load_config(path).method("faid").is_trained_here
    del document["training"]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ArragError, match=r"methods\.faid\.augment\.adapter: null, but `training`"):
        load_config(path)


def test_an_adapter_is_named_by_what_it_is_trained_with():
    def identity(kind="faid", **parts):
        return changed(**parts).resolved(kind).training_identity()

    methods = yaml.safe_load(TEXT)["methods"]
    assert identity() == identity(methods=methods | {"daid": methods["vanilla"]})
    assert identity() == identity(resources={"train_batch_size": 2, "save_minutes": 1.0})
    assert identity() != identity(training={"learning_rate": 0.5})
    assert identity() != identity(index={"nprobe": 8})
    assert identity("finetune") == identity("finetune", index={"nprobe": 8})
    assert identity("finetune") == identity("finetune", training={"faid": {"k": 3}})


SHOWO = {"kind": "showo", "checkpoint": "checkpoints/micro-showo", "guidance_scale": 2.0}


def several(**methods):
    """The micro configuration with a Show-o and changes in its methods, new ones of kind DAiD."""
    document = yaml.safe_load(TEXT)
    document["generators"]["showo"] = SHOWO
    new = {"label": "new", "augment": document["methods"]["daid"]["augment"]}
    for name, value in methods.items():
        document["methods"][name] = document["methods"].get(name, new) | value
    return Config.model_validate(document)


def test_the_first_generator_is_meant_when_none_is_named():
    config = several(other={"generator": "showo"})
    assert (
        config.generator_of("vanilla")
        == config.generator_of()
        == ("janus", config.generators["janus"])
    )
    assert config.generator_of("other")[0] == "showo"


def test_the_order_of_decoding_places_the_index():
    config = several(other={"generator": "showo"}, edges={"index": {"border": "zero"}})
    found = {name: config.resolved(name).index for name in ("daid", "other", "edges")}
    placed = {name: (index.context, index.border) for name, index in found.items()}
    assert placed == {
        "daid": ("causal", "skip"),
        "other": ("full", "zero"),
        "edges": ("causal", "zero"),
    }


def test_a_method_changes_blocks_for_itself_alone():
    changes = {
        "database": {"images": 7},
        "index": {"key_hop": [1, 2], "nprobe": 3},
        "training": {"epochs": 2.0, "faid": {"hops": [1, 2]}, "lora": None},
    }
    config = several(new=changes)
    new, old = config.resolved("new"), config.resolved("daid")
    assert (new.database.images, new.database.shard_size) == (7, old.database.shard_size)
    assert (new.index.key_hop, new.index.mode) == ((1, 2), "ivf")
    assert new.training.faid == old.training.faid.model_copy(update={"hops": [1, 2]})
    assert new.training.lora is None and new.training.pairs == old.training.pairs
    before, after = hashes(changed()), hashes(config)
    assert all(before[name] == after[name] for name in changed().methods_in("dpg"))


def test_equal_settings_are_one_identity_however_they_are_written():
    block = changed(index={"nprobe": 8}).samples_identity("daid")
    assert several(daid={"index": {"nprobe": 8}}).samples_identity("daid") == block
    said = several(new={"index": {"border": "skip"}, "generator": "janus", "benchmarks": ["dpg"]})
    assert said.config_hash("new") == said.config_hash("daid")


def test_a_table_lists_its_own_methods():
    config = several(new={"benchmarks": ["dpg", "mjhq"]})
    assert "new" in config.methods_in("dpg") and "new" not in config.methods_in("geneval")
    assert "new" not in config.row_labels()  # of the main benchmark
    assert list(config.row_labels("dpg"))[-3:] == ["new", "real", "reconstructions"]


def test_a_block_that_only_one_method_has_is_enough():
    document = yaml.safe_load(TEXT)
    document["methods"] = {name: document["methods"][name] for name in ("vanilla", "daid")}
    del document["grids"]
    document["methods"]["daid"] |= {part: document.pop(part) for part in ("database", "index")}
    config = Config.model_validate(document)
    assert config.config_hash("daid") == changed().config_hash("daid")
    assert config.resolved("vanilla").index is None


def test_a_missing_file_lists_its_neighbours(tmp_path):
    config_with(tmp_path, "seed: 0", "seed: 1")
    with pytest.raises(ArragError, match=r"mcro\.yaml: no such file; there are .*mine\.yaml"):
        load_config(tmp_path / "mcro.yaml")


def test_an_exponent_without_a_dot_is_a_number(tmp_path):
    config = load_config(config_with(tmp_path, "tau: 0.2", "tau: 5e-2"))
    assert config.methods["daid"].augment.tau == 0.05


def test_a_method_that_does_not_exist_gets_a_suggestion():
    with pytest.raises(ArragError, match=r"no such method 'diad'; did you mean 'daid'\?"):
        changed().config_hash("diad")


def hashes(config):
    return {name: config.config_hash(name) for name in config.methods}


SHARED = [
    {"seed": 1},
    {"janus": {"guidance_scale": 4.0}},
    {"janus": {"temperature": 0.9}},
    {"benchmarks": {"geneval": BENCHMARKS["geneval"] | {"images_per_prompt": 2}}},
]
RETRIEVAL = [{"database": {"images": 100}}, {"index": {"nprobe": 8}}, {"index": {"mode": "exact"}}]
NEITHER = [
    {"resources": {"batch_size": 3, "encode_batch_size": 5, "threads": 2}},
    {"resources": {"sample_parts": {"geneval": 3}, "retrieve_parts": 4}},
    {"database": {"shard_size": 7}},
    {"judge": {"detector": "elsewhere"}},
]


@pytest.mark.parametrize("part", SHARED)
def test_hash_of_every_method_follows_what_shapes_all_samples(part):
    before, after = hashes(changed()), hashes(changed(**part))
    of_janus = changed().methods_in("dpg")
    assert all(before[name] != after[name] for name in (of_janus if "janus" in part else before))


@pytest.mark.parametrize("part", RETRIEVAL)
def test_hash_follows_the_database_only_where_it_is_used(part):
    before, after = hashes(changed()), hashes(changed(**part))
    assert before["vanilla"] == after["vanilla"]
    assert before["daid"] != after["daid"]


@pytest.mark.parametrize("part", NEITHER)
def test_hash_ignores_what_shapes_no_sample(part):
    assert hashes(changed()) == hashes(changed(**part))


def test_hash_ignores_lists_when_there_are_none():
    one, two = ({"mode": "exact", "nprobe": n} for n in (4, 8))
    assert hashes(changed(index=one)) == hashes(changed(index=two))


def test_hash_of_one_method_ignores_the_others(tmp_path):
    changed_lam = load_config(config_with(tmp_path, "lam: 0.1", "lam: 0.2"))
    before, after = hashes(changed()), hashes(changed_lam)
    assert before["vanilla"] == after["vanilla"] and before["daid"] != after["daid"]
    relabelled = load_config(config_with(tmp_path, "label: + DAiD", "label: DAiD"))
    assert hashes(relabelled) == before


def test_the_schema_file_is_up_to_date(root):
    shipped = json.loads((root / "workflow/schemas/config.schema.json").read_text())
    assert shipped == config_schema(), (
        "run `arrag config schema --out workflow/schemas/config.schema.json`"
    )


def test_the_schema_refuses_what_the_models_refuse():
    import jsonschema

    document = yaml.safe_load(TEXT)
    jsonschema.validate(document, config_schema())
    document["methods"]["daid"]["augment"]["lamda"] = 0.1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, config_schema())
