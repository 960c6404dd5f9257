"""The workflow's plan: which jobs run when, in a copy of the project with stand-in checkpoints."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = ("reports/table1.md", "reports/samples.png")
TABLES = ("reports/table1.md", "reports/table2.md", "reports/table3.md")
ADAPTERS = ("finetune", "faid", "racm3")
WHOLE_PLAN = {
    "fetch_assets": 1,
    "encode_database": 1,
    "build_index": 1,
    "index_images": 1,
    "sample": 6,
    "sample_ceiling": 2,
    "score_geneval": 8,
    "table": 1,
    "gallery": 1,
}
DATABASE = {"fetch_assets": 1, "encode_database": 1, "build_index": 1, "index_images": 1}
DRAWN = {"sample": 5, "sample_ceiling": 2, "table": 1}
TABLE2_PLAN = DATABASE | DRAWN | {"score_dpg": 7}
TABLE3_PLAN = (
    DATABASE
    | DRAWN
    | {
        "encode_database": 2,  # Janus's codes and Show-o's
        "build_index": 2,
        "sample": 8,
        "fetch_feature_network": 1,
        "render_reference": 1,
        "score_distance": 10 * 3,
    }
)


class Project:
    """A folder with the workflow in it."""

    def __init__(self, path):
        self.path = path
        self.config = path / "config/micro.yaml"
        self.python = Path(sys.executable)

    def start(self, *arguments):
        """Start snakemake in a process group of its own, stdout and stderr as one text."""
        return subprocess.Popen(
            [self.python, "-m", "snakemake", "--cores", "1", *arguments],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def snakemake(self, *arguments):
        """Run snakemake to its end."""
        process = self.start(*arguments)
        stdout, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout)

    def plan(self, *arguments):
        """{rule: jobs} of a dry run, targets not counted."""
        done = self.snakemake("--dry-run", *(arguments or TARGETS))
        assert done.returncode == 0, done.stdout
        assert "Exception" not in done.stdout, done.stdout
        self.said = done.stdout
        stats = re.search(r"^job +count\n[- ]+\n(.*?)^total", done.stdout, re.M | re.S)
        assert stats or "Nothing to be done" in done.stdout, done.stdout
        lines = stats[1].splitlines() if stats else []
        return {name: int(count) for name, count in map(str.split, lines)}

    def edit(self, old, new):
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new), encoding="utf-8")

    def finish(self):
        """Pretend that everything was made: put every file in place and let snakemake record it."""
        summary = self.snakemake("--summary", *TARGETS, *TABLES).stdout
        for line in summary.split("output_file", 1)[1].splitlines()[1:]:
            path = self.path / line.split("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("made\n")
        done = self.snakemake("--touch", "--forceall", *TARGETS, *TABLES)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory, root):
    """The project's workflow files with stand-in checkpoints and prompts."""
    path = tmp_path_factory.mktemp("project")
    for part in ("workflow", "profiles", "config"):
        shutil.copytree(root / part, path / part)
    shutil.copy(root / "Snakefile", path)
    models = ("janus", "showo", "showo-faid", "detector", "clip", "retriever", *ADAPTERS)
    for name in (f"micro-{model}" for model in models):
        (path / "checkpoints" / name).mkdir(parents=True)
        (path / "checkpoints" / name / "config.json").write_text(f'{{"is": "{name}"}}')
        (path / "checkpoints" / name / "model.safetensors").write_text(name)
    (path / "benchmarks").mkdir()
    for name in ("geneval_micro", "geneval_micro_ci"):
        prompt = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]}
        prompt["prompt"] = f"a photo of a red dog, {name}"
        (path / f"benchmarks/{name}.jsonl").write_text(json.dumps(prompt) + "\n")
    captions = ("mjhq_micro.jsonl", "mjhq_micro_ci.jsonl", "mjhq_micro_grid.jsonl")
    for name in ("dpg_micro.csv", "dpg_micro_ci.csv", *captions):
        (path / "benchmarks" / name).write_text(f"{name}\n")
    return path


