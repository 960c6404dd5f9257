"""Which images of the database a text retrieves, for generators that look at whole images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from arrag.data.clip import OpenClip
from arrag.retrieval.image_index import ImageIndex
from arrag.utils.files import write_text
from arrag.utils.shards import JobPart


class RetrievedImages(NamedTuple):
    """The images most like a text, best first. keys: their names in the store."""

    query: str
    images: list[int]
    keys: list[str]
    cosines: list[float]

    def as_json(self) -> dict[str, Any]:
        """For the record beside the samples; cosines to six digits, which float32 has."""
        return self._asdict() | {"cosines": [round(cosine, 6) for cosine in self.cosines]}


class ImageRetriever:
    """The k images whose features are most like a text's; index: made with ``clip``.

    One text at a time: the encoder's rounding depends on the batch, and could change the answer.
    An answer is kept: a search reads the whole index, and a prompt is drawn several times.
    """

    def __init__(self, index: ImageIndex, clip: OpenClip, k: int) -> None:
        self.index, self.clip, self.k = index, clip, k
        self._answers: dict[str, RetrievedImages] = {}

    def __call__(self, query: str) -> RetrievedImages:
        """What a text retrieves."""
        if query not in self._answers:
            self._answers[query] = self._search(query)
        return self._answers[query]

    def _search(self, query: str) -> RetrievedImages:
        if not self.k:
            return RetrievedImages(query, [], [], [])
        cosines, images = self.index.search(self.clip.encode_texts([query]), self.k)
        numbers = images[0].tolist()
        keys = [self.index.store.keys(image) for image in numbers]
        return RetrievedImages(query, numbers, keys, cosines[0].tolist())


def record_name(part: JobPart | None = None) -> str:
    """Name of the record beside the samples; a part's own is there until all are drawn."""
    return f"retrieved-{part}.jsonl" if part else "retrieved.jsonl"


def record_retrieved(path: Path, found: Iterable[tuple[int, int, RetrievedImages | None]]) -> None:
    """Write which whole images each sample was drawn with, one a line; no file if none has any.

    found: prompt, sample, and what it retrieved. A line: ``prompt`` and ``sample``, numbers as in
    the samples' names, ``query``, and best first ``images``, ``keys`` and ``cosines``: images of
    the store, and their names there.
    """
    lines = [
        json.dumps({"prompt": i, "sample": k, **one.as_json()}, ensure_ascii=False) + "\n"
        for i, k, one in found
        if one is not None
    ]
    if lines:
        write_text(path, "".join(lines))


def join_records(folder: Path) -> None:
    """Put the parts' records in the place of the one that a single job writes."""
    parts = sorted(folder.glob("retrieved-*-of-*.jsonl"))
    lines = {}
    for path in [*folder.glob(record_name()), *parts]:  # it is there after a kill just below
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            about = json.loads(line)
            lines[about["prompt"], about["sample"]] = line
    if lines:
        write_text(folder / record_name(), "".join(lines[key] for key in sorted(lines)))
    for path in parts:
        path.unlink()
