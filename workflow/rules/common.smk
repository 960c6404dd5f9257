# What the rules share: the configuration, and its plan (arrag/pipeline/plan.py), in which a rule
# looks up the inputs and arguments of its output. No torch: this file is read at every start.
#
# Conda environments and containers, which `snakemake --lint` asks for, are left out: all rules run
# the command line `arrag` of the environment that runs snakemake, and requirements/cpu.txt pins it.
# An environment for each rule would be a second list of versions.
import os
import re
import sys
import time
from pathlib import Path

from arrag.config.assets import asset_path, sources_of
from arrag.config.benchmarks import METRICS
from arrag.config.hub import reference_of
from arrag.config.methods import CEILING_LABELS
from arrag.config.root import load_config
from arrag.data.micro.assets import WHEELS
from arrag.pipeline.layout import RESULTS, TRAINING_INPUTS
from arrag.pipeline.plan import Plan
from arrag.pipeline.artifact import options
from arrag.pipeline.reports import TABLES, tables_of
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_file
from arrag.utils.locks import RunLock

# `arrag` is this environment's, whether it was activated or called by its path.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))


def fail(message):
    """End with one line: an exception would be shown with a traceback through these files."""
    raise SystemExit(f"arrag: error: {message}")


def plainly(function, *args):
    """Call a function of arrag; its error ends the run with its message alone."""
    try:
        return function(*args)
    except ArragError as error:
        fail(error)


def configuration_file():
    """The one file that describes this run; the stages read it themselves."""
    if workflow.config_settings.config or len(workflow.configfiles) > 1:
        fail(
            "one configuration file describes a run: copy config/micro.yaml, change the copy and "
            "name it with --configfile (found --config values or several files)"
        )
    path = workflow.configfiles[0] if workflow.configfiles else Path("config/micro.yaml")
    return os.path.relpath(path)


# Rules pass this name to the stages as a resource: a param would make a renamed copy of the file
# recompute everything, while what is in the file comes with each result's name.
CONFIG_FILE = configuration_file()
CONFIG = plainly(load_config, CONFIG_FILE)
PLAN = Plan(CONFIG)
RUN_LOCK = RunLock(RESULTS / ".run")
THREADS = CONFIG.resources.threads
WORKERS = CONFIG.resources.encode_workers
GPUS = 1 if CONFIG.scale == "paper" else 0  # of a job that runs a model
CEILING_RUN = f"({'|'.join(CEILING_LABELS)})-[0-9a-f]+"


# Two runs in one folder take turns: jobs of one would delete results that the other is reading.
onstart:
    if workflow.is_main_process:
        RUN_LOCK.acquire()


wildcard_constraints:
    run="[^/]+",
    benchmark="[^/]+",


def planned(pattern, wildcards):
    """The artifact at the path that wildcards make of a pattern."""
    return plainly(PLAN.__getitem__, pattern.format(**wildcards))


def inputs_of(pattern):
    """An input function: what the artifact at ``pattern`` is made from."""

    def inputs(wildcards):
        artifact = planned(pattern, wildcards)
        given = {name: ancient(path) for name, path in artifact.given.items()}
        return given | artifact.inputs

    return inputs


def parts_of(pattern):
    """An input function: the files of the jobs that share the work on the artifact."""
    return lambda wildcards: planned(pattern, wildcards).parts


def argument(pattern, name):
    """A function for `params` or `resources`: an argument of the artifact's command."""
    return lambda wildcards: planned(pattern, wildcards).arguments[name]


def method_of(pattern):
    """Likewise the method to name to the command; any that makes the same artifact will do."""
    return lambda wildcards: planned(pattern, wildcards).method


def folder_of_output(wildcards, output):
    """The folder of a rule's output file, which is written last into it."""
    return Path(output[0]).parent


def prepared_paths(folders):
    """A wildcard's pattern: one of the paths of `assets` that are folders, or files."""
    names = [name for name, made in CONFIG.assets.items() if made.folder == folders]
    return "|".join(map(re.escape, names)) or "(?!)"


def prepare_inputs(wildcards):
    """What an entry of `assets` is made from."""
    sources = sources_of(CONFIG.assets[wildcards.path]).values()
    return [ancient(str(asset_path(path, CONFIG.assets) or path)) for path in sources]


def found_reports(wildcards):
    """Names and digests of reports that the page shows if they are there; no input names them."""
    patterns = ("table4.csv", "ablation_*.csv", "ablation_*.png", "figures/*.png")
    found = sorted(path for pattern in patterns for path in Path("reports").glob(pattern))
    return [[str(path), sha256_file(path)] for path in found]


def results_marker():
    """A file as old as results/, newer than any report that came with a clone.

    Snakemake sees a report, no sign that its inputs changed, and takes it for up to date even when
    no result exists. Reports therefore depend on this file too.
    """
    marker = RESULTS / ".since"
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{time.time_ns()}\n")
    return str(marker)


SINCE = results_marker()