@pytest.fixture
def project(template, tmp_path):
    return Project(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture(scope="module")
def finished_template(template, tmp_path_factory):
    path = shutil.copytree(template, tmp_path_factory.mktemp("finished") / "project")
    Project(path).finish()
    return path


@pytest.fixture
def finished(finished_template, tmp_path):
    # copytree keeps the dates, on which snakemake relies
    return Project(shutil.copytree(finished_template, tmp_path / "project"))


def test_a_bare_clone_plans_every_stage(project):
    assert project.plan() == WHOLE_PLAN


def test_a_table_asks_for_its_own_benchmark_and_no_other(project):
    assert project.plan("reports/table2.md") == TABLE2_PLAN
    assert "samples/geneval" not in project.said and "samples/mjhq" not in project.said
    assert project.plan("reports/table3.md") == TABLE3_PLAN
    assert "samples/geneval" not in project.said and "samples/dpg" not in project.said


def test_everything_is_three_tables_and_a_picture(project):
    plan = project.plan("all")
    assert {name: plan[name] for name in ("table", "gallery", "sample", "sample_ceiling")} == {
        "table": 3,
        "gallery": 1,
        "sample": 6 + 5 + 8,
        "sample_ceiling": 6,
    }


def test_a_table_without_its_benchmark_is_one_line_and_not_asked_for_by_default(project):
    text = project.config.read_text(encoding="utf-8")
    # Grids draw one too, and so do rows of that table alone.
    for first, after in (("  mjhq:", "scorers:"), ("  showo:\n    label", "timing:")):
        text = text[: text.index(first)] + text[text.index(after) :]
    project.config.write_text(text, encoding="utf-8")
    assert project.plan("all")["table"] == 2
    done = project.snakemake("--dry-run", "reports/table3.md")
    assert_one_line(done, "benchmarks: table3 needs one of kind distribution; add one")


def test_a_metric_s_setting_recomputes_its_scores_only(finished):
    finished.edit("wavelet: haar", "wavelet: sym5")
    assert finished.plan(*TABLES) == {"score_distance": 10, "table": 1}


def test_other_questions_leave_the_other_tables_alone(finished):
    with open(finished.path / "benchmarks/dpg_micro.csv", "a") as table:
        table.write("another\n")
    assert finished.plan(*TABLES) == {"sample": 5, "sample_ceiling": 2, "score_dpg": 7, "table": 1}


def test_at_paper_scale_there_are_no_ceilings(project):
    project.edit("scale: micro", "scale: paper")
    plan = project.plan()
    assert "sample_ceiling" not in plan and plan["score_geneval"] == 6


def test_a_report_that_came_with_the_clone_is_made_again(project):
    (project.path / "reports").mkdir()
    for name in TARGETS:
        (project.path / name).write_text("from the repository")
    assert project.plan() == WHOLE_PLAN


def test_the_small_configuration_plans_the_same_stages(project):
    assert project.plan(*TARGETS, "--configfile", "config/micro-ci.yaml") == WHOLE_PLAN


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.plan() == {}


def test_dates_batches_and_the_files_name_recompute_nothing(finished):
    results = ("results", "reports", "data", ".snakemake")
    for path in finished.path.rglob("*"):
        if path.relative_to(finished.path).parts[0] not in results:
            os.utime(path)  # as a clone or a checkout does to code, prompts and weights
    finished.edit("batch_size: 64", "batch_size: 3")
    finished.edit("shard_size: 1000", "shard_size: 10")
    finished.config.rename(finished.path / "config/renamed.yaml")
    assert finished.plan(*TARGETS, "--configfile", "config/renamed.yaml") == {}


def test_parts_of_a_finished_run_are_not_drawn_again(finished):
    finished.edit("  threads: 1\n", "  threads: 1\n  sample_parts: {geneval: 3, dpg: 2, mjhq: 2}\n")
    assert finished.plan(*TARGETS, *TABLES) == {}
    (run,) = finished.path.glob("results/samples/geneval/daid-*/run.json")
    run.unlink()
    assert finished.plan("reports/table1.md") == {
        "sample_part": 3, "sample": 1, "score_geneval": 1, "table": 1,
    }  # fmt: skip


def test_another_number_of_parts_recomputes_nothing(project):
    project.edit("  threads: 1\n", "  threads: 1\n  sample_parts: {geneval: 3}\n")
    assert project.plan() == WHOLE_PLAN | {"sample_part": 6 * 3}
    project.finish()
    marks = list(project.path.glob("results/samples/*/*.parts/*"))
    assert len(marks) == 6 * 3
    for other in ("{geneval: 5}", "{}"):
        project.edit("sample_parts: {geneval: 3}", f"sample_parts: {other}")
        assert project.plan() == {}
        project.edit(f"sample_parts: {other}", "sample_parts: {geneval: 3}")
    project.edit("sample_parts: {geneval: 3}", "sample_parts: {geneval: 5}")
    (run,) = project.path.glob("results/samples/geneval/daid-*/run.json")
    (score,) = project.path.glob(f"results/scores/geneval/*/{run.parent.name}.json")
    for path in (run, score, project.path / "reports/table1.md"):
        path.unlink()
    # It is begun in three parts, and they are drawn.
    wanted = {"sample": 1, "score_geneval": 1, "table": 1}
    assert project.plan("reports/table1.md") == wanted
    shutil.rmtree(run.parent.with_name(f"{run.parent.name}.parts"))
    assert project.plan("reports/table1.md") == wanted | {"sample_part": 5}


def test_one_parameter_of_daid_recomputes_only_its_row(finished):
    finished.edit("lam: 0.1", "lam: 0.25")
    wanted = {"sample": 1, "score_geneval": 1, "table": 1}
    assert finished.plan("reports/table1.md") == wanted
    outputs = re.findall(r"output: results/(\S+)", finished.said)
    assert len(outputs) == 2 and all("/daid-" in path for path in outputs)
    finished.edit("lam: 0.25", "lam: 0.1")  # nothing was made meanwhile, nothing is lost
    assert finished.plan("reports/table1.md") == {}


def test_index_parameters_leave_codes_and_vanilla_alone(finished):
    finished.edit("nprobe: 32", "nprobe: 8")
    wanted = {"build_index": 1, "sample": 2, "score_geneval": 2, "table": 1}
    assert finished.plan("reports/table1.md") == wanted  # DAiD and FAiD


def test_a_label_recomputes_only_the_reports(finished):
    finished.edit("label: + DAiD", "label: DAiD")
    assert finished.plan() == {"table": 1, "gallery": 1}


def test_a_new_method_is_a_few_lines_and_one_more_row(finished):
    block = "  strong:\n    label: strong\n    augment: {kind: daid, k: 5, lam: 0.9, tau: 1.0}\n"
    finished.edit("methods:\n", "methods:\n" + block)
    wanted = {"sample": 1, "score_geneval": 1, "table": 1, "gallery": 1}
    assert finished.plan() == wanted


MORE = """  other:
    label: other
    generator: second
    benchmarks: [geneval]
    augment: {kind: daid, k: 5, lam: 0.9, tau: 1.0}
  few:
    label: few
    database: {images: 9}
    benchmarks: [geneval]
    augment: {kind: daid, k: 5, lam: 0.9, tau: 1.0}
  strong:
    label: strong
    index: {nprobe: 32}
    augment: {kind: daid, k: 5, lam: 0.9, tau: 1.0}
"""


def test_generators_and_databases_of_methods_make_only_what_is_new(finished):
    second = finished.path / "checkpoints/second"
    second.mkdir()
    (second / "model.safetensors").write_text("another Show-o")
    block = "  second: {kind: showo, checkpoint: checkpoints/second, guidance_scale: 1.0}\n"
    finished.edit("\ndatabase:\n", f"{block}\ndatabase:\n")
    finished.edit("methods:\n", "methods:\n" + MORE)
    wanted = {"encode_database": 2, "build_index": 2, "sample": 3, "score_geneval": 3, "table": 1}
    assert finished.plan("reports/table1.md", "-p") == wanted
    encoded = sorted(re.findall(r"--tokenizer (\S+) .* --images (\d+)", finished.said))
    assert encoded == [("checkpoints/micro-janus", "9"), ("checkpoints/second", "4000")]
    assert len(re.findall(r"--context full .* --border zero", finished.said)) == 1
    assert finished.plan("reports/table2.md")["sample"] == 1  # strong


def test_other_weights_of_the_judge_recompute_the_scores(finished):
    (finished.path / "checkpoints/micro-clip/model.safetensors").write_text("better")
    assert finished.plan("reports/table1.md") == {"score_geneval": 8, "table": 1}


def test_other_prompts_recompute_all_samples(finished):
    with open(finished.path / "benchmarks/geneval_micro.jsonl", "a") as prompts:
        prompts.write('{"tag": "colors", "prompt": "a photo of a blue dog"}\n')
    wanted = {"sample": 6, "sample_ceiling": 2, "score_geneval": 8, "table": 1}
    assert finished.plan("reports/table1.md") == wanted


def test_without_results_an_old_report_is_not_believed(finished):
    shutil.rmtree(finished.path / "results")
    plan = Counter(WHOLE_PLAN) - Counter({"fetch_assets": 1, "gallery": 1})
    assert finished.plan("reports/table1.md") == plan


def assert_one_line(done, message):
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("arrag: error: ")]
    assert re.search(message, line)
    assert "Traceback" not in done.stdout


