"""YAML of a configuration, without YAML's traps and without what has no end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from arrag.utils.errors import ArragError
from arrag.utils.readers import read_text, short_message

MOST_NODES = 200_000
"""Of a file whose aliases are written out: nine lines of them may stand for a billion."""
LONGEST_NUMBER = 40  # characters
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Controls and halves of characters, of which no name of a file and no label is made."""
UNREADABLE = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
)
"""What PyYAML's own constructors raise at a number, a date or a tag that is none."""


class _Loader(yaml.SafeLoader):
    """YAML without two of its traps: ``1e-3`` is a number, and a key given twice is an error."""


# YAML 1.1 wants a dot in a float: without this, `lam: 1e-3` would be text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            line = key_node.start_mark.line + 1
            raise ArragError(f"a key at line {line} is a list or a block; write a text")
        key = loader.construct_object(key_node)
        if key in seen:
            line = node.start_mark.line + 1
            raise ArragError(f"'{key}' is given twice in the block at line {line}; keep one")
        seen.add(key)
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's mapping; ArragError if it is missing, malformed, empty or not a mapping."""
    path = Path(path)
    if not path.exists():
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        there = f"; there are {', '.join(near)}" if near else ""
        raise ArragError(f"{path}: no such file{there}")
    text = read_text(path, "it", "name a YAML file")
    try:
        document = _load(text)
    except RecursionError:
        raise ArragError(f"{path}: not valid YAML (nested too deeply); correct that") from None
    except UNREADABLE as error:
        raise ArragError(
            f"{path}: not valid YAML ({short_message(error)}); correct that place"
        ) from None
    except ArragError as error:
        raise ArragError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise ArragError(
            f"{path}: found {found}, wanted `key: value` lines; start from config/micro.yaml"
        )
    return document


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {}, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, sizes: dict[int, int], above: set[int]) -> int:
    """How many nodes a node stands for, its aliases written out.

    sizes: of nodes met before, by identity; above: those that hold it. ArragError for one that
    holds itself, for too many, and for a text or a number that is none.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ArragError(f"an alias of the block at line {line} stands inside that block")
    size = 1
    if isinstance(node, yaml.ScalarNode):
        if found := NO_TEXT.search(node.value):
            raise ArragError(f"line {line} holds the character {ascii(found[0])}; take it away")
        if node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
            raise ArragError(f"line {line} holds a number of {len(node.value)} digits; correct it")
    else:
        held = node.value
        if isinstance(node, yaml.MappingNode):
            held = [part for pair in node.value for part in pair]
        above.add(id(node))
        size += sum(_written_out(part, sizes, above) for part in held)
        above.remove(id(node))
    if size > MOST_NODES:
        raise ArragError(f"the aliases in the block at line {line} stand for more than a file may")
    sizes[id(node)] = size
    return size
