"""A copy of the workflow with stand-in checkpoints and prompts, and its dry runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = ("reports/table1.md", "reports/samples.png")
TABLES = ("reports/table1.md", "reports/table2.md", "reports/table3.md")
MODELS = (
    "janus",
    "showo",
    "showo-faid",
    "detector",
    "clip",
    "retriever",
    "finetune",
    "faid",
    "racm3",
)
TABLE1_PLAN = {
    "fetch_assets": 1,
    "encode_database": 1,
    "build_index": 1,
    "index_images": 1,
    "sample": 6,
    "sample_ceiling": 2,
    "score_geneval": 8,
    "table": 1,
}


def make_template(path: Path) -> Path:
    """Write the project's workflow files with stand-in checkpoints and prompts to ``path``."""
    for part in ("workflow", "profiles", "config"):
        shutil.copytree(REPOSITORY / part, path / part)
    shutil.copy(REPOSITORY / "Snakefile", path)
    for name in (f"micro-{model}" for model in MODELS):
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


class WorkflowProject:
    """A folder with the workflow in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config/micro.yaml"
        self.python = Path(sys.executable)

    def start(self, *arguments: str) -> subprocess.Popen:
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

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run snakemake to its end."""
        process = self.start(*arguments)
        stdout, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout)

    def plan(self, *arguments: str) -> dict[str, int]:
        """{rule: jobs} of a dry run, targets not counted."""
        done = self.snakemake("--dry-run", *(arguments or TARGETS))
        assert done.returncode == 0, done.stdout
        assert "Exception" not in done.stdout, done.stdout
        self.said = done.stdout
        stats = re.search(r"^job +count\n[- ]+\n(.*?)^total", done.stdout, re.M | re.S)
        assert stats or "Nothing to be done" in done.stdout, done.stdout
        lines = stats[1].splitlines() if stats else []
        return {name: int(count) for name, count in map(str.split, lines)}

    def edit(self, old: str, new: str) -> None:
        """Replace text in the configuration."""
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new), encoding="utf-8")

    def finish(self, *targets: str) -> None:
        """Pretend that everything was made: put every file in place and let snakemake record it."""
        summary = self.snakemake("--summary", *targets).stdout
        for line in summary.split("output_file", 1)[1].splitlines()[1:]:
            path = self.path / line.split("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("made\n")
        done = self.snakemake("--touch", "--forceall", *targets)
        assert done.returncode == 0, done.stdout

    def error(self, *targets: str) -> str:
        """The one line, without a traceback, in which a dry run ends."""
        done = self.snakemake("--dry-run", *targets)
        assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
        (line,) = [t for t in done.stdout.splitlines() if t.startswith("arrag: error: ")]
        return line