def test_a_misspelt_key_is_one_line_without_traceback(project):
    project.edit("      lam: 0.1\n      tau: 0.2", "      lamda: 0.1\n      tau: 0.2")
    done = project.snakemake("--dry-run", *TARGETS)
    assert_one_line(done, r"config/micro\.yaml: methods\.daid\.augment\.lamda: .*mean 'lam'")


def test_a_missing_checkpoint_is_one_line_without_traceback(project):
    shutil.rmtree(project.path / "checkpoints/micro-janus")
    done = project.snakemake("--dry-run", *TARGETS)
    assert_one_line(done, r"generators\.janus\.checkpoint: no folder checkpoints/micro-janus")


def test_an_empty_prompt_file_is_one_line_without_traceback(project):
    (project.path / "benchmarks/geneval_micro.jsonl").write_text("\n")
    done = project.snakemake("--dry-run", *TARGETS)
    assert_one_line(done, r"benchmarks\.geneval\.prompts: .* is empty")


def test_values_on_the_command_line_are_refused(project):
    done = project.snakemake("--dry-run", "--config", "seed=1", "--", *TARGETS)
    assert_one_line(done, "one configuration file describes a run")


def test_lint_asks_for_nothing_but_environments(project):
    done = project.snakemake("--lint")
    asked = set(re.findall(r"^    \* (.*)$", done.stdout, re.M))
    assert asked <= {"Specify a conda environment or container for each rule.:"}, done.stdout


