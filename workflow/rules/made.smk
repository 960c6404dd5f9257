# Which files and folders rules make before anything else, as inputs of those that read them.
import re

from arrag.config.assets import paths_in
from arrag.config.assets import asset_path, sources_of
from arrag.config.hub import FOLDER as HUB
from arrag.config.hub import reference_of


def weights(*paths):
    """What rules must make before the files or folders of some settings can be read; as inputs."""
    found = [(path, asset_path(path, CONFIG.assets)) for path in paths]
    return [ancient(str(made or path)) for path, made in found]


def made_path(path):
    """The same of one path, for an input that a command is given by name."""
    return ancient(str(asset_path(path, CONFIG.assets) or path))


def fetched(*settings):
    """The same of all paths in some blocks; without those that the user puts there."""
    paths = [path for block in settings for _, path in paths_in(block, CONFIG.assets)]
    found = [made for path in paths if (made := asset_path(path, CONFIG.assets))]
    return [ancient(str(path)) for path in dict.fromkeys(found)]


def one_of(names):
    """A wildcard's pattern: one of some paths, or nothing at all."""
    return "|".join(map(re.escape, names)) or "(?!)"


FILES = [name for name, made in CONFIG.assets.items() if not made.folder]
FOLDERS = [name for name, made in CONFIG.assets.items() if made.folder]


def prepare_inputs(wildcards):
    """What an entry of `prepare` is made from."""
    return weights(*sources_of(CONFIG.assets[wildcards.path]).values())
