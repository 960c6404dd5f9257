"""The codes of a sample, kept inside its PNG: a text chunk that every viewer passes over.

From the pixels they cannot be had again: encoding what was decoded gives other codes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngInfo

from arrag.utils.errors import ArragError
from arrag.utils.readers import UNREADABLE, open_picture, parse_json

CHUNK = "arrag codes"


def codes_chunk(codes: np.ndarray) -> PngInfo:
    """What ``Image.save(pnginfo=...)`` takes to keep integer codes [H, W] with a picture."""
    info = PngInfo()
    info.add_text(CHUNK, json.dumps(np.asarray(codes).tolist(), separators=(",", ":")), zip=True)
    return info


def read_codes(path: str | Path) -> np.ndarray | None:
    """The codes int64 [H, W] in a PNG, None when it has none. ArragError when it is damaged."""
    try:
        with open_picture(path) as picture:
            picture.load()
            found = getattr(picture, "text", {}).get(CHUNK)
        if found is None:
            return None
        codes = np.array(parse_json(found))
    except UNREADABLE as error:
        raise ArragError(f"{path}: not a readable image ({error}); generate it again") from None
    if codes.ndim != 2 or codes.dtype.kind != "i" or not codes.size or codes.min() < 0:
        raise ArragError(f"{path}: its codes are no grid of whole numbers; generate it again")
    return codes.astype(np.int64)