def test_training_is_planned_only_on_demand(project):
    shutil.rmtree(project.path / "checkpoints")  # which the training makes
    plan = project.plan("train_micro")
    assert not set(WHOLE_PLAN) - {"fetch_assets"} & set(plan)
    wanted = {"train_codebook": 1, "train_part": 2, "assemble_janus": 1, "train_judge": 2}
    assert plan == wanted | {"fetch_assets": 1, "train_micro": 1, "train_retriever": 1}


def test_adapters_are_trained_only_on_demand(project):
    plan = project.plan("train_adapters")
    before = ("fetch_assets", "encode_database", "build_index", "index_images", "make_pairs")
    once = (*before, "retrieve_neighbours", "retrieve_references", "train_adapters")
    twice = ("encode_database", "build_index", "make_pairs", "retrieve_neighbours")  # a generator
    assert plan == dict.fromkeys(once, 1) | dict.fromkeys(twice, 2) | {"train_adapter": 4}


def test_each_distinct_adapter_of_the_methods_is_trained_once(project):
    block = "    label: a\n    augment: {kind: faid, k: 3}\n"
    hops = "    training: {faid: {hops: [1, 2]}}\n"
    few = "    database: {images: 9}\n"
    methods = f"  fewer:\n{block}  hops:\n{hops}{block}  few:\n{few}{block}"
    project.edit("methods:\n", "methods:\n" + methods)
    plan = project.plan("train_adapters", "-p")
    assert plan["train_adapter"] == 4 + 2 and plan["retrieve_neighbours"] == 2 + 1
    assert plan["make_pairs"] == 1 + 1 and plan["encode_database"] == 2 + 1  # and for Show-o
    trained = re.findall(r"arrag train faid .* --method (\w+) ", project.said)
    assert sorted(trained) == ["few", "fewer", "hops"]  # `faid` is trained as `fewer` is


def test_a_method_without_an_adapter_s_folder_trains_it_once(project):
    project.edit("adapter: checkpoints/micro-faid", "adapter: null")
    assert project.plan("reports/table1.md")["train_adapter"] == 1
    first = re.findall(r"results/adapters/faid-[0-9a-f]+", project.said)
    # What the methods sample with, and which prompts, shape no adapter.
    project.edit("lam: 0.1", "lam: 0.3")
    project.edit("images_per_prompt: 4", "images_per_prompt: 1")
    project.plan("reports/table1.md")
    assert set(first) == set(re.findall(r"results/adapters/faid-[0-9a-f]+", project.said))
    project.edit("hops: [1]", "hops: [1, 2]")
    project.plan("reports/table1.md")
    assert not set(first) & set(re.findall(r"results/adapters/faid-[0-9a-f]+", project.said))


def test_other_weights_of_an_adapter_recompute_its_row(finished):
    (finished.path / "checkpoints/micro-faid/model.safetensors").write_text("better")
    wanted = {"sample": 1, "score_geneval": 1, "table": 1}
    assert finished.plan("reports/table1.md") == wanted


def test_reading_the_workflow_loads_no_torch(project):
    last = project.path / "workflow/rules/report.smk"
    last.write_text(last.read_text() + "\nassert 'torch' not in sys.modules\n")
    done = project.snakemake("--list-rules")
    assert done.returncode == 0 and "table" in done.stdout, done.stdout


def test_pipelines_that_retrieve_share_one_database(project):
    document = yaml.safe_load(project.config.read_text(encoding="utf-8"))
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
    project.config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    plan = project.plan("reports/table1.md")
    made = {rule: plan[rule] for rule in ("encode_database", "index_images", "sample")}
    assert made == {"encode_database": 1, "index_images": 1, "sample": 4}
    assert "build_index" not in plan
