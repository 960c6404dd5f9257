"""Which images of the database a text retrieves, for generators that look at whole images."""

from __future__ import annotations

from typing import Any, NamedTuple

from arrag.clip import OpenClip
from arrag.image_index import ImageIndex


class Retrieved(NamedTuple):
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
        self._answers: dict[str, Retrieved] = {}

    def __call__(self, query: str) -> Retrieved:
        """What a text retrieves."""
        if query not in self._answers:
            self._answers[query] = self._search(query)
        return self._answers[query]

    def _search(self, query: str) -> Retrieved:
        if not self.k:
            return Retrieved(query, [], [], [])
        cosines, images = self.index.search(self.clip.encode_texts([query]), self.k)
        numbers = images[0].tolist()
        keys = [self.index.store.keys(image) for image in numbers]
        return Retrieved(query, numbers, keys, cosines[0].tolist())
