"""Configuration files: what is valid, what each mistake is called, and what enters a hash."""

import json

import jsonschema
import pytest
import yaml
from micro_config import CONFIGS, TEXT, changed, document, hashes

from arrag.config.root import Config, config_schema, load_config
from arrag.utils.errors import ConfigError, MissingError, UnknownNameError

BENCHMARKS = document()["benchmarks"]


@pytest.fixture
def load(tmp_path):
    """Load a document, or config/micro.yaml with one text replaced by another."""

    def load(found=None, old="", new=""):
        path = tmp_path / "mine.yaml"
        assert old in TEXT
        text = TEXT.replace(old, new, 1) if found is None else yaml.safe_dump(found)
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return load


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_says_how_to_run_it(path):
    config = load_config(path)
    head = path.read_text(encoding="utf-8").split("scale:")[0]
    assert "snakemake --cores all" in head and "Takes:" in head and "Gives:" in head
    assert all(hashes(config).values())


@pytest.mark.parametrize(
    ("old", "new", "field", "hint"),
    [
        ("lam: 0.1", "lamda: 0.1", "methods.daid.augment.lamda", "did you mean lam?"),
        ("scorers:", "scorrers:", "scorrers", "did you mean scorers?"),
        ("lam: 0.1", "lam: 1.2", "methods.daid.augment.lam", "retrieval weight"),
        ("lam: 0.1", "lam: '0.1'", "methods.daid.augment.lam", "retrieval weight"),
        ("tau: 0.2", "", "methods.daid.augment.tau", "add it"),
        ("k: 50", "k: 0", "methods.daid.augment.k", "patches"),
        ("temperature: 1.0", "temperature: 0", "generators.janus.temperature", "> 0"),
        ("key_hop: 1", "context: full", "index.context", "known"),
        ("kind: dpg", "kind: dgp", "benchmarks.dpg.kind", "did you mean dpg?"),
        ("kind: dpg", "", "benchmarks.dpg.kind", "geneval, dpg"),
        ("reference: micro", "refrence: micro", "benchmarks.mjhq.refrence", "mean reference"),
        ("wavelet:", "wavlet:", "benchmarks.mjhq.metrics.fwd.wavlet", "mean wavelet"),
        ("level: 4", "level: 0", "benchmarks.mjhq.metrics.fwd.level", "depth"),
        ("  vanilla:", "  ../up:", "methods.../up", ""),
        ("images: 4000", "images: null", "database", "say how many"),
        ("nlist: null", "nlist: 4", "index", "lower nprobe"),
        # Blocks that do not fit together.
        ("  vanilla:", "  vanilla:\n    generator: shwo", "methods.vanilla.generator", "showo"),
        ("  daid:", "  daid:\n    benchmarks: [dgp]", "methods.daid.benchmarks", "mean dpg"),
        ("  vanilla:", "  vanilla:\n    benchmarks: [dpg]", "methods.finetune.baseline", "change"),
        ("  daid:", "  daid:\n    index: {nprob: 3}", "methods.daid.index.nprob", "mean nprobe"),
        ("  daid:", "  daid:\n    index: {published: x}", "methods.daid.index", "needs the folder"),
        ("  faid:\n    label", "  faid:\n    training: {lora: {r: 0}}\n    label",
         "methods.faid.training.lora.r", "rank"),
        ("baseline: vanilla", "baseline: vanila", "methods.finetune.baseline", "mean vanilla"),
        ("baseline: vanilla", "baseline: finetune", "methods.finetune.baseline", "another"),
        ("  vanilla:", "  real:", "methods.real", "another"),
        ("kind: daid", "kind: finetune", "methods.daid.augment.k", "known"),
        ("    generator: showo\n    benchmarks: [mjhq]\n    augment: #",
         "    generator: showo\n    augment: {kind: racm3, clip: x}\n    grid: #",
         "methods.showo-daid.grid", "known"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_field_and_hint(load, tmp_path, old, new, field, hint):
    with pytest.raises(ConfigError) as caught:
        load(old=old, new=new)
    error = caught.value
    assert error.path == tmp_path / "mine.yaml"
    found = {one.field: one for one in error.mistakes}
    assert hint in (found[field].hint or "")


@pytest.mark.parametrize("text", ["", "- 1", "seed: 0\nseed: 1", "methods: [", "seed: *nobody"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert error.value.path == path


def test_yaml_1_2(load):
    config = load(old="tau: 0.2", new="tau: 5e-2")
    assert config.methods["daid"].augment.tau == 0.05
    assert load(old="label: + DAiD", new="label: no").methods["daid"].label == "no"


def test_aliases_expand_within_limits(load, tmp_path):
    assert load(old="showo-daid:\n    label:", new="showo-daid:\n    label: &a x\n    #")
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 40)
    )
    for text in (bomb, "seed: &a [*a]"):
        (tmp_path / "bomb.yaml").write_text(text)
        with pytest.raises(ConfigError) as error:
            load_config(tmp_path / "bomb.yaml")
        assert error.value.field.startswith("line ")


def test_a_file_based_on_another_changes_it_key_by_key(tmp_path):
    (tmp_path / "base.yaml").write_text(TEXT)
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nseed: 7\nindex: {nprobe: 8}\ngrids: null")
    mine, base = load_config(tmp_path / "mine.yaml"), load_config(tmp_path / "base.yaml")
    assert (mine.seed, mine.index.nprobe, mine.index.mode) == (7, 8, base.index.mode)
    assert mine.methods == base.methods and not mine.grids
    (tmp_path / "base.yaml").write_text("base: mine.yaml")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "mine.yaml")
    assert error.value.field == "base"


def test_a_misspelt_key_is_one_mistake_and_all_mistakes_come_at_once(load):
    with pytest.raises(ConfigError) as error:
        load(old="lam: 0.1", new="lamb: 0.1")
    assert len(error.value.mistakes) == 1
    found = document()
    found["seed"], found["methods"]["daid"]["augment"]["k"] = -1, 0
    with pytest.raises(ConfigError) as error:
        load(found)
    assert [one.field for one in error.value.mistakes] == ["seed", "methods.daid.augment.k"]
    assert all(one.field in str(error.value) for one in error.value.mistakes)


def test_all_methods_that_lack_a_block_are_named(load):
    found = document()
    del found["database"], found["grids"]
    with pytest.raises(ConfigError) as error:
        load(found)
    needy = ("racm3", "daid", "faid", "showo-daid", "showo-faid")
    assert {one.field for one in error.value.mistakes} == {f"methods.{name}" for name in needy}


def test_a_distribution_needs_a_metric():
    with pytest.raises(ValueError, match="metrics"):
        changed(benchmarks={"mjhq": BENCHMARKS["mjhq"] | {"metrics": {}}})


def test_names_that_do_not_exist(tmp_path):
    for lookup in (changed().benchmark, changed().config_hash):
        with pytest.raises(UnknownNameError) as error:
            lookup("dadi")
        assert error.value.hint
    (tmp_path / "mine.yaml").write_text(TEXT)
    with pytest.raises(MissingError) as error:
        load_config(tmp_path / "mien.yaml")
    assert "mine.yaml" in error.value.hint


def test_an_adapter_is_named_or_trained(load):
    found = document()
    found["methods"]["faid"]["augment"]["adapter"] = None
    assert load(found).method("faid").is_trained_here
    del found["training"], found["grids"]
    with pytest.raises(ConfigError) as error:
        load(found)
    assert error.value.field == "methods.faid.augment.adapter"


def test_an_adapter_is_identified_by_what_it_is_trained_with():
    def identity(kind="faid", **parts):
        return changed(**parts).resolved(kind).training_identity()

    assert identity() == identity(resources={"train_batch_size": 2, "save_minutes": 1.0})
    assert identity() != identity(training={"learning_rate": 0.5})
    assert identity() != identity(index={"nprobe": 8})
    assert identity("finetune") == identity("finetune", index={"nprobe": 8})
    assert identity("finetune") == identity("finetune", training={"faid": {"k": 3}})


def with_methods(**methods):
    """The micro configuration with changes in its methods; new ones are like daid."""
    found = document()
    new = {"label": "new", "augment": found["methods"]["daid"]["augment"]}
    for name, value in methods.items():
        found["methods"][name] = found["methods"].get(name, new) | value
    return Config.model_validate(found)


def test_generators_and_the_order_of_decoding():
    config = with_methods(other={"generator": "showo"}, edges={"index": {"border": "zero"}})
    first = ("janus", config.generators["janus"])
    assert config.generator_of("vanilla") == config.generator_of() == first
    assert config.generator_of("other")[0] == "showo"
    index = {name: config.resolved(name).index for name in ("daid", "other", "edges")}
    assert {name: (one.context, one.border) for name, one in index.items()} == {
        "daid": ("causal", "skip"), "other": ("full", "zero"), "edges": ("causal", "zero"),
    }  # fmt: skip


def test_a_method_changes_blocks_for_itself_alone():
    changes = {
        "database": {"images": 7},
        "index": {"key_hop": [1, 2], "nprobe": 3},
        "training": {"epochs": 2.0, "faid": {"hops": [1, 2]}, "lora": None},
    }
    config = with_methods(new=changes)
    new, old = config.resolved("new"), config.resolved("daid")
    assert (new.database.images, new.database.shard_size) == (7, old.database.shard_size)
    assert (new.index.key_hop, new.index.mode) == ((1, 2), "ivf")
    assert new.training.faid == old.training.faid.model_copy(update={"hops": (1, 2)})
    assert new.training.lora is None and new.training.pairs == old.training.pairs
    before = hashes(changed())
    assert {name: hashes(config)[name] for name in before} == before


def test_equal_settings_are_one_identity_however_they_are_written():
    block = changed(index={"nprobe": 8}).samples_identity("daid")
    assert with_methods(daid={"index": {"nprobe": 8}}).samples_identity("daid") == block
    same = {"index": {"border": "skip"}, "generator": "janus", "benchmarks": ["dpg"]}
    config = with_methods(new=same)
    assert config.config_hash("new") == config.config_hash("daid")
    assert "new" in config.methods_in("dpg") and "new" not in config.methods_in()
    assert list(config.row_labels("dpg"))[-3:] == ["new", "real", "reconstructions"]
    assert "real" not in changed(scale="paper").row_labels()


def test_a_block_that_only_one_method_has_is_enough():
    found = document()
    found["methods"] = {name: found["methods"][name] for name in ("vanilla", "daid")}
    del found["grids"]
    found["methods"]["daid"] |= {block: found.pop(block) for block in ("database", "index")}
    config = Config.model_validate(found)
    assert config.config_hash("daid") == changed().config_hash("daid")
    assert config.resolved("vanilla").index is None


ALL, RETRIEVING, NONE = {"vanilla", "daid"}, {"daid"}, set()
EXACT = {"mode": "exact", "nprobe": 4}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"seed": 1}, ALL),
        ({"janus": {"guidance_scale": 4.0}}, ALL),
        ({"benchmarks": {"geneval": BENCHMARKS["geneval"] | {"images_per_prompt": 2}}}, ALL),
        ({"database": {"images": 100}}, RETRIEVING),
        ({"database": {"exclude": ["tests"]}}, RETRIEVING),
        ({"index": {"nprobe": 8}}, RETRIEVING),
        ({"index": {"key_hop": [1, 2]}}, RETRIEVING),
        ({"index": {"masked_distance": True}}, RETRIEVING),
        ({"index": {"mode": "faiss:IVF16,Flat"}}, RETRIEVING),
        ({"index": {"mode": "official", "published": "theirs"}}, RETRIEVING),
        ({"database": {"exclude": []}, "index": {"key_hop": [1], "published": None}}, NONE),
        ({"resources": {"batch_size": 3, "sample_parts": {"geneval": 3}, "threads": 2}}, NONE),
        ({"database": {"shard_size": 7}}, NONE),
        ({"scorers": {"detector": "elsewhere"}}, NONE),
        ({"benchmarks": {"dpg": BENCHMARKS["dpg"] | {"images_per_prompt": 1}}}, NONE),
    ],
)
def test_a_hash_follows_what_shapes_the_samples(parts, expected):
    config = changed(**parts)
    before, after = hashes(changed()), hashes(config)
    assert {name for name in ALL if before[name] != after[name]} == expected
    as_json = json.loads(config.model_dump_json())
    assert Config.model_validate(as_json) == config
    jsonschema.validate(as_json, config_schema())


