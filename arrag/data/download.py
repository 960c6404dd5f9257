"""Single files by address, pinned by their content: prompt sets, question tables, networks.

A pin is a SHA-256, or the name that git gives a file's content (``git_blob``), which is what a
public repository says of a file it holds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from arrag.utils.errors import ArragError
from arrag.utils.files import write_text
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import numbered_lines, parse_json, read_text
from arrag.utils.resource_errors import disk_space

PIECE = 1 << 20  # bytes
SECONDS = 30  # without a byte
UNANSWERED = (
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    HTTPException,
    ValueError,
)
HEX = re.compile(r"[0-9a-f]+")


def fetch_file(
    url: str, out: str | Path, *, sha256: str | None = None, git_blob: str | None = None
) -> dict[str, object]:
    """Download ``url`` to ``out`` if its content is the pinned one; returns bytes and SHA-256.

    A file that is there already and matches is kept. Raises ArragError for an address that does not
    answer, for other content (naming both digests) and for a full disk; ``out`` is whole or absent.
    """
    out = Path(out)
    for option, pin, least in (("sha256", sha256, 8), ("git_blob", git_blob, 40)):
        if pin is not None and not (least <= len(pin) <= 64 and HEX.fullmatch(pin)):
            raise ArragError(
                f"{option}: found {pin!r}, wanted its digits from 0 to f, {least} or more; a file "
                "is known by its content"
            )
    if sha256 is None and git_blob is None:
        raise ArragError(f"{shown(url)}: no digest is given; a file is known by its content")
    if out.is_file() and mismatch(out, sha256, git_blob) is None:
        return {"bytes": out.stat().st_size, "sha256": sha256_file(out)}
    with disk_space(out), atomic_path(out) as temporary:
        _receive(url, temporary)
        if found := mismatch(temporary, sha256, git_blob):
            raise ArragError(
                f"{shown(url)}: {found}; the file there is another one than the configuration "
                "means: look at what changed, then correct the digest, or name another address"
            )
    return {"bytes": out.stat().st_size, "sha256": sha256_file(out)}


def _receive(url: str, out: Path) -> None:
    if shown(url).partition(":")[0] not in ("http", "https"):
        raise ArragError(f"{shown(url)}: not an address that begins with http:// or https://")
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer, open(out, "wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, desc=Path(urlsplit(url).path).name, unit="B") as bar:
                while piece := answer.read(PIECE):
                    file.write(piece)
                    bar.update(len(piece))
    except urllib.error.HTTPError as error:
        raise ArragError(
            f"{shown(url)}: the server answered {error.code}; correct the address, or put the file "
            "there by hand"
        ) from None
    except UNANSWERED as error:
        reason = getattr(error, "reason", None) or type(error).__name__  # others quote the address
        raise ArragError(
            f"{shown(url)}: no answer ({reason}); check the network and its proxies, or put the "
            "file there by hand"
        ) from None
    if size and out.stat().st_size != size:
        raise ArragError(
            f"{shown(url)}: {out.stat().st_size} of {size} bytes arrived; run it again"
        )


def mismatch(path: Path, sha256: str | None, git_blob: str | None) -> str | None:
    """What a file's content is instead of the pinned one, with both digests; None if it is it."""
    pins = (("SHA-256", sha256, sha256_file), ("git blob", git_blob, git_digest))
    for name, pinned, digest in pins:
        if pinned is not None and not (found := digest(path)).startswith(pinned):
            return f"its {name} is {found}, the configuration says {pinned}"
    return None


def git_digest(path: str | Path) -> str:
    """Hex SHA-1 by which git names a file's content."""
    path = Path(path)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def write_subset(source: str | Path, out: str | Path, every: int) -> int:
    """Every ``every``-th prompt of a prompt file, in its own format; returns how many.

    JSON lines by line, MJHQ-30K's JSON by entry, a question table by item (``item_id``). Taking
    them at regular steps keeps tasks and categories in proportion. ArragError if it cannot be read.
    """
    source, out = Path(source), Path(out)
    text = read_text(source, "it", "fetch it first")
    try:
        if source.suffix == ".csv":
            return _write_items(text, out, every)
        if source.suffix == ".json":
            kept = dict(list(parse_json(text).items())[::every])
            write_text(out, json.dumps(kept, ensure_ascii=False))
            return len(kept)
    except (ValueError, LookupError, AttributeError, csv.Error) as error:
        raise ArragError(f"{source}: is no prompt file ({error!r}); name another") from None
    lines = [line for _, line in numbered_lines(text)][::every]
    write_text(out, "\n".join(lines) + "\n")
    return len(lines)


def _write_items(text: str, out: Path, every: int) -> int:
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    items = list(dict.fromkeys(row["item_id"] for row in rows))[::every]
    kept = set(items)
    with atomic_path(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row["item_id"] in kept)
    return len(items)
