"""Write the generated parts of the reference before a build: configuration tables, public names.

They go to ``docs/reference/_generated`` and are included by the pages of the reference.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from cyclopts.docs.markdown import generate_markdown_docs
from sphinx.application import Sphinx

from arrag.cli.main import COMMANDS, build_app

DOCS = Path(__file__).resolve().parent
SCHEMA = DOCS.parent / "workflow/schemas/config.schema.json"
OUT = DOCS / "reference/_generated"
PACKAGES = (
    "config", "data", "tokenizers", "retrieval", "backbones", "methods", "training", "metrics",
    "pipeline", "report", "utils",
)  # fmt: skip


def configuration() -> str:
    """Return one section with a table of fields for each object of the configuration's schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    lines = _section("Top level", schema)
    for name, definition in sorted(schema.get("$defs", {}).items()):
        if definition.get("properties"):
            lines += _section(name, definition)
    return "\n".join(lines)


def command_line() -> str:
    """Return a section for every command, from its signature and docstring."""
    app = build_app(*COMMANDS)
    return generate_markdown_docs(app, heading_level=2, no_root_title=True, generate_toc=False)


def public_api() -> str:
    """Return autodoc entries for the public names of every package."""
    lines: list[str] = []
    for package in PACKAGES:
        module = importlib.import_module(f"arrag.{package}")
        lines += [f"## arrag.{package}", "", *(module.__doc__ or "").splitlines(), ""]
        lines += ["```{eval-rst}"]
        for name in sorted(getattr(module, "__all__", ())):
            value = getattr(module, name)
            where = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', name)}"
            if isinstance(value, type):
                lines += [f".. autoclass:: {where}", "   :members:", ""]
            elif callable(value) and not hasattr(value, "__self__"):  # not a registry's decorator
                lines += [f".. autofunction:: {where}", ""]
        lines += ["```", ""]
    return "\n".join(lines)


def _section(name: str, definition: dict) -> list[str]:
    lines = [f"## {name}", "", definition.get("description", "").split("\n\n")[0], ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    required = definition.get("required", ())
    for field, about in definition["properties"].items():
        default = "required" if field in required else f"`{json.dumps(about.get('default'))}`"
        text = " ".join(about.get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{field}` | {_type(about)} | {default} | {text} |")
    return [*lines, ""]


def _type(about: dict) -> str:
    if "$ref" in about:
        return about["$ref"].rpartition("/")[2]
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if "enum" in about:
        return ", ".join(f"`{json.dumps(value)}`" for value in about["enum"])
    choices = about.get("anyOf") or about.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}))}"
    if isinstance(about.get("additionalProperties"), dict):
        return f"mapping of {_type(about['additionalProperties'])}"
    return str(about.get("type", "any"))


def write_pages(app: Sphinx) -> None:
    """Write the files; files that would not change are left alone."""
    OUT.mkdir(exist_ok=True)
    pages = {"configuration": configuration, "command-line": command_line, "public-api": public_api}
    for name, write in pages.items():
        path, text = OUT / f"{name}.md", write()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Connect to the build."""
    app.connect("builder-inited", write_pages)
    return {"version": "1", "parallel_read_safe": True}
