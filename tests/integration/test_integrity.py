"""`arrag verify` and `--trace` on a small run of every stage up to Table 1."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import prompts as prompts_script
import pytest
import yaml
from report_data import a_timing

from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.metrics.image_set import read_images
from arrag.pipeline.layout import Layout
from arrag.pipeline.records import read_record, record_of, write_record
from arrag.report.crate import check_crate
from arrag.report.trace import trace_cell
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import MismatchError, UnknownNameError
from arrag.utils.files import read_json, write_json
from arrag.utils.hashing import images_digest, sha256_file

ROWS = ("vanilla", "daid", "faid", "real", "reconstructions")


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, assets):
    """A finished run of three methods, six prompts and 40 stored images, made by the commands."""
    path = tmp_path_factory.mktemp("integrity") / "project"
    path.mkdir()
    (path / "checkpoints").symlink_to(root / "checkpoints")
    (path / "benchmarks").symlink_to(root / "benchmarks")
    shutil.copytree(assets, path / "data/micro", ignore=shutil.ignore_patterns("*.lock"))
    for name in ("workflow", "profiles", "requirements"):
        shutil.copytree(root / name, path / name)
    for name in ("Snakefile", "README.md", "LICENSE"):
        shutil.copy(root / name, path)
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
    geneval = document["benchmarks"]["geneval"]
    prompts = (root / geneval["prompts"]).read_text().splitlines(keepends=True)
    (path / "prompts.jsonl").write_text("".join(prompts[::2]))  # one a task
    geneval |= {"prompts": "prompts.jsonl", "images_per_prompt": 1}
    captions = (root / document["benchmarks"]["mjhq"]["prompts"]).read_text().splitlines(True)
    (path / "captions.jsonl").write_text("".join(captions[::6]))
    metrics = {"cmmd": {"extractor": "checkpoints/micro-clip"}}
    document["benchmarks"]["mjhq"] |= {"prompts": "captions.jsonl", "metrics": metrics}
    methods = {name: document["methods"][name] for name in ("vanilla", "daid", "faid")}
    for name in ("daid", "faid"):
        methods[name]["benchmarks"] = ["geneval"]
    lam = methods["daid"]["augment"]["lam"]
    grids = {"one": {"method": "daid", "values": {"augment.lam": [lam]}}}  # which is drawn already
    document |= {"methods": methods, "grids": grids, "figures": {}}
    document["database"] |= {"images": 40, "shard_size": 20}
    (path / "config.yaml").write_text(yaml.safe_dump(document))
    here = os.getcwd()
    os.chdir(path)
    try:
        make(Layout(load_config("config.yaml")))
    finally:
        os.chdir(here)
    return path


def make(layout: Layout) -> None:
    codes, index = layout.codes("daid"), layout.index("daid")
    tokenizer = layout.config.generator_of("daid")[1].checkpoint
    size = ("--images", 40, "--shard-size", 20)
    run("db", "encode", "micro:database", *size, "--tokenizer", tokenizer, "--out", codes)
    run("index", "build", "--codes", codes, "--out", index, "--mode", "ivf", "--nlist", 8)
    judge = layout.config.scorers
    for row in ROWS:
        run("generate", "--benchmark", "geneval", "--config", "config.yaml", "--method", row)
        out = layout.scores(row)["geneval"]
        run("score", "geneval", "--images", layout.samples(row), "--prompts", "prompts.jsonl",
            "--detector", judge.detector, "--color", judge.color, "--out", out)  # fmt: skip
    run("report", "table", 1, "--config", "config.yaml")
    run("report", "ablation", "one", "--config", "config.yaml")
    reference = layout.reference("mjhq")
    prompts_script.render(Path("captions.jsonl"), out=reference)
    for row in ("vanilla", "real", "reconstructions"):
        run("generate", "--config", "config.yaml", "--method", row, "--benchmark", "mjhq")
        run("score", "cmmd", layout.samples(row, "mjhq"), reference, "--extractor",
            "checkpoints/micro-clip", "--out", layout.scores(row, "mjhq")["cmmd"])  # fmt: skip
    run("report", "table", 3, "--config", "config.yaml")
    times = Path("results/timing/times.json")
    write_json(times, a_timing())
    write_record(times)
    run("report", "table", 4, "--timing", times, "--config", "config.yaml")
    run("verify", "--record")  # of data/micro, which an earlier test may have fetched


def run(*words) -> None:
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture
def here(project, monkeypatch):
    """The project as the working directory, and its layout."""
    monkeypatch.chdir(project)
    return Layout(load_config("config.yaml"))


def verified(capsys, *words) -> tuple[int, dict]:
    capsys.readouterr()
    status = main(["verify", "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def issues(capsys, *words) -> list[tuple[str, str]]:
    """(path, what is wrong, without its details) of every issue, in order."""
    status, found = verified(capsys, *words)
    assert status == bool(found["issues"]) and all(issue["advice"] for issue in found["issues"])
    whats = [re.split(r"[:(]", issue["what"])[0].strip() for issue in found["issues"]]
    return sorted(zip((issue["path"] for issue in found["issues"]), whats, strict=True))


def explained(capsys, *words, table="table1") -> tuple[int, dict]:
    capsys.readouterr()
    status = main(["verify", "--json", "--trace", f"reports/{table}.md", *words])
    return status, json.loads(capsys.readouterr().out)


def test_a_finished_run_is_as_recorded(here, capsys):
    status, found = verified(capsys)
    assert (status, found["issues"], found["notes"]) == (0, [], [])
    assert issues(capsys, "--quick") == []


KINDS = {  # one file of each format and stage
    "codes": "results/codes/*/*/shard-00000.npy",
    "codebook": "results/codes/*/*/codebook.safetensors",
    "manifest": "results/codes/*/*/manifest.json",
    "lists": "results/index/*/lists.npy",
    "meta": "results/index/*/meta.json",
    "image": "results/samples/*/daid-*/00003/samples/0000.png",
    "run": "results/samples/*/daid-*/run.json",
    "verdicts": "results/scores/*/*/faid-*.jsonl",
    "assets": "data/micro/assets.npz",
    "csv": "reports/table1.csv",
    "record": "results/samples/*/vanilla-*.record.json",
}


@pytest.fixture
def damaged(here):
    """A function that writes other bytes to a file; all are as before after the test."""
    before = {}

    def damage(path: Path, data: bytes | None) -> Path:
        before.setdefault(path, path.read_bytes() if path.is_file() else None)
        if data is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return path

    yield damage
    for path, data in before.items():
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)


def one(pattern: str) -> Path:
    return sorted(Path().glob(pattern))[0]


def score_of(layout: Layout, row: str) -> Path:
    return layout.scores(row)["geneval"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_changed_anywhere_is_found(kind, damaged, capsys):
    path = one(KINDS[kind])
    data = path.read_bytes()
    for place, flip in ((0, 0xFF), (len(data) // 2, 0x01)):
        damaged(path, data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        assert str(path) in dict(issues(capsys)), (place, flip)


def test_missing_truncated_longer_and_extra_files_are_told_apart(here, damaged, capsys):
    image = here.samples("daid") / "00001/samples/0000.png"
    data = image.read_bytes()
    for change, what in ((None, "missing"), (data[:-5], "truncated"), (data + b"x", "changed")):
        damaged(image, change)
        for quick in ([], ["--quick"]):
            assert issues(capsys, *quick) == [(str(image), what)]
    damaged(image, data)
    extra = damaged(image.with_name("0001.png"), data)
    assert issues(capsys) == [(str(extra), "extra")]


def test_a_quick_check_reads_no_large_file(here, damaged, capsys):
    path = one(KINDS["codes"])
    damaged(path, path.read_bytes()[:-1] + b"?")
    assert issues(capsys, "--quick") == [] != issues(capsys)


def remade(damaged, path: Path, change, *record) -> None:
    """Change a JSON file, and its record as if a stage had written it."""
    document = read_json(path)
    change(document)
    record_path = record_of(record[0])
    before = read_record(record_path)
    damaged(record_path, record_path.read_bytes())
    damaged(path, json.dumps(document).encode())
    write_record(*record, made_of=sources_of(before), table=before.table)


def sources_of(record):
    return {role: (source.path, source.digest) for role, source in record.made_of.items()}


def test_samples_of_another_index_are_found(here, damaged, capsys):
    index = here.index("daid")
    remade(damaged, index / "meta.json", lambda meta: meta.update(nprobe=5), index)
    assert issues(capsys) == [
        (str(here.samples(row)), f"was made of index {index}") for row in ("daid", "faid")
    ]


def test_an_index_of_other_codes_is_found(here, damaged, capsys):
    codes = here.codes("daid")

    def change(manifest):
        manifest["content"]["codes_sha256"] = "0" * 64

    remade(damaged, codes / "manifest.json", change, codes)
    made = [here.index("daid"), here.samples("daid"), here.samples("faid")]
    assert issues(capsys) == sorted((str(path), f"was made of codes {codes}") for path in made)


def test_a_score_of_other_samples_is_found(here, damaged, capsys):
    samples = here.samples("vanilla")
    image, other = samples / "00001/samples/0000.png", samples / "00002/samples/0000.png"
    damaged(record_of(samples), record_of(samples).read_bytes())
    damaged(image, other.read_bytes())
    write_record(samples, made_of=sources_of(read_record(record_of(samples))))
    score = score_of(here, "vanilla").with_suffix("")
    assert issues(capsys) == [(str(score), f"was made of samples {samples}")]


def test_a_table_of_other_scores_is_found(here, damaged, capsys):
    score = score_of(here, "daid")
    records = score.with_suffix(".jsonl")
    remade(damaged, score, lambda document: document.update(value=0.9), score, records)
    assert issues(capsys) == [
        ("reports/ablation_one", f"was made of geneval of daid@lam=0.1 {score}"),
        ("reports/table1", f"was made of geneval of daid {score}"),
    ]


def test_deleted_inputs_and_unfinished_results_are_notes(here, damaged, capsys):
    damaged(Path("prompts.jsonl"), None)
    damaged(Path("results/samples/geneval/new-0123456789/run.partial.json"), b"{}")
    status, found = verified(capsys)
    whats = [note["what"] for note in found["notes"]]
    assert (status, found["issues"]) == (0, []) and len(whats) == 2 * len(ROWS) + 1
    assert sum("prompts.jsonl" in what for what in whats) == 2 * len(ROWS)
    assert verified(capsys, "--record")[1]["recorded"] == []
    shutil.rmtree("results/samples/geneval/new-0123456789")


def test_a_folder_that_was_deleted_is_one_issue(here, damaged, capsys):
    old = Path("results/samples/geneval/old-0123456789")
    for name in ("run.json", "run.partial.json"):
        damaged(old / name, b"{}")
    write_record(old)
    shutil.rmtree(old)
    found = issues(capsys)
    record_of(old).unlink()
    assert found == [(str(old), "missing as a whole")]


def test_results_without_a_record_are_reported_and_can_be_recorded(here, damaged, capsys):
    record = record_of(score_of(here, "real"))
    before = read_record(record).files
    damaged(record, None)
    assert [what for _, what in issues(capsys)] == ["unrecorded"]
    status, found = verified(capsys, "--record")
    assert (status, found["recorded"]) == (0, [str(record)])
    assert read_record(record).files == before


def test_a_damaged_file_is_not_recorded_as_if_it_were_right(tmp_path):
    file = tmp_path / "store/shard.npy"
    file.parent.mkdir()
    file.write_bytes(b"codes")
    record = write_record(file.parent)
    first = read_record(record)
    file.write_bytes(b"codes and more, written by a stage")
    assert read_record(write_record(file.parent)) != first
    os.utime(record, ns=(2**62, 2**62))  # as if the file had been written before
    second = read_record(record)
    file.write_bytes(b"rotten bytes of the same length...")
    assert read_record(write_record(file.parent)) == second


def test_what_a_configuration_lacks_is_listed(here, capsys):
    missing = issues(capsys, "--config", "config.yaml")
    assert missing and all("/dpg/" in path for path, _ in missing)  # Tables 1 and 3 are there


def test_verify_imports_no_torch(here):
    code = (
        "import sys; from arrag.cli.main import main; main(['verify', '--json']);"
        "main(['verify', '--trace', 'reports/table1.md', 'daid', 'overall']);"
        "print([m for m in ('torch', 'faiss', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr


def digest_of_tree(folder: Path) -> str:
    """As checkpoints are digested, written out anew."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".md", ".png"))
    named = [
        [str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files
    ]
    text = json.dumps(named, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_chain_of_a_cell_is_right(here, capsys):
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import open_index

    status, found = explained(capsys, "+ FAiD", "counting")
    assert status == 0
    line = next(
        row
        for row in csv.DictReader(Path("reports/table1.csv").read_text().splitlines())
        if (row["block"], row["key"], row["column"]) == ("method", "faid", "counting")
    )
    assert (found["row"], found["value"]) == ("faid", line["value"])
    links = {link["what"]: link for link in found["steps"] if link["what"] != "report"}
    store = TokenStore.open(here.codes("faid"))
    checkpoint = here.config.generator_of("faid")[1].checkpoint
    images = [hashlib.sha256(data).hexdigest() for _, data in read_images(here.samples("faid"))]
    expected = {
        "geneval file": (score_of(here, "faid"), sha256_file(score_of(here, "faid"))),
        "samples of geneval": (here.samples("faid"), images_digest(images)),
        "detector of geneval": ("checkpoints/micro-detector", None),
        "color of geneval": ("checkpoints/micro-clip", None),
        "settings": ("config.yaml", here.config.config_hash("faid", "geneval")),
        "prompts of geneval": ("prompts.jsonl", sha256_file("prompts.jsonl")),
        "backbone": (checkpoint, None),
        "adapter": ("checkpoints/micro-faid", None),
        "tokenizer": (here.codes("faid") / "manifest.json", load_tokenizer(checkpoint).digest),
        "index": (here.index("faid"), open_index(here.index("faid"), store).digest),
        "codes of index": (here.codes("faid"), store.digest),
    }
    for what, (path, digest) in expected.items():
        assert links[what]["path"] == str(path), what
        digest = digest or digest_of_tree(Path(path))
        assert links[what]["recorded"] == links[what]["found"] == digest, what
    assert {"torch", "transformers", "python"} <= found["versions"]["samples of faid"].keys()


def test_a_difference_has_the_chains_of_both_rows(here, capsys):
    status, found = explained(capsys, "daid", "difference overall")
    assert status == 0
    rows = {link["row"] for link in found["steps"] if link["what"].startswith("samples of")}
    assert rows == {"daid", "vanilla"}
    assert next(link for link in found["steps"] if link["what"] == "value")["verified"] is True


def test_the_chain_of_a_distance(here, capsys):
    status, found = explained(capsys, "vanilla", "CMMD-micro-clip", table="table3")
    assert status == 0
    links = {link["what"]: link for link in found["steps"] if link["what"] != "report"}
    reference = here.reference("mjhq")
    digests = [hashlib.sha256(data).hexdigest() for _, data in read_images(reference)]
    identity = images_digest(digests)
    step = links["reference of cmmd"]
    assert (step["path"], step["found"]) == (str(reference), identity)
    extractor = links["extractor of cmmd"]
    assert extractor["found"] == digest_of_tree(Path("checkpoints/micro-clip"))
    assert links["value"]["verified"] and links["samples of cmmd"]["verified"]


def test_the_chain_of_a_point_of_an_ablation(here, capsys):
    label = read_record("reports/ablation_one.record.json").table["rows"]
    (point,) = (key for key in label if key != "vanilla")
    for column in ("overall", "difference overall"):
        status, found = explained(capsys, point, column, table="ablation_one")
        assert (status, found["row"]) == (0, point)
        paths = {link["path"] for link in found["steps"] if link["what"].startswith("samples of")}
        assert str(here.samples("daid")) in paths  # of equal settings
        assert len(paths) == 1 + column.startswith("difference")


def test_the_chain_of_a_time(here, capsys):
    words = ("daid", "one seconds_per_image")
    status, found = explained(capsys, *words, table="table4")
    assert status == 0
    steps = {step["what"]: step for step in found["steps"]}
    assert steps["timing file"]["path"] == "results/timing/times.json"
    assert steps["value"]["verified"] and steps["files of samples"]["verified"]
    assert found["versions"]["timing"] == {"torch": "2.13.0"}


@pytest.mark.parametrize("kind, what", [
    ("image", "samples of geneval"), ("meta", "index"), ("manifest", "codes of index"),
    ("codes", "files of codes"), ("csv", "report"), ("run", "run"),
])  # fmt: skip
def test_a_step_that_does_not_hold_is_marked(kind, what, damaged, capsys):
    path = one(KINDS[kind])
    data = path.read_bytes()
    if path.suffix == ".json":
        document = json.loads(data)
        document["nprobe" if kind == "meta" else "seed"] = 7
        if kind == "manifest":
            document["content"]["codes_sha256"] = "0" * 64
        damaged(path, json.dumps(document).encode())
    else:
        damaged(path, data[:-1] + bytes([data[-1] ^ 1]))
    status, found = explained(capsys, "daid", "overall")
    assert status == 1
    assert what in {link["what"] for link in found["steps"] if link["verified"] is False}


def test_another_lambda_in_the_configuration_is_marked(damaged, capsys):
    path = Path("config.yaml")
    document = yaml.safe_load(path.read_text())
    document["methods"]["daid"]["augment"]["lam"] = 0.123
    damaged(path, yaml.safe_dump(document).encode())
    _, found = explained(capsys, "daid", "overall")
    assert [link["what"] for link in found["steps"] if link["verified"] is False] == ["settings"]


def test_a_number_that_the_scores_do_not_give_is_marked(damaged, capsys):
    path = Path("reports/table1.csv")
    lines = path.read_text().splitlines(keepends=True)
    place = next(i for i, text in enumerate(lines) if ",method,daid," in text)
    fields = lines[place].split(",")
    fields[6] = "0.123"
    damaged(path, "".join([*lines[:place], ",".join(fields), *lines[place + 1 :]]).encode())
    _, found = explained(capsys, "daid", fields[5])
    wrong = {link["what"] for link in found["steps"] if link["verified"] is False}
    assert wrong == {"value", "report"}


def test_an_unknown_row_or_column_names_the_nearest(here):
    for row, column, nearest in (("dai", "overall", "daid"), ("daid", "overal", "overall")):
        with pytest.raises(UnknownNameError) as raised:
            trace_cell("reports/table1.md", row, column)
        assert nearest in raised.value.hint


@pytest.fixture(scope="module")
def crate(project):
    """The run packed by the command; the folder."""
    here = os.getcwd()
    os.chdir(project)
    try:
        run("report", "crate", "reports/table1.md", "--config", "config.yaml")
    finally:
        os.chdir(here)
    yield project / "results/crate"
    shutil.rmtree(project / "results/crate")
    (project / "results/crate.record.json").unlink()


def test_a_crate_is_read_back_by_the_library(crate, here):
    from rocrate.rocrate import ROCrate

    found = ROCrate(crate)
    assert found.metadata.profile == "https://w3id.org/ro/crate/1.1"
    profiles = {entity.id for entity in found.root_dataset["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in profiles
    assert found.root_dataset["license"].id == "https://spdx.org/licenses/Apache-2.0"
    workflow = found.mainEntity
    assert workflow.id == "Snakefile" and "ComputationalWorkflow" in workflow.type
    assert workflow["programmingLanguage"]["name"] == "Snakemake"
    assert {part.id for part in workflow["hasPart"]} >= {"workflow/rules/samples.smk"}
    (action,) = found.root_dataset["mentions"]
    assert action.type == "CreateAction" and action["instrument"].id == "Snakefile"
    results = {entity.id for entity in action["result"]}
    used = {entity.id for entity in action["object"]}
    assert {"reports/table1.md", "reports/table1.csv", "reports/table1.record.json"} <= results
    assert {str(score_of(here, row)) for row in ROWS} <= results
    assert {f"{here.samples(row)}/run.json" for row in ROWS} <= results
    assert {str(record_of(here.samples(row))) for row in ROWS} <= results  # digests of the images
    assert f"{here.index('daid')}/meta.json" in results
    assert {"config.yaml", "#checkpoints/micro-janus", "#checkpoints/micro-faid"} <= used
    backbone = found.dereference("#checkpoints/micro-janus")
    assert backbone["sha256"] == digest_of_tree(Path("checkpoints/micro-janus"))
    software = {e["name"]: e["softwareVersion"] for e in workflow["softwareRequirements"]}
    assert software["torch"] == read_json(score_of(here, "daid"))["versions"]["torch"]
    assert found.dereference("data/micro/LICENSES.md") is not None
    assert workflow["input"][0]["name"] == "configuration"
    assert found.dereference("config.yaml")["exampleOfWork"].id == "#configuration"


def test_every_file_of_a_crate_is_the_one_it_states(crate):
    entities = check_crate(crate).data_entities
    assert len(entities) > 40
    for entity in entities:
        path = crate / entity.id
        assert entity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert int(entity["contentSize"]) == path.stat().st_size
    listed = {entity.id for entity in entities} | {"ro-crate-metadata.json"}
    assert {str(p.relative_to(crate)) for p in crate.rglob("[!.]*") if p.is_file()} == listed


def test_a_crate_of_the_results_is_verified_with_them(crate, here, damaged, capsys):
    assert issues(capsys) == []
    path = damaged(Path("results/crate/config.yaml"), b"scale: paper")
    assert [path for path, _ in issues(capsys)] == [str(path)]
    with pytest.raises(MismatchError) as raised:
        check_crate("results/crate")
    assert raised.value.path == path


def test_a_table_without_a_record_cannot_be_packed(here, damaged, capsys):
    damaged(Path("reports/table1.record.json"), None)
    assert main(["report", "crate", "reports/table1.md", "--config", "config.yaml"]) == 2
    assert main(["verify", "--trace", "reports/table1.md", "daid", "overall"]) == 2
    assert main(["verify", "--trace", "reports/table1.md", "dai", "overall"]) == 2
