"""Sources in many files: what a pattern names, whether it is there or not, and runs of it.

Nothing is imported that takes time: a workflow is planned with this.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from arrag.utils.errors import ArragError

TARS = (".tar", ".tar.gz", ".tgz")
PARQUET = ".parquet"
MOST_FILES = 100_000


def is_tars(source: str) -> bool:
    """Whether a source of ``arrag db encode`` is tars."""
    return source.endswith(TARS)


@lru_cache(maxsize=256)
def files_of(source: str) -> tuple[str, ...]:
    """The files of brace patterns that are joined by ``::``; any other source as it is.

    Raises ArragError for a pattern that is none, or one of more than MOST_FILES.
    """
    from braceexpand import braceexpand

    if not source.endswith((*TARS, PARQUET)):
        return (source,)
    try:
        files = ()
        if sum(map(_most, source.split("::"))) <= MOST_FILES:
            files = tuple(file for part in source.split("::") for file in braceexpand(part))
    except (ValueError, RecursionError) as error:
        raise ArragError(f"{source}: no pattern of files ({error}); correct its braces") from None
    if not files:
        raise ArragError(f"{source}: stands for more than {MOST_FILES} files; name fewer")
    return files


def _most(pattern: str) -> int:
    """At most so many files: ``braceexpand`` holds a whole range before it gives the first."""
    files = 1
    for group in re.findall(r"\{([^{}]*)\}", pattern):
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(\.\.-?\d+)?", group)
        if ends and len(group) > 40:
            return MOST_FILES + 1
        files *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else group.count(",") + 1
    return files


@lru_cache(maxsize=256)
def distinct_files(source: str) -> tuple[str, ...]:
    """The same; ArragError when files share a name, which keys could not tell apart."""
    files = files_of(source)
    if len({Path(file).name for file in files}) < len(files):
        raise ArragError(f"{source}: two of its files have one name; rename one of them")
    return files


def source_part(source: str, part: int, parts: int) -> str:
    """Part ``part`` of ``parts`` (from 0), as a source: a run of its files.

    Raises ArragError when files share a name, and when there are fewer files than parts.
    """
    files = distinct_files(source)
    if not 0 <= part < parts <= len(files):
        raise ArragError(f"{source}: {len(files)} files make no part {part} of {parts}")
    first, last = (len(files) * i // parts for i in (part, part + 1))
    return "::".join(files[first:last])


def num_source_parts(source: str, images: int | None, images_per_job: int) -> int:
    """In how many parts a source is encoded: about ``images_per_job`` each, by whole files."""
    files = len(files_of(source))
    return files if images is None else min(files, max(1, -(-images // images_per_job)))
