"""Variants of config/micro.yaml."""

from pathlib import Path

import yaml

from arrag.config.root import Config

CONFIGS = Path(__file__).resolve().parents[2] / "config"
TEXT = (CONFIGS / "micro.yaml").read_text(encoding="utf-8")


def document():
    """The micro configuration as a dictionary."""
    return yaml.safe_load(TEXT)


def changed(*, janus=None, **parts):
    """The micro configuration with nested values replaced: changed(index={"nprobe": 8})."""
    found = document()
    found["generators"]["janus"] |= janus or {}
    del found["grids"]  # they vary what is replaced here
    for name, value in parts.items():
        found[name] = found[name] | value if isinstance(value, dict) else value
    return Config.model_validate(found)


def hashes(config):
    """The hash of every method."""
    return {name: config.config_hash(name) for name in config.methods}
