"""A copy of the project whose whole Table 1 takes a minute, and its workflow in a process group."""

import json
import os
import shutil
import signal
import sys
import time
from base64 import urlsafe_b64decode
from contextlib import suppress
from pathlib import Path

import yaml
from background import Background

from arrag.utils.hashing import sha256_file

TRAINING = {
    "pairs": 24, "held_out": 8, "global_batch": 4, "source": "micro", "epochs": 1.0,
    "learning_rate": 0.001, "lora": {"r": 4, "alpha": 8.0},
    "faid": {"k": 3, "hops": [1], "init_gain": 0.1},
}  # fmt: skip
# Every kind of stage; all in float64, as float32 may change an image with the batch, as after a
# kill. FAiD's adapter is trained here.
METHODS = {
    "daid": {"label": "DAiD", "augment": {"kind": "daid", "k": 5, "lam": 0.1, "tau": 0.2}},
    "faid": {"label": "FAiD", "augment": {"kind": "faid", "k": 3}},
    "racm3": {
        "label": "RA-CM3",
        "augment": {
            "kind": "racm3",
            "adapter": "checkpoints/micro-racm3",
            "clip": "checkpoints/micro-retriever",
        },
    },
}
OUTPUTS = (
    "results/*/**/manifest.json", "results/*/*/meta.json", "results/pairs/*/pairs.json",
    "results/adapters/*/config.json", "results/samples/*/*/run.json", "results/scores/*/*/*.json*",
    "reports/*",
)  # fmt: skip
MADE = (
    *OUTPUTS, "results/samples/**/*.png", "results/**/shard-*.npy", "results/**/*.safetensors",
    "results/**/*.f32", "results/**/*.jsonl",
)  # fmt: skip
"""Files that rules declare as outputs; and all that must not depend on kills."""


class SmallProject:
    """A copy of the repository at ``path`` with one prompt a task; its pictures are linked."""

    def __init__(self, path: Path, root: Path, assets: Path, methods: tuple[str, ...]) -> None:
        self.path = path
        for part in ("workflow", "profiles", "config", "checkpoints", "benchmarks"):
            shutil.copytree(root / part, path / part)
        shutil.copy(root / "Snakefile", path)
        (path / "data").symlink_to(assets.parent)
        document = yaml.safe_load((path / "config/micro-ci.yaml").read_text())
        geneval = document["benchmarks"]["geneval"]
        prompts = (path / geneval["prompts"]).read_text().splitlines(keepends=True)
        (path / "prompts.jsonl").write_text("".join(prompts[::2]))  # the table wants all tasks
        geneval |= {"prompts": "prompts.jsonl", "images_per_prompt": 1}
        document["benchmarks"] = {"geneval": geneval}
        document["generators"].pop("showo")
        document["database"] |= {"images": 40, "shard_size": 10}
        document["methods"] = {name: METHODS[name] for name in methods}
        document |= {"training": TRAINING, "grids": {}}
        document.pop("figures")
        document.pop("timing")
        resources = {"batch_size": 2, "encode_batch_size": 10, "train_batch_size": 4}
        document["resources"] = resources | {"save_minutes": 0.001}
        (path / "config/micro.yaml").write_text(yaml.safe_dump(document))

    def start(self, *options: object, target: str = "reports/table1.md", **others) -> Background:
        """Start the workflow, on two cores if no option is given."""
        options = options or ("--cores", "2")
        command = [sys.executable, "-m", "snakemake", *options, "--", target]
        return Background(command, cwd=self.path, **others)

    def run_two_at_once(self) -> list[str]:
        """Start the same workflow twice; both must end well. What each said."""
        return [run.finish() for run in [self.start(), self.start()]]

    def kill_after(self, files: int, seconds: float, alone: bool = False) -> bool:
        """Start the workflow, kill -9 all of it when it has made some files, and some time after.

        alone: kill snakemake only, so that its jobs go on without it. False if it ended before.
        """
        process, before = self.start(), self._visible()
        while process.poll() is None and self._visible() < before + files:
            time.sleep(0.05)
        time.sleep(seconds)
        ended = process.poll() is not None
        with suppress(ProcessLookupError):  # it ended with all its jobs
            (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        return not ended

    def _visible(self) -> int:
        """How many files the results have; also those of unfinished jobs."""
        walk = os.walk(self.path / "results")
        return sum(not name.startswith(".") for _, _, names in walk for name in names)

    def products(self) -> dict[str, str]:
        """Digests of all that must not depend on kills, by path."""
        return {self._name(path): sha256_file(path) for path in self._found(MADE)}

    def whole(self) -> dict[str, tuple[int, int]]:
        """(inode, time of change) of what is complete: images, shards, outputs of finished jobs."""
        # A record is written again with its result.
        finished = [p for p in self._found(OUTPUTS) if not p.name.endswith(".record.json")]
        found = {path for path in finished if self._name(path) not in self._unfinished()}
        found |= {path for path in self._found(("results/samples/**/*.png",))}
        for path in self.path.glob("results/**/manifest.json"):
            shards = json.loads(path.read_text())["shards"]
            found |= {path.parent / shard["file"] for shard in shards}
        for begun in self.path.glob("results/**/manifest.partial.json"):
            found |= {*begun.parent.glob("shard-*.npy")}
        return {self._name(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}

    def _found(self, patterns: tuple[str, ...]) -> list[Path]:
        found = {path for pattern in patterns for path in self.path.glob(pattern)}
        seen = {p for p in found if p.is_file() and not p.name.startswith(".")}
        return sorted(p for p in seen if ".work/" not in self._name(p))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.path))

    def _unfinished(self) -> set[str]:
        """Outputs that snakemake takes for incomplete: it wrote down that their jobs began."""
        folder = self.path / ".snakemake/incomplete"
        coded = [path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()]
        return {urlsafe_b64decode("".join(c).replace("@", "")).decode() for c in coded}

    def left_over(self) -> list[Path]:
        """Hidden files of writers among the results."""
        found = self.path.glob("results/**/.*")
        kept = (".run", ".run.lock", ".since", ".arrag.json")
        return [path for path in found if path.name not in kept]

    def clean(self) -> None:
        """As it was before the first run."""
        for name in ("results", "reports", ".snakemake", "logs"):
            shutil.rmtree(self.path / name, ignore_errors=True)
