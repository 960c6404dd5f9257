"""Weights and data sets of a hub, named where a folder is allowed: ``hub:owner/name@revision``.

A reference stands for a folder below ``data/hub`` whose name holds repository and revision, so that
names of results follow from it before anything is downloaded. ``arrag assets get hub:...`` makes
the folder; whatever reads it knows nothing of hubs.

    hub:owner/name@revision                      safetensors, settings and tokenizer of a model
    hub:owner/name@revision#model.bin,*.pt       and further files by name (a pickle must be named)
    hub:datasets/owner/name@revision#images.zip  the same of a data set; a named zip is unpacked
    hub:owner/name@revision:text_encoder         a folder or file inside

Of a repository that is no single model, as a data set is none, only what is named is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from arrag.utils.errors import ArragError
from arrag.utils.readers import escapes_folder

PREFIX = "hub:"
FOLDER = Path("data/hub")
SITE = "https://huggingface.co"
PLAIN = {".safetensors", ".json", ".txt", ".model", ".jinja", ".jsonl", ".yaml"}
"""Ends of the files that are fetched without being named; none of them can hold code."""
PASSED_BY = ("onnx", "openvino", "flax", "tf", "original", "images", "assets", "runs")
"""Folders of the same weights for other programs, or of pictures of a model card."""
INDEX = "model_index.json"  # of a diffusers pipeline

_NAME = r"[A-Za-z0-9][\w.-]*"
_GRAMMAR = re.compile(
    rf"hub:(?P<kind>datasets/)?(?P<repository>{_NAME}/{_NAME})@(?P<revision>[\w./-]+)"
    r"(#(?P<also>[\w./*,-]+))?(:(?P<inside>[\w./ -]+))?"
)
_AS_NAME = str.maketrans({"/": "~", "*": "%", ",": "+"})
_AS_TEXT = str.maketrans({"~": "/", "%": "*", "+": ","})


class Reference(NamedTuple):
    """A repository of a hub at a revision; ``also``: further files that are wanted, by name."""

    repository: str
    revision: str
    also: tuple[str, ...] = ()
    dataset: bool = False

    def __str__(self) -> str:
        named = f"#{','.join(self.also)}" if self.also else ""
        return f"{'datasets/' if self.dataset else ''}{self.repository}@{self.revision}{named}"

    @property
    def repo_type(self) -> str:
        """As the hub's own client calls it."""
        return "dataset" if self.dataset else "model"

    @property
    def page(self) -> str:
        """Where its card and licence can be read and accepted."""
        return f"{SITE}/{'datasets/' if self.dataset else ''}{self.repository}"

    @property
    def folder(self) -> Path:
        """Where it lies once fetched: one folder name, from which the reference can be read."""
        return FOLDER / str(self).translate(_AS_NAME)

    @property
    def fixed(self) -> bool:
        """Whether the revision is a commit, which no one can move."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


def is_reference(text: object) -> bool:
    """Whether a value of a configuration names a hub."""
    return isinstance(text, str) and text.startswith(PREFIX)


def parse(text: str) -> tuple[Reference, str]:
    """A reference and the path inside it, "" for the whole; ValueError says what is wrong."""
    found = _GRAMMAR.fullmatch(text)
    parts = found["repository"].split("/") + [found["inside"] or ""] if found else []
    if not found or ".." in text or any("--" in part for part in parts[:2]):
        raise ValueError(
            f"found '{text}'; wanted hub:owner/name@revision (the revision is a commit or `main`), "
            "with #file,file for files beyond safetensors, and :folder for a part of it"
        )
    also = tuple((found["also"] or "").split(",")) if found["also"] else ()
    reference = Reference(found["repository"], found["revision"], also, bool(found["kind"]))
    return reference, (found["inside"] or "").strip("/")


def local(value: object) -> object:
    """The folder or file that a hub reference stands for; anything else as it is."""
    if not is_reference(value):
        return value
    reference, inside = parse(value)
    return str(reference.folder / inside)


def reference_of(path: str | Path) -> Reference | None:
    """The reference whose folder ``path`` is, or lies in; None if it is none of a hub's."""
    try:
        name = Path(path).relative_to(FOLDER).parts[0]
        return parse(PREFIX + name.translate(_AS_TEXT))[0]
    except (ValueError, IndexError):
        return None


def wanted(names: Iterable[str], also: Sequence[str] = ()) -> list[str]:
    """Which of a repository's files are fetched, sorted.

    Of a pipeline of diffusers the parts' own weights, without a second copy at another precision
    or in one file; of any other model its safetensors, settings and tokenizer; and what ``also``
    names, which may be patterns. Of a repository that is no single model (no config.json at its
    top), only what is named, if anything is. Raises ArragError when a named file is not there, or
    nothing is.
    """
    names = sorted(names)
    if strangers := [name for name in names if escapes_folder(name)]:
        raise ArragError(f"lists a file {strangers[0]!r}, outside of it; name another repository")
    chosen = [name for name in names if _plain(PurePosixPath(name))]
    if INDEX in names:
        chosen = [n for n in chosen if n == INDEX or len(PurePosixPath(n).parts) == 2]
    chosen = [name for name in chosen if not _second_copy(name, set(names))]
    if also and not {INDEX, "config.json"} & set(names):
        chosen = []
    for pattern in also:
        found = [name for name in names if fnmatch(name, pattern)]
        if not found:
            raise ArragError(
                f"no file {pattern} there (there are {', '.join(names[:12])}...); correct the "
                "name behind #"
            )
        chosen += found
    if not chosen:
        raise ArragError(
            f"no safetensors or settings there (there are {', '.join(names[:12])}); name the "
            "files behind #, as in hub:owner/name@main#model.bin"
        )
    return sorted(set(chosen))


def _plain(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    foreign = any(part in PASSED_BY for part in path.parts[:-1])
    return path.suffix in PLAIN and not hidden and not foreign


def _second_copy(name: str, names: set[str]) -> bool:
    """``model.fp16.safetensors`` beside ``model.safetensors``, and copies without averaging."""
    first = re.sub(r"\.(fp16|bf16|non_ema)(?=[.-])", "", name)
    return first != name and first in names
