"""Which images of the database a text retrieves, for generators conditioned on whole images."""

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
    """The images most like a text, best first.

    Attributes:
        query: The text.
        images: Their numbers in the token store.
        keys: Their names there.
        cosines: Their similarities to the text.
    """

    query: str
    images: list[int]
    keys: list[str]
    cosines: list[float]

    def as_json(self) -> dict[str, Any]:
        """The fields for a record; similarities to the six digits that float32 has."""
        return self._asdict() | {"cosines": [round(cosine, 6) for cosine in self.cosines]}


class ImageRetriever:
    """Retrieves the ``k`` images whose CLIP features are most like a text's.

    One text at a time: the encoder's rounding depends on the batch, and could change the result.
    Results are kept: a search reads the whole index, and a prompt has several samples.

    Args:
        index: Of the database's images.
        clip: The model that it was made with.
        k: Number of images.
    """

    def __init__(self, index: ImageIndex, clip: OpenClip, k: int) -> None:
        self.index, self.clip, self.k = index, clip, k
        self._found: dict[str, RetrievedImages] = {}

    def __call__(self, query: str) -> RetrievedImages:
        """Retrieve the images for a text."""
        if query not in self._found:
            self._found[query] = self._search(query)
        return self._found[query]

    def _search(self, query: str) -> RetrievedImages:
        if not self.k:
            return RetrievedImages(query, [], [], [])
        cosines, images = self.index.search(self.clip.encode_texts([query]), self.k)
        numbers = images[0].tolist()
        keys = [self.index.store.keys(image) for image in numbers]
        return RetrievedImages(query, numbers, keys, cosines[0].tolist())


RECORD = "retrieved.jsonl"


def write_retrieved(
    folder: Path,
    found: Iterable[tuple[int, int, RetrievedImages | None]],
    part: JobPart | None = None,
) -> None:
    """Write which whole images the samples in a folder were conditioned on, one sample a line.

    The file is not written if nothing was retrieved. Its fields are ``prompt`` and ``sample``,
    numbers as in the samples' names, and those of :class:`RetrievedImages`.

    Args:
        folder: Of the samples.
        found: Number of the prompt, of the sample, and what was retrieved.
        part: Of several jobs, each of which has its own file until all are merged.
    """
    lines = [
        json.dumps({"prompt": i, "sample": k, **one.as_json()}, ensure_ascii=False) + "\n"
        for i, k, one in found
        if one is not None
    ]
    if lines:
        name = f"retrieved-{part}.jsonl" if part else RECORD
        write_text(folder / name, "".join(lines))


def merge_retrieved(folder: Path) -> None:
    """Merge the parts' records into the one that a single job writes."""
    parts = sorted(folder.glob("retrieved-*-of-*.jsonl"))
    lines = {}
    for path in [*folder.glob(RECORD), *parts]:  # both after a kill just below
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            about = json.loads(line)
            lines[about["prompt"], about["sample"]] = line
    if lines:
        write_text(folder / RECORD, "".join(lines[key] for key in sorted(lines)))
    for path in parts:
        path.unlink()
