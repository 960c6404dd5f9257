"""``arrag config``: check a configuration file, write the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrag.cli.common import DEFAULT_CONFIG, group

app = group("config", "Check configuration files.")


@app.command
def check(path: Path = DEFAULT_CONFIG, /) -> dict[str, Any]:
    """Check a configuration file; show the digest that identifies each method's samples.

    Example: arrag config check config/micro.yaml

    Args:
        path: A configuration file.
    """
    from arrag.config.root import load_config

    config = load_config(path)
    return {
        "config": path,
        "scale": config.scale,
        "generators": {name: settings.kind for name, settings in config.generators.items()},
        "methods": {
            method: {
                name: config.config_hash(method, name)
                for name in config.benchmarks
                if method in config.methods_in(name)
            }
            for method in config.methods
        },
    }


@app.command
def schema(*, out: Path | None = None) -> dict[str, Any]:
    """Print or write the JSON schema of configuration files.

    Example: arrag config schema --out workflow/schemas/config.schema.json

    Args:
        out: File to write; without it the schema is printed.
    """
    from arrag.config.root import config_schema
    from arrag.utils.files import write_json

    if out is None:
        return config_schema()
    write_json(out, config_schema())
    return {"schema": out}
