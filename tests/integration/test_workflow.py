"""The workflow's plan: which jobs run when, in a copy of the project with stand-in checkpoints."""

import os
import re
import shutil

import pytest
import yaml
from workflow_project import TABLE1_PLAN, TABLES, TARGETS, WorkflowProject

WHOLE_PLAN = TABLE1_PLAN | {"gallery": 1}
CI = ("--configfile", "config/micro-ci.yaml")


@pytest.fixture(scope="module")
def finished_template(workflow_template, tmp_path_factory):
    path = shutil.copytree(workflow_template, tmp_path_factory.mktemp("finished") / "project")
    WorkflowProject(path).finish(*TARGETS, *TABLES)
    return path


@pytest.fixture
def finished(finished_template, tmp_path):
    # copytree keeps the dates, on which snakemake relies
    return WorkflowProject(shutil.copytree(finished_template, tmp_path / "finished"))


def test_a_bare_clone_plans_every_stage(workflow_project):
    # A report that came with the clone is made again.
    (workflow_project.path / "reports").mkdir()
    for name in TARGETS:
        (workflow_project.path / name).write_text("from the repository")
    assert workflow_project.plan() == WHOLE_PLAN
    assert workflow_project.plan(*TARGETS, *CI) == WHOLE_PLAN


def test_each_table_needs_its_own_benchmark_alone(workflow_project):
    shared = {name: 1 for name in ("fetch_assets", "encode_database", "build_index")}
    shared |= {"index_images": 1, "sample": 5, "sample_ceiling": 2, "table": 1}
    assert workflow_project.plan("reports/table2.md") == shared | {"score_dpg": 7}
    assert not re.search("samples/(geneval|mjhq)", workflow_project.said)
    janus_and_showo = {"encode_database": 2, "build_index": 2, "sample": 8}
    once = {"fetch_feature_network": 1, "render_reference": 1, "score_distance": 10 * 3}
    assert workflow_project.plan("reports/table3.md") == shared | janus_and_showo | once
    assert not re.search("samples/(geneval|dpg)", workflow_project.said)


def test_the_default_target_is_three_tables_and_a_gallery(workflow_project):
    plan = workflow_project.plan("all")
    wanted = {"table": 3, "gallery": 1, "sample": 6 + 5 + 8, "sample_ceiling": 6}
    assert {name: plan[name] for name in wanted} == wanted


def test_a_table_without_its_benchmark_is_an_error_and_no_default(workflow_project):
    text = workflow_project.config.read_text(encoding="utf-8")
    # Grids draw one too, and so do rows of that table alone.
    for first, after in (("  mjhq:", "scorers:"), ("  showo:\n    label", "timing:")):
        text = text[: text.index(first)] + text[text.index(after) :]
    workflow_project.config.write_text(text, encoding="utf-8")
    assert workflow_project.plan("all")["table"] == 2
    assert "kind distribution" in workflow_project.error("reports/table3.md")


def test_dates_batches_and_the_files_name_recompute_nothing(finished):
    assert finished.plan(*TARGETS, *TABLES) == {}
    results = ("results", "reports", "data", ".snakemake")
    for path in finished.path.rglob("*"):
        if path.relative_to(finished.path).parts[0] not in results:
            os.utime(path)  # as a clone or a checkout does to code, prompts and weights
    finished.edit("batch_size: 64", "batch_size: 3")
    finished.edit("shard_size: 1000", "shard_size: 10")
    finished.config.rename(finished.path / "config/renamed.yaml")
    assert finished.plan(*TARGETS, "--configfile", "config/renamed.yaml") == {}


