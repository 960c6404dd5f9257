"""Options of the database and its index: from the file to the folders' names and the commands."""

import json
import re
import shlex

import jsonschema
import pytest
import yaml
from test_config import changed, hashes
from test_layout import SCORES, changed_names, names, place  # noqa: F401 (a fixture)

from arrag.cli.main import build_parser
from arrag.config.root import Config, config_schema, load_config
from arrag.utils.errors import ArragError

# What these are called in results made before the newer options existed.
OLD_INDEX = ["border", "context", "key_hop", "mode", "nlist", "nprobe"]


def test_options_that_are_off_leave_no_trace_in_names():
    config = changed()
    resolved = config.resolved("daid")
    assert sorted(resolved.database_identity()) == ["images", "source"]
    assert sorted(resolved.index_identity()) == OLD_INDEX
    assert resolved.index_identity()["key_hop"] == 1
    off = {"exclude": []}, {"masked_distance": False, "published": None, "key_hop": [1]}
    assert hashes(changed(database=off[0], index=off[1])) == hashes(config)


@pytest.mark.parametrize(
    "part",
    [
        {"database": {"exclude": ["tests"]}},
        {"index": {"masked_distance": True}},
        {"index": {"key_hop": 2}},
        {"index": {"key_hop": [1, 2]}},
        {"index": {"mode": "faiss:IVF16,Flat"}},
        {"index": {"mode": "official", "published": "theirs"}},
    ],
)
def test_each_option_changes_what_is_retrieved(part):
    before, after = hashes(changed()), hashes(changed(**part))
    assert before["vanilla"] == after["vanilla"] and before["daid"] != after["daid"]
    document = json.loads(changed(**part).model_dump_json())
    assert Config.model_validate(document) == changed(**part)
    jsonschema.validate(document, config_schema())


def test_workers_and_unused_lists_change_nothing():
    assert hashes(changed(resources={"encode_workers": 3})) == hashes(changed())
    one, two = ({"mode": "faiss:IVF9,Flat", "nlist": n} for n in (50, 60))
    assert hashes(changed(index=one)) == hashes(changed(index=two))
    assert hashes(changed(index=one | {"nprobe": 3})) != hashes(changed(index=one))


@pytest.mark.parametrize(
    ("block", "field", "value", "message"),
    [
        ("index", "key_hop", 0, r"index\.key_hop: found 0; use a whole number of 1 or more"),
        ("index", "key_hop", "12", r"index\.key_hop: found '12'; .*like \[1, 2\]"),
        ("index", "key_hop", [2, 1], r"index\.key_hop: found \[2, 1\]; .*ascending"),
        ("index", "mode", "flat", r"index\.mode: found 'flat'; use exact, .*faiss:FACTORY_STRING"),
        ("index", "mode", "official", r"index: mode official with published None; .*needs the"),
        ("index", "published", "x", r"index: mode ivf with published x; .*the others none"),
        ("database", "exclude", "tests", r"database\.exclude: found 'tests'; .*list"),
        ("database", "exclude", [""], r"database\.exclude\.0: found ''"),
        ("resources", "encode_workers", -1, r"resources\.encode_workers: found -1"),
        ("resources", "sample_parts", {"x": 2}, r"sample_parts: found 'x', no such benchmark"),
        ("resources", "sample_parts", {"dpg": 0}, r"resources\.sample_parts\.dpg: found 0"),
        ("resources", "retrieve_parts", 0, r"resources\.retrieve_parts: found 0"),
    ],
)
def test_a_mistake_is_named(root, tmp_path, block, field, value, message):
    document = yaml.safe_load((root / "config/micro.yaml").read_text())
    document[block][field] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ArragError, match=message):
        load_config(tmp_path / "mine.yaml")


def test_faiss_cannot_mask(root, tmp_path):
    document = yaml.safe_load((root / "config/micro.yaml").read_text())
    document["index"] |= {"mode": "faiss:Flat", "masked_distance": True}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ArragError, match="mode faiss:Flat cannot leave unknown neighbours out"):
        load_config(tmp_path / "mine.yaml")


def test_a_factory_string_makes_no_folders(place):  # noqa: F811
    place["index"]["mode"] = "faiss:OPQ4_8,IVF8,PQ4x4"
    assert re.fullmatch(r"faiss-causal-[0-9a-f]{10}", names(place)["index"].name)


def test_other_test_images_are_another_database(place, tmp_path):  # noqa: F811
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
    with pytest.raises(ArragError, match=r"database\.exclude: no file or folder x-0.tar"):
        names(place)


def commands(project, **blocks):
    """Parsed command lines of the database's rules, as snakemake would run them."""
    document = yaml.safe_load(project.config.read_text())
    document.pop("grids", None)  # they vary what is replaced here
    for name, block in blocks.items():
        document[name] |= block
    project.config.write_text(yaml.safe_dump(document))
    done = project.snakemake("--dry-run", "--printshellcmds", "reports/table1.md")
    assert done.returncode == 0, done.stdout
    found = {}
    for line in re.findall(
        r"^Shell command: (arrag (?:encode|index build) .*)$", done.stdout, re.M
    ):
        words = shlex.split(line.partition(" > ")[0])[1:]
        found[words[0]] = build_parser().parse_args(words)
    return found["encode"], found["index"]


def test_the_rules_pass_everything_on(workflow_project):
    for name in ("my tests", "theirs"):
        (workflow_project.path / name).mkdir()
    for name in ("faiss_ivf_pq_opq.index", "next_codes.npy"):
        (workflow_project.path / "theirs" / name).write_text("")
    encode, index = commands(workflow_project)
    assert (encode.exclude, encode.workers, encode.images) == ([], 0, 4000)
    assert (index.mode, index.key_hop, index.masked_distance) == ("ivf", [1], False)
    encode, index = commands(
        workflow_project,
        database={"exclude": ["my tests", "theirs"], "images": 7},
        index={"masked_distance": True, "key_hop": [1, 2], "border": "zero", "nlist": 40},
        resources={"encode_workers": 2},
    )
    assert (encode.exclude, encode.workers) == (["my tests", "theirs"], 2)
    assert (index.key_hop, index.border, index.nlist) == ([1, 2], "zero", 40)
    assert index.masked_distance
    published = {"mode": "official", "published": "theirs", "masked_distance": False}
    encode, index = commands(workflow_project, index=published)
    assert (index.mode, str(index.published)) == ("official", "theirs")
    encode, index = commands(
        workflow_project, index={"mode": "faiss:IVF16,Flat", "published": None}
    )
    assert (index.mode, index.published) == ("faiss:IVF16,Flat", None)
