"""Download the files that a hub reference names into the folder that it refers to.

The hub's own client transfers the files into its cache, which other programs share and in which a
killed download continues; the folder holds links to the files there. The client's messages may
quote URLs with signatures, so none of them is passed on.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub import errors as hub

from arrag.config.hub import Reference, wanted
from arrag.utils.errors import ArragError, FormatError, MissingError
from arrag.utils.files import write_json
from arrag.utils.hashing import sha256_file, sha256_json
from arrag.utils.outputs import atomic_path, link
from arrag.utils.readers import check_zip_bomb, escapes_folder, short_message
from arrag.utils.resource_errors import NO_SPACE, disk_space

LOGIN = "log in with `hf auth login` or set HF_TOKEN"
UNREACHABLE = (
    "the hub is out of reach and no earlier download is complete",
    "check the network (proxies, HF_ENDPOINT, HF_HUB_OFFLINE), or put the files there by hand",
)
ERRORS = {  # the first that fits
    hub.GatedRepoError: ("gated", f"accept its licence on its page, then {LOGIN}"),
    hub.RevisionNotFoundError: ("no such revision", "take one that its page lists"),
    hub.RepositoryNotFoundError: (
        "no such repository, or a private one",
        f"correct its name, or {LOGIN}",
    ),
    hub.DisabledRepoError: ("closed by its owner or the hub", "name another repository"),
    hub.LocalEntryNotFoundError: UNREACHABLE,
    hub.OfflineModeIsEnabled: UNREACHABLE,
    hub.EntryNotFoundError: ("a file it lists is not there", "try again or change the revision"),
    hub.HfHubHTTPError: ("the hub answered {status}", f"try again later, or {LOGIN}"),
}


def hub_error(reference: Reference, error: Exception) -> MissingError | None:
    """Describe an error of the hub's client for a user; None if it is not one of its own."""
    for kind, (message, hint) in ERRORS.items():
        if isinstance(error, kind):
            status = getattr(getattr(error, "response", None), "status_code", "without status")
            message = message.format(status=status)
            return MissingError(message, field=f"{reference} ({reference.page})", hint=hint)
    return None


def manifest_path(folder: Path) -> Path:
    """The file next to a fetched folder that says what was fetched."""
    return folder.with_name(f"{folder.name}.fetched.json")


def fetch_hub(
    reference: Reference,
    out: Path | None = None,
    *,
    cache: str | Path | None = None,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """Download the files of a reference; without a network, take them from the client's cache.

    Args:
        reference: Repository, revision and files.
        out: Folder to write; default: the reference's own. It is whole or absent.
        cache: The client's cache, if not its default.
        endpoint: URL of the hub, if not the client's default.

    Returns:
        What is also written next to the folder: repository, revision, commit, files with their
        bytes and SHA-256, and the digest of all.

    Raises:
        MissingError: The repository is missing, gated or out of reach.
        FormatError: A zip that was asked for is broken or unsafe.
    """
    out = reference.folder if out is None else out
    try:
        with disk_space(out):
            snapshot, names, commit = _snapshot(reference, cache and str(cache), endpoint)
            with atomic_path(out) as folder:
                for name in names:
                    link(snapshot / name, folder / name)
                for name in (n for n in names if n.endswith(".zip")):
                    _unpack(folder / name)
            held = {
                name: {"bytes": (out / name).stat().st_size, "sha256": sha256_file(out / name)}
                for name in names
            }
            manifest = {
                "repository": str(reference).partition("@")[0],
                "revision": reference.revision,
                "commit": commit,
                "page": reference.page,
                "files": held,
                "digest": sha256_json({name: f["sha256"] for name, f in held.items()}),
            }
            write_json(manifest_path(out), manifest)
            return manifest
    except ArragError as error:
        raise type(error)(
            error.message, path=error.path, field=str(reference), hint=error.hint
        ) from None
    except Exception as error:
        if (described := hub_error(reference, error)) is None:
            raise
        raise described from None


def _snapshot(
    reference: Reference, cache: str | None, endpoint: str | None
) -> tuple[Path, list[str], str]:
    """The client's folder with the files wanted, their names, and the commit they are of."""
    at: dict[str, Any] = {"repo_type": reference.repo_type, "cache_dir": cache}
    revision = {"revision": reference.revision}
    try:
        found = HfApi(endpoint=endpoint).repo_info(
            reference.repository, repo_type=reference.repo_type, **revision
        )
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        raise
    except (hub.HTTPError, OSError):  # a busy hub, no route, no name, a broken proxy
        at |= revision | {"local_files_only": True}  # an earlier download
        try:
            snapshot = Path(snapshot_download(reference.repository, **at))
        except OSError:
            raise hub.LocalEntryNotFoundError("not in the cache") from None
        files = (p for p in snapshot.rglob("*") if p.is_file())
        names = wanted((p.relative_to(snapshot).as_posix() for p in files), reference.also)
        return snapshot, names, snapshot.name
    names = wanted((s.rfilename for s in found.siblings or ()), reference.also)
    at |= {"allow_patterns": [glob.escape(name) for name in names], "endpoint": endpoint}
    snapshot = snapshot_download(reference.repository, revision=found.sha, **at)
    return Path(snapshot), names, found.sha


def _unpack(archive: Path) -> None:
    """Unpack a zip into the folder of its name without the suffix, whatever its top folder is."""
    out = archive.with_suffix("")
    if out.exists():
        raise FormatError(
            f"{archive.name}: {out.name} is there already", hint="name one of both behind #"
        )
    # A folder of its own: what surrounds it are links into the client's cache.
    fresh = archive.with_name(f".{archive.name}.unpacking")
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.namelist() if not m.startswith("__MACOSX")]
            for member in map(zipped.getinfo, members):
                if escapes_folder(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
                    raise zipfile.BadZipFile(f"{member.filename!r} leads out of it")
            check_zip_bomb(zipped)
            zipped.extractall(fresh, members)
            inside = all(m.split("/")[0] == out.name for m in members)
            os.replace(fresh / out.name if inside and members else fresh, out)
    except Exception as error:  # zipfile and its decompressors raise a dozen types
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise FormatError(
            f"{archive.name}: broken zip ({short_message(error)})", hint="fetch it again"
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