ONE_ROW = {"sample": 1, "score_geneval": 1, "table": 1}
EDITS = {
    "a label": (("label: + DAiD", "label: DAiD"), {"table": 1, "gallery": 1}),
    "the index": (
        ("nprobe: 32", "nprobe: 8"),
        # DAiD and FAiD
        {"build_index": 1, "sample": 2, "score_geneval": 2, "table": 1, "gallery": 1},
    ),
    "a metric": (("wavelet: haar", "wavelet: sym5"), {"score_distance": 10, "table": 1}),
    "a new method": (
        ("methods:\n", "methods:\n  new:\n    label: new\n    benchmarks: [geneval]\n"
         "    augment: {kind: daid, k: 5, lam: 0.9, tau: 1.0}\n"),
        ONE_ROW | {"gallery": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_recomputes_what_depends_on_it(finished, name):
    (old, new), wanted = EDITS[name]
    targets = TABLES if name == "a metric" else TARGETS
    finished.edit(old, new)
    assert finished.plan(*targets) == wanted


def test_one_parameter_of_a_method_recomputes_its_row_and_can_be_taken_back(finished):
    finished.edit("lam: 0.1", "lam: 0.25")
    assert finished.plan("reports/table1.md") == ONE_ROW
    outputs = re.findall(r"output: results/(\S+)", finished.said)
    assert len(outputs) == 2 and all("/daid-" in path for path in outputs)
    finished.edit("lam: 0.25", "lam: 0.1")
    assert finished.plan("reports/table1.md") == {}


FILES = {
    "benchmarks/dpg_micro.csv": {"sample": 5, "sample_ceiling": 2, "score_dpg": 7, "table": 1},
    "checkpoints/micro-faid/model.safetensors": {
        "sample": 1, "score_geneval": 1, "table": 1,
    },
    "checkpoints/micro-clip/model.safetensors": {"score_geneval": 8, "table": 1},
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_other_prompts_or_weights_recompute_what_is_made_of_them(finished, file):
    with open(finished.path / file, "a") as text:
        text.write("more\n")
    targets = TABLES if "benchmarks" in file else TABLES[:1]
    assert finished.plan(*targets) == FILES[file]


def test_generators_and_databases_of_methods_make_only_what_is_new(finished):
    second = finished.path / "checkpoints/second"
    second.mkdir()
    (second / "model.safetensors").write_text("another Show-o")
    block = "  second: {kind: showo, checkpoint: checkpoints/second, guidance_scale: 1.0}\n"
    finished.edit("\ndatabase:\n", f"{block}\ndatabase:\n")
    augment = "    augment: {kind: daid, k: 5, lam: 0.9, tau: 1.0}\n"
    rows = (
        f"  other:\n    label: other\n    generator: second\n{augment}"
        f"  few:\n    label: few\n    database: {{images: 9}}\n{augment}"
        f"  strong:\n    label: strong\n    index: {{nprobe: 32}}\n{augment}"
    )
    finished.edit("methods:\n", "methods:\n" + rows)
    wanted = {"encode_database": 2, "build_index": 2, "sample": 3, "score_geneval": 3, "table": 1}
    assert finished.plan("reports/table1.md", "-p") == wanted
    encoded = sorted(re.findall(r"--tokenizer (\S+) .* --images (\d+)", finished.said))
    assert encoded == [("checkpoints/micro-janus", "9"), ("checkpoints/second", "4000")]
    assert len(re.findall(r"--context full .* --border zero", finished.said)) == 1


def test_parts_are_jobs_of_their_own_and_follow_the_configuration(workflow_project):
    parts = ("  threads: 1\n", "  threads: 1\n  sample_parts: {geneval: 3}\n")
    workflow_project.edit(*parts)
    assert workflow_project.plan(*TARGETS, "-p") == WHOLE_PLAN | {"sample_part": 6 * 3}
    (command,) = re.findall(r"arrag sample .* --method daid .* --part 1/3", workflow_project.said)
    assert re.search(r"--out results/samples/geneval/daid-[0-9a-f]+ ", command)
    workflow_project.finish(*TARGETS)
    assert workflow_project.plan() == {}
    path = workflow_project.path
    (run,) = path.glob("results/samples/geneval/daid-*/run.json")
    (score,) = path.glob(f"results/scores/geneval/*/{run.parent.name}.json")
    for made in (run, score, path / "reports/table1.md"):
        made.unlink()
    assert workflow_project.plan("reports/table1.md") == ONE_ROW  # its parts are drawn
    shutil.rmtree(run.parent.with_name(f"{run.parent.name}.parts"))
    assert workflow_project.plan("reports/table1.md") == ONE_ROW | {"sample_part": 3}


def test_without_results_an_old_report_is_not_believed(finished):
    shutil.rmtree(finished.path / "results")
    plan = finished.plan("reports/table1.md")
    assert plan == {k: n for k, n in TABLE1_PLAN.items() if k != "fetch_assets"}


def test_mistakes_are_one_line_without_a_traceback(workflow_project):
    assert "one configuration file" in workflow_project.error("--config", "seed=1", "--", *TARGETS)
    shutil.rmtree(workflow_project.path / "checkpoints/micro-janus")
    assert "generators.janus.checkpoint" in workflow_project.error(*TARGETS)
    workflow_project.edit("      lam: 0.1\n      tau: 0.2", "      lamda: 0.1\n      tau: 0.2")
    assert "methods.daid.augment.lamda" in workflow_project.error(*TARGETS)


def test_lint_asks_for_nothing_but_environments(workflow_project):
    done = workflow_project.snakemake("--lint")
    asked = set(re.findall(r"^    \* (.*)$", done.stdout, re.M))
    assert asked <= {"Specify a conda environment or container for each rule.:"}, done.stdout


def test_the_micro_checkpoints_are_trained_only_on_demand(workflow_project):
    shutil.rmtree(workflow_project.path / "checkpoints")  # which the training makes
    rules = workflow_project.path / "workflow/rules/reports.smk"
    rules.write_text(rules.read_text() + "\nassert 'torch' not in sys.modules\n")
    assert workflow_project.plan("train_micro") == {
        "fetch_assets": 1, "train_codebook": 1, "train_part": 2, "assemble_janus": 1,
        "train_judge": 2, "train_retriever": 1, "train_micro": 1,
    }  # fmt: skip


def test_each_distinct_adapter_of_the_methods_is_trained_once(workflow_project):
    block = "    label: a\n    augment: {kind: faid, k: 3}\n"
    hops = "    training: {faid: {hops: [1, 2]}}\n"
    few = "    database: {images: 9}\n"
    methods = f"  fewer:\n{block}  hops:\n{hops}{block}  few:\n{few}{block}"
    once = dict.fromkeys(("fetch_assets", "index_images", "retrieve_references"), 1)
    plan = workflow_project.plan("train_adapters")
    twice = ("encode_database", "build_index", "make_pairs", "retrieve_neighbours")  # a generator
    assert plan == once | dict.fromkeys(twice, 2) | {"train_adapter": 4, "train_adapters": 1}
    workflow_project.edit("methods:\n", "methods:\n" + methods)
    plan = workflow_project.plan("train_adapters", "-p")
    assert plan["train_adapter"] == 4 + 2 and plan["retrieve_neighbours"] == 2 + 1
    assert plan["make_pairs"] == 1 + 1 and plan["encode_database"] == 2 + 1  # and for Show-o
    trained = re.findall(r"arrag train faid .* --method (\w+) ", workflow_project.said)
    assert sorted(trained) == ["few", "fewer", "hops"]  # `faid` is trained as `fewer` is


def test_a_method_without_an_adapters_folder_trains_it(workflow_project):
    def adapters():
        workflow_project.plan("reports/table1.md")
        return set(re.findall(r"results/adapters/faid-[0-9a-f]+", workflow_project.said))

    workflow_project.edit("adapter: checkpoints/micro-faid", "adapter: null")
    assert workflow_project.plan("reports/table1.md")["train_adapter"] == 1
    first = adapters()
    # What the methods sample with, and which prompts, shape no adapter.
    workflow_project.edit("lam: 0.1", "lam: 0.3")
    workflow_project.edit("images_per_prompt: 4", "images_per_prompt: 1")
    assert adapters() == first
    workflow_project.edit("hops: [1]", "hops: [1, 2]")
    assert not adapters() & first


def test_pipelines_that_retrieve_share_one_database(workflow_project):
    document = yaml.safe_load(workflow_project.config.read_text(encoding="utf-8"))
    sampling = {"checkpoint": "checkpoints/micro-janus", "steps": 2, "guidance_scale": 4.0}
    models = {"clip": "checkpoints/micro-retriever", "tokenizer": "checkpoints/micro-janus"}
    document["generators"] |= {
        "pixart": {"kind": "diffusers", **sampling},
        "rdm": {"kind": "rdm", "k": 2, **sampling, **models},
        "imagerag": {
            "kind": "imagerag",
            "ip_adapter": "checkpoints/micro-clip/model.safetensors",
            "image_encoder": "checkpoints/micro-clip",
            "judge": {"kind": "always"},
            **sampling,
            **models,
        },
    }
    rows = {name: {"label": name, "generator": name} for name in ("pixart", "rdm", "imagerag")}
    document["methods"] = {"vanilla": document["methods"]["vanilla"], **rows}
    document |= {"grids": {}, "figures": {}}
    workflow_project.config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    plan = workflow_project.plan("reports/table1.md")
    made = {rule: plan[rule] for rule in ("encode_database", "index_images", "sample")}
    assert made == {"encode_database": 1, "index_images": 1, "sample": 4}
    assert "build_index" not in plan