def test_a_hash_ignores_lists_when_there_are_none():
    assert hashes(changed(index=EXACT)) == hashes(changed(index=EXACT | {"nprobe": 8}))
    lists = {"mode": "faiss:IVF9,Flat", "nlist": 50}
    assert hashes(changed(index=lists)) == hashes(changed(index=lists | {"nlist": 60}))


@pytest.mark.parametrize(
    ("block", "field", "value", "at"),
    [
        ("index", "key_hop", 0, "index.key_hop"),
        ("index", "key_hop", "12", "index.key_hop"),
        ("index", "key_hop", [2, 1], "index.key_hop"),
        ("index", "mode", "flat", "index.mode"),
        ("index", "mode", "official", "index"),
        ("index", "published", "x", "index"),
        ("database", "exclude", "tests", "database.exclude"),
        ("database", "exclude", [""], "database.exclude.0"),
        ("resources", "sample_parts", {"x": 2}, "resources.sample_parts"),
        ("resources", "sample_parts", {"dpg": 0}, "resources.sample_parts.dpg"),
    ],
)
def test_values_of_the_database_and_resources(load, block, field, value, at):
    found = document()
    found[block][field] = value
    with pytest.raises(ConfigError) as error:
        load(found)
    assert at in {one.field for one in error.value.mistakes}


def test_the_schema_file_is_up_to_date(root):
    shipped = json.loads((root / "workflow/schemas/config.schema.json").read_text())
    assert shipped == config_schema(), (
        "run `arrag config schema --out workflow/schemas/config.schema.json`"
    )
    wrong = document()
    wrong["methods"]["daid"]["augment"]["lamda"] = 0.1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, config_schema())
