"""``arrag assets``: downloads and what is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrag.cli.common import DEFAULT_CONFIG, group
from arrag.pipeline.records import write_record

app = group("assets", "Download and prepare weights, prompts and pictures.")


@app.command
def get(
    name: str,
    /,
    *,
    out: Path | None = None,
    config: Path = DEFAULT_CONFIG,
    sha256: str | None = None,
    git_blob: str | None = None,
) -> dict[str, Any]:
    """Download or make an asset.

    Example: arrag assets get micro

    Example: arrag assets get hub:deepseek-community/Janus-Pro-1B@main

    Example: arrag assets get data/geneval/evaluation_metadata.jsonl --config config/paper.yaml

    Args:
        name: 'micro' (pictures of the synthetic dataset), 'mobilenetv2' (a network for FID-like
            scores), hub:owner/name@revision with #file,file for more files, an https:// address,
            or a path of the configuration's block 'assets'.
        out: Where to write; each kind but an address has its own place.
        config: Configuration file, for a path.
        sha256: For an address: hex digest of the content.
        git_blob: For an address: name of the content in git, instead of a SHA-256.
    """
    if name == "micro":
        from arrag.data.micro.assets import fetch_assets
        from arrag.pipeline.layout import MICRO_ASSETS

        out = out or MICRO_ASSETS
        about = fetch_assets(out)
    elif name == "mobilenetv2":
        from arrag.metrics.mobilenet import FOLDER, fetch_mobilenet

        out = out or FOLDER
        about = fetch_mobilenet(out)
    elif name.startswith("hub:"):
        return _from_hub(name, out)
    elif "://" in name:
        out, about = _from_address(name, out, sha256, git_blob)
    else:
        out, about = _from_config(name, config)
    write_record(out)
    return {"path": out, **about}


def _from_hub(name: str, out: Path | None) -> dict[str, Any]:
    from arrag.config import hub
    from arrag.data.hub import fetch_hub, manifest_path
    from arrag.utils.errors import UsageError

    try:
        reference, inside = hub.parse(name)
    except ValueError as error:
        raise UsageError(error, field="NAME") from None
    if inside:
        raise UsageError(f"leave out :{inside}", field="NAME", hint="a repository is fetched whole")
    about = fetch_hub(reference, out)
    folder = out or reference.folder
    write_record(folder, manifest_path(folder))
    total = sum(file["bytes"] for file in about["files"].values())
    return {"path": folder, "bytes": total, **about}


def _from_address(
    url: str, out: Path | None, sha256: str | None, git_blob: str | None
) -> tuple[Path, dict[str, Any]]:
    from arrag.data.download import fetch_file
    from arrag.utils.errors import UsageError

    if out is None:
        raise UsageError("missing", field="--out", hint="name the file to write")
    if (sha256 is None) == (git_blob is None):
        raise UsageError(
            "give one of both", field="--sha256, --git-blob", hint="downloads are pinned"
        )
    return out, fetch_file(url, out, sha256=sha256, git_blob=git_blob)


def _from_config(name: str, config: Path) -> tuple[Path, dict[str, Any]]:
    from arrag.config.root import load_config
    from arrag.pipeline.assets import make_asset
    from arrag.utils.registry import unknown_name

    entries = load_config(config).assets
    if name not in entries:
        raise unknown_name("asset", name, list(entries))
    return Path(name), make_asset(Path(name), entries[name])
