"""Reading a configuration file: YAML 1.2, and ``base: OTHER.yaml`` for a file that changes another.

Nothing here knows what a configuration may hold; that is ``arrag.config.schema``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from arrag.config.base import deep_merge
from arrag.utils.errors import ArragError, ConfigError, MissingError
from arrag.utils.readers import read_text, short_message

BASE = "base"
MAX_NODES = 200_000
"""Of a file with its aliases expanded: nine lines of them may stand for a billion."""
MAX_DIGITS = 40
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of characters, which no file name or label holds."""
UNREADABLE = (YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError)
"""What ruamel.yaml raises for a number, a date or a tag that is invalid."""


def read_config(path: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file's mapping, merged over that of the file it names under ``base``, if any.

    Blocks in both are merged key by key; anything else, lists too, replaces the base's, and null
    removes a whole block.

    Args:
        path: A YAML file. ``base`` in it is a path relative to it.
        seen: Files that are based on this one.

    Raises:
        ConfigError: As ``read_yaml``, and for a file that is based on itself.
    """
    path = Path(path)
    document = read_yaml(path)
    if BASE not in document:
        return document
    name = document.pop(BASE)
    if not isinstance(name, str):
        hint = "name a file, relative to this one"
        raise ConfigError(f"found {name!r}", path=path, field=BASE, hint=hint)
    other = path.parent / name
    seen = (*seen, path.resolve())
    if other.resolve() in seen:
        message = f"{name} is in turn based on this file"
        raise ConfigError(message, path=path, field=BASE, hint="break the circle")
    merged = deep_merge(read_config(other, seen), document)
    return {key: value for key, value in merged.items() if value is not None}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        MissingError: There is no such file; the hint names those in its folder.
        ConfigError: It is malformed, empty, no mapping, or a key is given twice.
    """
    path = Path(path)
    if not path.exists():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"there are {', '.join(near)}" if near else None
        raise MissingError("no such file", path=path, hint=hint)
    text = read_text(path, "it", "name a YAML file")
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        if node is not None:
            _check_nodes(node)
        document = node and yaml.constructor.construct_document(node)
    except RecursionError:
        raise ConfigError("not valid YAML (nested too deeply)", path=path) from None
    except UNREADABLE as error:
        message = f"not valid YAML ({short_message(error)})"
        raise ConfigError(message, path=path, hint="correct that place") from None
    except ArragError as error:
        raise ConfigError(error.message, path=path, field=error.field, hint=error.hint) from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        hint = "write `key: value` lines; start from config/micro.yaml"
        raise ConfigError(f"found {found}", path=path, hint=hint)
    return document


def _check_nodes(root: Node) -> None:
    """Refuse aliases that expand without end, and what is no text, number or key."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size_of(node: Node) -> int:
        """Number of nodes below ``node`` with its aliases expanded."""
        if id(node) in sizes:
            return sizes[id(node)]
        line = f"line {node.start_mark.line + 1}"
        if id(node) in open_nodes:
            raise ConfigError("an alias stands inside the block it names", field=line)
        children: list[Node] = []
        if isinstance(node, ScalarNode):
            if found := NO_TEXT.search(node.value):
                raise ConfigError(f"holds the character {ascii(found[0])}", field=line)
            if str(node.tag).endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
                raise ConfigError(f"holds a number of {len(node.value)} digits", field=line)
        elif isinstance(node, MappingNode):
            if not all(isinstance(key, ScalarNode) for key, _ in node.value):
                raise ConfigError("a key is a list or a block", field=line, hint="write a text")
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value
        open_nodes.add(id(node))
        size = 1 + sum(map(size_of, children))
        open_nodes.remove(id(node))
        if size > MAX_NODES:
            raise ConfigError(f"its aliases expand to more than {MAX_NODES} values", field=line)
        sizes[id(node)] = size
        return size

    size_of(root)
