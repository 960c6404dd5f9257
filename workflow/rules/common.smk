# What the rules share: the configuration, the names of results, the environment. No torch here: this
# file is read at every start, by every job.
#
# Conda environments and containers, which `snakemake --lint` asks for, are left out: all rules run
# the command line `arrag` of the environment that runs snakemake, and requirements/cpu.txt pins it.
# An environment for each rule would be a second list of versions.
import os
import shlex
import sys
import time
from functools import cache
from pathlib import Path

from arrag.config.root import load_config
from arrag.config.benchmarks import METRICS
from arrag.config.methods import CEILING_LABELS
from arrag.utils.errors import ArragError
from arrag.pipeline.layout import (
    LAST_FILES,
    MICRO,
    MICRO_ASSETS,
    MICRO_REFERENCE,
    RESULTS,
    RETRIEVES,
    TRAINS_ON,
    Layout,
)
from arrag.pipeline.reports import (
    FIGURES,
    TABLES,
    figure4_methods,
    figure5_methods,
    figure7_grids,
    find_method,
    get_grid,
    grid_methods,
    lacking_for,
    tables_of,
    timed_methods,
)
from arrag.utils.locks import RunLock

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
RUN_LOCK = RunLock(RESULTS / ".run")
CEILING_RUN = f"({'|'.join(CEILING_LABELS)})-[0-9a-f]+"


# Two runs in one folder take turns: jobs of one would delete results that the other is reading.
onstart:
    if workflow.is_main_process:
        RUN_LOCK.acquire()


wildcard_constraints:
    run="[^/]+",
    benchmark="[^/]+",


def path_of(part, name):
    """A path of the layout as text, computed on demand short_message it digests checkpoints."""
    return str(told_plainly(getattr(LAYOUT, part), name))


def last_file_of(part, method):
    """The file that completes a folder of the layout."""
    return f"{path_of(part, method)}/{LAST_FILES[part]}"


def folder_of_output(wildcards, output):
    """The folder of a rule's output file, which is written last into it."""
    return Path(output[0]).parent


def by_name(names_of, methods):
    """{name: the first method that has it}, given a function from a method to its results' names.

    A method without its weights makes nothing; whoever asks for its results is told by ``of_name``.
    """
    found, missing = {}, []
    for method in methods:
        try:
            found = {name: method for name in names_of(method)} | found
        except ArragError as error:
            missing.append(f"; {error}")
    return found, missing


def of_name(name, found, missing):
    """What ``by_name`` found under a name."""
    if name not in found:
        wanted = "/".join(name)
        give_up(f"{CONFIG_FILE}: no method of it makes {wanted}{''.join(missing[:1])}")
    return found[name]


@cache
def methods_of_runs(benchmark):
    """Methods and ceilings by the folder names of their samples of a benchmark.

    The rows of its table come first, then what only grids draw.
    """
    rows = []
    if benchmark in CONFIG.benchmarks:
        rows = list(CONFIG.row_labels(benchmark))
        for name, grid in CONFIG.grids.items():
            if (grid.benchmark or CONFIG.main_benchmark) == benchmark:
                rows += grid_methods(CONFIG, name)
    return by_name(lambda row: [("samples", benchmark, LAYOUT.run(row, benchmark))], rows)


def method_of(wildcards):
    """The method or ceiling whose samples of a benchmark are called ``run``."""
    name = ("samples", wildcards.benchmark, wildcards.run)
    return of_name(name, *methods_of_runs(wildcards.benchmark))


def name_in(path):
    """The name of a folder of a stage, which is below ``results/STAGE``."""
    return "/".join(path.relative_to(RESULTS).parts[1:])


@cache
def methods_of_parts():
    """Methods by (part of the layout, its folder's name) that they need."""
    made_for = LAYOUT.made_for
    return by_name(
        lambda method: [(part, name_in(path)) for part, path in made_for(method).items()],
        [*CONFIG.methods, *CONFIG.grid_points],
    )


def method_for(part, name):
    """A method for which the folder ``name`` of a part of the layout is made."""
    return of_name((part, name), *methods_of_parts())


def options(settings):
    """Settings as options of the command line: ``{"level": 4}`` is ``--level 4``.

    What is None or False is left out, True has no value, a tuple is an option of several values, a
    list repeats its option.
    """
    words = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                values = one if isinstance(one, tuple) else () if one is True else (one,)
                words += [option, *map(str, values)]
    return shlex.join(words)
