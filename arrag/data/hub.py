"""Download what a hub reference names, into the folder that stands for it.

The hub's own client does the transfer, into its own cache, which other programs share and a killed
download goes on in; the folder holds links to the files there. Its messages may quote addresses
with signatures, so none of them is passed on.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # of whatever carries the client's requests
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from arrag.config.hub import Reference, wanted
from arrag.utils.errors import ArragError
from arrag.utils.files import write_json
from arrag.utils.hashing import sha256_file, sha256_json
from arrag.utils.outputs import atomic_path, link
from arrag.utils.readers import check_zip_bomb, outside, short_message
from arrag.utils.resource_errors import NO_SPACE, disk_space

MANIFEST = ".fetched.json"  # appended to the folder's name: beside it, for it says whence, not what


def about_of(folder: Path) -> Path:
    """The file beside a fetched folder that says what was fetched."""
    return folder.with_name(folder.name + MANIFEST)


def fetch(
    reference: Reference,
    out: Path | None = None,
    *,
    cache: str | Path | None = None,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """Make the folder ``out`` (default: the reference's own); returns what is in it.

    cache, endpoint: the client's defaults if None. Without a network a copy in the cache is taken.
    The result, also written beside the folder: repository, revision, commit, files with bytes and
    SHA-256, and the digest of all. Raises ArragError for a repository that is missing, gated or out
    of reach, and for a full disk; nothing is half-written.
    """
    out = reference.folder if out is None else out
    cache = None if cache is None else str(cache)
    with told(reference), disk_space(out):
        snapshot, names, commit = _snapshot(reference, cache, endpoint)
        with atomic_path(out) as folder:
            for name in names:
                link(snapshot / name, folder / name)
            for name in (n for n in names if n.endswith(".zip")):
                unpack(folder / name)
        held = {
            n: {"bytes": (out / n).stat().st_size, "sha256": sha256_file(out / n)} for n in names
        }
        about = {
            "repository": str(reference).partition("@")[0],
            "revision": reference.revision,
            "commit": commit,
            "page": reference.page,
            "files": held,
            "digest": sha256_json({name: f["sha256"] for name, f in held.items()}),
        }
        write_json(about_of(out), about)
    return about


def _snapshot(
    reference: Reference, cache: str | None, endpoint: str | None
) -> tuple[Path, list[str], str]:
    """The client's folder of the files wanted, their names, and the commit they are of."""
    at: dict[str, Any] = {"repo_type": reference.repo_type, "cache_dir": cache}
    try:
        found = HfApi(endpoint=endpoint).repo_info(
            reference.repository, revision=reference.revision, repo_type=reference.repo_type
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (HTTPError, OSError):  # a busy hub, no route, no name, a broken proxy
        return _cached(reference, at)
    names = wanted((s.rfilename for s in found.siblings or ()), reference.also)
    snapshot = snapshot_download(
        reference.repository,
        revision=found.sha,
        allow_patterns=[glob.escape(name) for name in names],
        endpoint=endpoint,
        **at,
    )
    return Path(snapshot), names, found.sha


def _cached(reference: Reference, at: dict[str, Any]) -> tuple[Path, list[str], str]:
    """The same without the hub, from an earlier download."""
    try:
        snapshot = Path(
            snapshot_download(
                reference.repository, revision=reference.revision, local_files_only=True, **at
            )
        )
    except (LocalEntryNotFoundError, OSError):
        raise Unreachable from None
    files = [p for p in snapshot.rglob("*") if p.is_file()]
    names = wanted((p.relative_to(snapshot).as_posix() for p in files), reference.also)
    return snapshot, names, snapshot.name


class Unreachable(Exception):
    """The hub does not answer, and no earlier download holds what is wanted."""


@contextmanager
def told(reference: Reference) -> Iterator[None]:
    """Turn the client's errors into one sentence that names the repository and what to do."""
    try:
        yield
    except ArragError as error:
        raise ArragError(f"{reference}: {error}") from None
    except Exception as error:
        if (sentence := sentence_for(reference, error)) is None:
            raise
        raise ArragError(sentence) from None


def sentence_for(reference: Reference, error: Exception) -> str | None:
    """What to tell a person about an error of the client; None if it is not one of its own."""
    where = f"{reference} ({reference.page})"
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return (
            f"{where}: gated; accept its licence on that page, then {login} for the account that "
            "accepted it"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{where}: has no revision '{reference.revision}'; take one that its page lists"
    if isinstance(error, RepositoryNotFoundError):
        return f"{where}: no such repository, or a private one; correct its name, or {login}"
    if isinstance(error, DisabledRepoError):
        return f"{where}: its owner or the hub has closed it; name another repository"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return f"{where}: a file it lists is not there; try again or take another revision"
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", "without status")
        return f"{where}: the hub answered {status}; try again later, or {login} if it is private"
    if isinstance(error, Unreachable | LocalEntryNotFoundError | OfflineModeIsEnabled):
        return (
            f"{where}: the hub is out of reach and no earlier download of it is complete; check "
            "the network (proxies, HF_ENDPOINT, HF_HUB_OFFLINE), or put the files into "
            f"{reference.folder} by hand"
        )
    return None


def unpack(archive: Path) -> None:
    """Unpack a zip into the folder of its name without the end, whatever its own top folder is."""
    out = archive.with_suffix("")
    if out.exists():
        raise ArragError(f"{archive.name}: {out.name} is there already; name one of both behind #")
    # A folder of its own: what lies beside it are links into the client's cache.
    fresh = archive.with_name(f".{archive.name}.unpacking")
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.namelist() if not m.startswith("__MACOSX")]
            for member in map(zipped.getinfo, members):
                if outside(member.filename) or stat.S_ISLNK(member.external_attr >> 16):
                    raise zipfile.BadZipFile(f"{member.filename!r} leads out of it")
            check_zip_bomb(zipped)
            zipped.extractall(fresh, members)
            inside = all(m.split("/")[0] == out.name for m in members)
            os.replace(fresh / out.name if inside and members else fresh, out)
    except Exception as error:  # zipfile and its decompressors raise a dozen types
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise ArragError(
            f"{archive.name}: broken zip ({short_message(error)}); fetch it again"
        ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
