# What is not in the repository and no stage makes: weights and data of a hub, files by address, and
# what is converted from them. They are in data/; their names, or the block `prepare`, say what they
# are, so that everything is planned before they are there.
import re

from arrag.config_paths import paths_in
from arrag.config_prepare import placed, sources_of
from arrag.hub import FOLDER as HUB
from arrag.hub import reference_of


def weights(*paths):
    """What rules must make before the files or folders of some settings can be read; as inputs."""
    found = [(path, placed(path, CONFIG.prepare)) for path in paths]
    return [ancient(str(made or path)) for path, made in found]


def made_path(path):
    """The same of one path, for an input that a command is given by name."""
    return ancient(str(placed(path, CONFIG.prepare) or path))


def fetched(*settings):
    """The same of all paths in some blocks; without those that the user puts there."""
    paths = [path for block in settings for _, path in paths_in(block, CONFIG.prepare)]
    found = [made for path in paths if (made := placed(path, CONFIG.prepare))]
    return [ancient(str(path)) for path in dict.fromkeys(found)]


def one_of(names):
    """A wildcard's pattern: one of some paths, or nothing at all."""
    return "|".join(map(re.escape, names)) or "(?!)"


FILES = [name for name, made in CONFIG.prepare.items() if not made.folder]
FOLDERS = [name for name, made in CONFIG.prepare.items() if made.folder]


def prepare_inputs(wildcards):
    """What an entry of `prepare` is made from."""
    return weights(*sources_of(CONFIG.prepare[wildcards.path]).values())


rule fetch_hub:
    output:
        directory(str(HUB / "{reference}")),
    log:
        "logs/fetch_hub/{reference}.log",
    wildcard_constraints:
        reference="[^/]+",
    priority: 30  # a gated or missing repository is found before hours are spent
    resources:
        download=1,
    params:
        reference=lambda wildcards: f"hub:{reference_of(HUB / wildcards.reference)}",
    shell:
        "arrag download hub {params.reference:q} > {log:q} 2>&1"


rule prepare_file:
    input:
        prepare_inputs,
    output:
        "{path}",
    log:
        "logs/prepare/{path}.log",
    wildcard_constraints:
        path=one_of(FILES),
    resources:
        config=CONFIG_FILE,
    params:
        entry=lambda wildcards: CONFIG.prepare[wildcards.path].model_dump_json(),
    shell:
        "arrag prepare {wildcards.path:q} --config {resources.config:q} > {log:q} 2>&1"


rule prepare_folder:
    input:
        prepare_inputs,
    output:
        directory("{path}"),
    log:
        "logs/prepare/{path}.log",
    wildcard_constraints:
        path=one_of(FOLDERS),
    resources:
        config=CONFIG_FILE,
    params:
        entry=lambda wildcards: CONFIG.prepare[wildcards.path].model_dump_json(),
    shell:
        "arrag prepare {wildcards.path:q} --config {resources.config:q} > {log:q} 2>&1"
