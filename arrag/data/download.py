"""Single files by URL, pinned by their content: prompt sets, question tables, networks.

A pin is a SHA-256, or git's name of a file's content (``git_blob``), which is what a public
repository shows for a file it holds.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from arrag.utils.errors import MismatchError, MissingError, UsageError
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path
from arrag.utils.resource_errors import disk_space

TIMEOUT = 30  # seconds without a byte


def fetch_file(
    url: str, out: str | Path, *, sha256: str | None = None, git_blob: str | None = None
) -> dict[str, object]:
    """Download ``url`` to ``out`` if its content is the pinned one; an existing match is kept.

    Args:
        url: http:// or https:// URL.
        out: The file to write. It is whole or absent.
        sha256: Hex digest of the content, or its first 8 or more digits.
        git_blob: Hex name of the content in git.

    Returns:
        ``{"bytes", "sha256"}`` of the file.

    Raises:
        UsageError: No pin is given, or a pin or the URL is malformed.
        MissingError: The server does not answer, or has no such file.
        MismatchError: The content is not the pinned one; nothing was written.
    """
    out, shown = Path(out), display_url(url)
    _check_pins(shown, sha256, git_blob)
    if not out.is_file() or _mismatch(out, sha256, git_blob):
        with disk_space(out), atomic_path(out) as temporary:
            _receive(url, temporary)
            if found := _mismatch(temporary, sha256, git_blob):
                raise MismatchError(
                    found,
                    field=shown,
                    hint="look at what changed there, then correct the digest or the URL",
                )
    return {"bytes": out.stat().st_size, "sha256": sha256_file(out)}


def _check_pins(shown: str, sha256: str | None, git_blob: str | None) -> None:
    if shown.partition(":")[0] not in ("http", "https"):
        raise UsageError("the URL does not begin with http:// or https://", field=shown)
    if sha256 is None and git_blob is None:
        raise UsageError("no digest is given", field=shown, hint="pin the file by its SHA-256")
    for field, pin, least in (("sha256", sha256, 8), ("git_blob", git_blob, 40)):
        if pin is not None and not re.fullmatch(rf"[0-9a-f]{{{least},64}}", pin):
            raise UsageError(f"{pin!r} is not {least} to 64 lower-case hex digits", field=field)


def _receive(url: str, out: Path) -> None:
    hint = "check the URL, the network and its proxies, or put the file there by hand"
    download = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT, chunk_size=1 << 20)
    try:
        download(url, str(out), None)
    except (requests.RequestException, ValueError) as error:
        # Its own message quotes the URL, which may contain a password.
        message = f"no answer ({type(error).__name__})"
        if isinstance(error, requests.HTTPError):
            message = f"the server answered {error.response.status_code}"
        raise MissingError(message, field=display_url(url), hint=hint) from None


def _mismatch(path: Path, sha256: str | None, git_blob: str | None) -> str | None:
    """How a file's content differs from the pinned one, with both digests; None if it does not."""
    for name, pin, digest in (("SHA-256", sha256, sha256_file), ("git blob", git_blob, git_digest)):
        if pin is not None and not (found := digest(path)).startswith(pin):
            return f"its {name} is {found}, expected {pin}"
    return None


def git_digest(path: str | Path) -> str:
    """Hex SHA-1 by which git names a file's content."""
    head = f"blob {Path(path).stat().st_size}\0".encode()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False))
    return digest.hexdigest()


def display_url(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<invalid URL>"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
