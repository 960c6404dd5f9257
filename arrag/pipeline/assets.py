"""Make the files and folders of a configuration's block ``assets``: download, convert, assemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrag.config.assets import Assembled, Asset, ConvertedLlamaGen
from arrag.data.download import fetch_file
from arrag.data.prompts import write_subset
from arrag.utils.errors import MissingError
from arrag.utils.outputs import OWNER, atomic_path, link, remove_output
from arrag.utils.resource_errors import disk_space


def make_asset(path: Path, settings: Asset) -> dict[str, Any]:
    """Make one asset; ``path`` is complete or absent, whatever happens.

    Args:
        path: The file or folder to make; an earlier one is replaced.
        settings: Its entry in the configuration. What it is made from must be there.

    Returns:
        What was made, for the command to print.
    """
    if settings.kind == "file":
        return fetch_file(settings.url, path, sha256=settings.sha256, git_blob=settings.git_blob)
    if settings.kind == "subset":
        return {"prompts": write_subset(settings.of, path, settings.every)}
    if settings.kind == "folder":
        return _assemble(settings, path)
    if settings.kind == "mask2former":
        from arrag.metrics.detectors.mask2former_convert import convert_mask2former

        return convert_mask2former(settings.of, path)
    if path.exists():  # the converters write to new paths only
        remove_output(path)
    if settings.kind == "llamagen":
        return _llamagen(settings, path)
    if settings.kind == "pipeline":
        from arrag.methods.pipeline_folder import convert_pipeline

        return convert_pipeline(settings.of, path)
    from arrag.methods.faid.convert import import_faid

    return import_faid(settings.of, settings.checkpoint, path, k=settings.k)


def _llamagen(settings: ConvertedLlamaGen, out: Path) -> dict[str, Any]:
    """The converted files and the text encoder, in one folder."""
    from arrag.backbones.convert import convert_checkpoint
    from arrag.backbones.llamagen.model import TEXT

    with atomic_path(out) as folder:
        options = {"tokenizer": settings.tokenizer, "image_size": settings.image_size}
        about = convert_checkpoint("llamagen", settings.of, folder, **options)
        for file in (p for p in sorted(settings.t5.rglob("*")) if p.is_file()):
            link(file, folder / TEXT / file.relative_to(settings.t5))
    return about


def _assemble(settings: Assembled, out: Path) -> dict[str, Any]:
    """A folder of the files of several, linked where the file system can."""
    with disk_space(out), atomic_path(out) as folder:
        for name, source in {"": settings.of, **settings.parts}.items():
            if not source.is_dir():
                raise MissingError(
                    f"no such folder, of which {out} is made", path=source, hint="fetch it first"
                )
            for file in sorted(p for p in source.rglob("*") if p.is_file() and p.name != OWNER):
                link(file, folder / name / file.relative_to(source))
    return {"files": sum(1 for p in out.rglob("*") if p.is_file() and p.name != OWNER)}
