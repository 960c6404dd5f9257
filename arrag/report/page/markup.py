"""Small pieces of HTML. Every text is escaped here; nothing else may write a text into the page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

SMALLEST, LARGEST = 96, 256  # pixels of a picture's longer side on the page
QUALITY = 75  # of lossy pictures
PLACE = re.compile(r"\{\{(\w+)\}\}")


def text(value: object) -> str:
    """A text for an element or a quoted attribute."""
    return escape(str(value), quote=True)


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """``content`` is HTML; attributes are texts: ``class_`` is class, ``data_x`` data-x.

    An attribute that is None or False is left out, one that is True has no value.
    """
    parts = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(name)
        elif value is not None and value is not False:
            parts.append(f'{name}="{text(value)}"')
    opening = f"<{' '.join(parts)}>"
    return opening if tag in ("img", "input") else f"{opening}{content}</{tag}>"


def listing(lines: Iterable[str]) -> str:
    """Remarks as a list; nothing for none."""
    items = "".join(element("li", text(line)) for line in lines)
    return element("ul", items, class_="remarks") if items else ""


def island(identity: str, data: Any) -> str:
    """JSON for the page's script, in which no text can end the element."""
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{text(identity)}">{content}</script>'


def picture(image: np.ndarray, lossless: bool = False) -> str:
    """An image, uint8 [H, W, 3], as a data URI in WebP.

    A lossy picture of a small image is first enlarged so that every pixel is a square: WebP stores
    colours at half the resolution. Large ones are shrunk.
    """
    drawn = Image.fromarray(image)
    longer = max(drawn.size)
    if longer > LARGEST:
        size = [max(1, round(side * LARGEST / longer)) for side in drawn.size]
        drawn = drawn.resize(size, Image.Resampling.LANCZOS)
    elif longer < SMALLEST and not lossless:
        times = -(-SMALLEST // longer)
        drawn = drawn.resize([side * times for side in drawn.size], Image.Resampling.NEAREST)
    out = io.BytesIO()
    drawn.save(out, format="WEBP", lossless=lossless, quality=QUALITY, method=4)
    return f"data:image/webp;base64,{encoded(out.getvalue())}"


def encoded(content: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(content).decode("ascii")


def source(name: str) -> str:
    """A file of this package: the template, the style sheet, the script."""
    return files("arrag.report.page").joinpath(name).read_text("utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put HTML in the places ``{{name}}``; what is put in is not read again."""
    return PLACE.sub(lambda match: values[match[1]], template)


def digest(content: str) -> str:
    """A script or style sheet as a Content-Security-Policy names it."""
    return f"'sha256-{encoded(hashlib.sha256(content.encode()).digest())}'"
