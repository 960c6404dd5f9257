# What the rules share: the configuration, the names of results, the environment. No torch here: this
# file is read at every start, by every job.
#
# Conda environments and containers, which `snakemake --lint` asks for, are left out: all rules run
# the command line `arrag` of the environment that runs snakemake, and requirements/cpu.txt pins it.
# An environment for each rule would be a second list of versions.
import os
import sys
import time
from pathlib import Path

from arrag.config import CEILING_LABELS, load_config
from arrag.errors import ArragError
from arrag.layout import MICRO, MICRO_ASSETS, RESULTS, Layout

# `arrag` is this environment's, whether it was activated or called by its path.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))


def give_up(message):
    """End with one line: an exception would be shown with a traceback through these files."""
    raise SystemExit(f"arrag: error: {message}")


def told_plainly(function, *args):
    """Call a function of arrag; its error ends the run with its message alone."""
    try:
        return function(*args)
    except ArragError as error:
        give_up(error)


def configuration_file():
    """The one file that describes this run; the stages read it themselves."""
    if workflow.config_settings.config or len(workflow.configfiles) > 1:
        give_up(
            "one configuration file describes a run: copy config/micro.yaml, change the copy and "
            "name it with --configfile (found --config values or several files)"
        )
    path = workflow.configfiles[0] if workflow.configfiles else Path("config/micro.yaml")
    return os.path.relpath(path)


# Rules hand this name to the stages as a resource: a param would make a renamed copy of the file
# recompute everything, while what is in the file comes with each result's name.
CONFIG_FILE = configuration_file()
CONFIG = told_plainly(load_config, CONFIG_FILE)
LAYOUT = Layout(CONFIG)
ROWS = [*CONFIG.methods, *CEILING_LABELS]
CEILING_RUN = f"({'|'.join(CEILING_LABELS)})-[0-9a-f]+"


# Models that retrieve images, and kinds of adapters, of the methods.
CLIPS = {
    method.augment.clip
    for method in CONFIG.methods.values()
    if method.augment is not None and method.augment.kind == "racm3"
}
ADAPTER_KINDS = {
    method.augment.kind
    for method in CONFIG.methods.values()
    if method.augment is not None and method.augment.kind != "daid"
}


wildcard_constraints:
    run="[^/]+",


def path_of(part, *method):
    """A path of the layout as text, computed on demand because it digests checkpoints."""
    if method:
        return str(told_plainly(getattr(LAYOUT, part), *method))
    return str(told_plainly(getattr, LAYOUT, part))


def folder_of_output(wildcards, output):
    """The folder of a rule's output file, which is written last into it."""
    return Path(output[0]).parent


def method_of(run):
    """The method or ceiling whose samples are called ``run``."""
    for name in ROWS:
        if told_plainly(LAYOUT.run, name) == run:
            return name
    give_up(f"{CONFIG_FILE}: no method of it makes samples called {run}")


def sample_inputs(wildcards):
    """The generator, the prompts, and what this method adds to them."""
    inputs = {
        "checkpoint": ancient(str(CONFIG.backbone.checkpoint)),
        "prompts": ancient(str(CONFIG.benchmark.prompts)),
    }
    method = method_of(wildcards.run)
    augment = CONFIG.method(method).augment
    if augment is None:
        return inputs
    if "database" in augment.needs:
        inputs["codes"] = f"{path_of('codes')}/manifest.json"
    if "index" in augment.needs:
        inputs["index"] = f"{path_of('index')}/meta.json"
    if augment.kind == "racm3":
        inputs["image_index"] = f"{path_of('image_index', augment.clip)}/meta.json"
    if CONFIG.method(method).is_trained_here:
        inputs["adapter"] = f"{path_of('adapter', method)}/config.json"
    elif augment.kind != "daid":
        inputs["adapter"] = ancient(f"{augment.adapter}/config.json")
    return inputs


def image_retriever(name):
    """Folder of the open_clip model called ``name`` that some method retrieves images with."""
    for clip in CLIPS:
        if clip.name == name:
            return clip
    give_up(f"{CONFIG_FILE}: no method of it retrieves images with a model called {name}")


def adapter_of(kind):
    """Folder of the adapter that the configuration trains of a kind."""
    clip = next(iter(CLIPS)) if kind == "racm3" else None
    return told_plainly(LAYOUT.trained_adapter, kind, clip)


def adapter_inputs(wildcards):
    """What training a kind of adapter reads."""
    inputs = {
        "checkpoint": ancient(str(CONFIG.backbone.checkpoint)),
        "pairs": f"{path_of('pairs')}/pairs.json",
    }
    if wildcards.kind == "faid":
        inputs["index"] = f"{path_of('index')}/meta.json"
        inputs["retrieved"] = f"{path_of('neighbours')}/manifest.json"
    if wildcards.kind == "racm3":
        clip = next(iter(CLIPS))
        inputs["index"] = f"{path_of('image_index', clip)}/meta.json"
        inputs["retrieved"] = f"{path_of('references', clip)}/manifest.json"
    return inputs


def newborn_results():
    """A file as old as results/, newer than any report that came with a clone.

    Snakemake sees a report, no sign that its inputs changed, and takes it for up to date even when
    no result exists. Reports therefore depend on this file too.
    """
    marker = RESULTS / ".since"
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{time.time_ns()}\n")
    return str(marker)
