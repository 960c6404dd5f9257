"""What planning costs: jobs and CPU seconds of dry runs, and of starting a finished run again.

    python benchmarks/speed/plan.py --json

A run counts as finished when every file that it makes is there and recorded; here each holds one
word, as planning reads no result. `paper, 100 M images` is the paper's configuration with corpora
of that size, in tars of 5000 images. Reading checkpoints for their digests is part of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from arrag.config.hub import FOLDER as HUB
from arrag.config.root import load_config

ROOT = Path(__file__).resolve().parents[2]
COPIED, LINKED = ("workflow", "profiles", "config", "Snakefile"), ("checkpoints", "benchmarks")
PLANS = ("micro", "paper-mini", "paper", "paper, 100 M images")
FINISHED = ("micro", "paper")
LARGE = 100_000_000
IMAGES_IN_TAR = 5000
PAPER_IMAGES = 13_600_000
HIGHEST = {"jobs": 10_000, "plan": 60, "resume": 10}  # CPU seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = copied(Path(folder))
        for name in PLANS:
            config = "large.yaml" if name == PLANS[-1] else f"config/{name}.yaml"
            said, seconds = snakemake(place, config, "-n", "--quiet", "rules")
            rows.append({"configuration": name, "jobs": jobs(said), "plan": round(seconds, 1)})
        for name in FINISHED:
            finish(place, f"config/{name}.yaml")
            said, seconds = snakemake(place, f"config/{name}.yaml")
            row = next(row for row in rows if row["configuration"] == name)
            row |= {"resume": round(seconds, 1), "run again": jobs(said)}
    print(json.dumps(rows) if args.json else markdown(rows))
    return int(any(row.get(figure, 0) > most for row in rows for figure, most in HIGHEST.items()))


def copied(place: Path) -> Path:
    """The project's workflow, with a configuration of a large database beside its own."""
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)
    for name in LINKED:
        (place / name).symlink_to(ROOT / name)
    large = enlarged(yaml.safe_load((ROOT / "config/paper.yaml").read_text()), LARGE)
    (place / "large.yaml").write_text(yaml.safe_dump(large, sort_keys=False))
    return place


def enlarged(raw: dict, images: int) -> dict:
    """The paper's configuration with so many images in its corpora, not 13.6 million."""
    methods = raw["methods"].values()
    databases = [raw["database"], *(m["database"] for m in methods if "database" in m)]
    samples = [sample for database in databases for sample in database["sources"]]
    for sample in {id(sample): sample for sample in samples}.values():  # YAML's anchors
        sample["images"] = sample["images"] * images // PAPER_IMAGES
        last = -(-sample["images"] // IMAGES_IN_TAR) - 1
        corpus = sample["source"].split("/")[1]
        sample["source"] = f"data/{corpus}/{corpus}-{{000000..{last:06d}}}.tar"
    return raw


def finish(place: Path, config: str) -> None:
    """Put every file in place that a run would make, and let snakemake record it."""
    prepared = load_config(place / config).assets
    folders = {name for name, made in prepared.items() if made.folder}
    said, _ = snakemake(place, config, "--summary")
    for line in said.split("output_file", 1)[1].splitlines()[1:]:
        path = place / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_relative_to(place / HUB) or str(path.relative_to(place)) in folders:
            path.mkdir()
        else:
            path.write_text("made\n")
    snakemake(place, config, "--touch", "--forceall", "--quiet", "all")


def snakemake(place: Path, config: str, *options: str) -> tuple[str, float]:
    """What it said of the target `all`, and its CPU seconds."""
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begun = used()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *options]
        + ["--configfile", config, "--", "all"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"plan: error: snakemake {' '.join(options)} of {config} failed:\n{done.stdout}")
    return done.stdout, used() - begun


def used() -> float:
    """CPU seconds of the processes that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def jobs(said: str) -> int:
    """How many jobs snakemake had to run."""
    found = re.search(r"^total +(\d+)$", said, re.M)
    if found is None and "Nothing to be done" not in said:
        sys.exit(f"plan: error: no number of jobs in what snakemake said:\n{said}")
    return int(found[1]) if found else 0


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    columns = ("configuration", "jobs", "plan", "resume", "run again")
    heads = ("configuration", "jobs", "plan, CPU s", "start a finished run, CPU s", "jobs then")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
