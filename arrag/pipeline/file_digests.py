"""Digests of the files that a configuration names, which the names of results end in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arrag.config.base import Model
from arrag.config.benchmarks import Benchmark
from arrag.utils.errors import FormatError, MissingError
from arrag.utils.globs import files_of
from arrag.utils.hashing import sha256_file, sha256_json, tree_digest


def prompts_digest(benchmark: Benchmark, name: str) -> str:
    """SHA-256 of the prompt file of the benchmark called ``name``."""
    path = benchmark.prompts
    field = f"benchmarks.{name}.{'questions' if benchmark.kind == 'dpg' else 'prompts'}"
    hint = "for the built-in world run `workflow/scripts/micro/prompts.py`, else name another file"
    if not path.is_file():
        raise MissingError(f"no file {path}", field=field, hint=hint)
    if not path.read_bytes().strip():
        raise FormatError(f"{path} is empty", field=field, hint=hint)
    return sha256_file(path)


def extractor_digest(settings: Model, metric: str) -> str | None:
    """Digest of an extractor's weights when they lie in a folder or file of the user's."""
    path = Path(getattr(settings, "extractor", ""))
    if path.is_dir() and path != Path():
        return checkpoint_digest(path, f"metrics.{metric}.extractor")
    return sha256_file(path) if path.is_file() else None


def checkpoint_digest(folder: Path, field: str) -> str:
    """Digest of a checkpoint folder's files, model cards and plots left out; or of one file."""
    if folder.is_file():
        return sha256_file(folder)
    if not folder.is_dir():
        raise MissingError(
            f"no folder {folder}",
            field=field,
            hint="run from the repository's root, download it there, or correct the path",
        )
    return tree_digest(folder)


def listing_digest(sources: Sequence[str]) -> str:
    """Digest of the names and sizes of the files of ``database.exclude``.

    A test set is too large to be read at every start; the codes' manifest names its pixels.
    """
    found = []
    for source in sources:
        for path in map(Path, files_of(source)):
            if not path.exists():
                raise MissingError(f"no file or folder {path}", field="database.exclude")
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            found.append([[str(f), f.stat().st_size] for f in files if f.is_file()])
    return sha256_json(found)
