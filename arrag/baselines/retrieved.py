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


def retrieve(index: ImageIndex, clip: OpenClip, query: str, k: int) -> Retrieved:
    """The k images whose features are most like the text's; index: made with ``clip``.

    One text at a time: the encoder's rounding depends on the batch, and could change the answer.
    """
    if not k:
        return Retrieved(query, [], [], [])
    cosines, images = index.search(clip.encode_texts([query]), k)
    numbers = images[0].tolist()
    return Retrieved(query, numbers, [index.store.keys(i) for i in numbers], cosines[0].tolist())
