"""A contact sheet of GenEval verdicts: images with detections, and why each is correct or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from arrag.data.prompts import first_of_each_task
from arrag.data.sample_dir import load_image
from arrag.metrics.geneval.results import NUMBERS
from arrag.report.gallery import FONT_SIZE, INK, MARGIN, PAPER, save_sheet, wrap
from arrag.utils.errors import FormatError, UsageError
from arrag.utils.readers import parse_json, short_message

TILE = 240  # pixels of an image's longer side on the sheet, at least
LABEL_SIZE = 12  # pixels
FAR = 1e6  # pixels; boxes are clipped there
LINE_HEIGHT = FONT_SIZE + 4  # pixels
RIGHT, WRONG = "#1a7f37", "#cf222e"
BOXES = ("#0969da", "#bf3989", "#9a6700", "#8250df", "#1b7c83", "#bc4c00")  # one for each class


def verdict_sheet(
    images_dir: str | Path, records: Sequence[dict[str, Any]], out_png: str | Path, columns: int = 4
) -> None:
    """Draw the records of a GenEval results file with their images as a grid; write a PNG.

    Each tile shows the image, a box with class and score for every detection that counted, the
    prompt, and the verdict with its reasons.

    Images are found in ``images_dir`` by the last three parts of a record's ``filename``.

    Raises:
        UsageError: There is no record.
        ArragError: An image is missing or damaged, or a record cannot be read.
    """
    if not records:
        raise UsageError("no record to show", hint="score some samples first")
    tiles = [_tile(Path(images_dir), record) for record in records]
    width = max(tile.width for tile in tiles) + MARGIN
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (MARGIN + width * len(rows[0]), MARGIN + sum(heights)), PAPER)
    y = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + i * width, y))
        y += height
    save_sheet(sheet, out_png)


def choose(records: Sequence[dict[str, Any]], per_task: int) -> list[dict[str, Any]]:
    """Up to ``per_task`` correct and as many wrong records of each task, in the file's order."""
    kinds = first_of_each_task(records, per_task, lambda r: (r["tag"], bool(r["correct"])))
    tasks = list(dict.fromkeys(record["tag"] for record in records))
    chosen = (records[i] for i in kinds)
    return sorted(chosen, key=lambda r: (tasks.index(r["tag"]), not r["correct"]))


def _tile(root: Path, record: dict[str, Any]) -> Image.Image:
    if not (place := NUMBERS.search(record["filename"])):
        message = "not the path of a sample, such as 00000/samples/0000.png"
        hint = "give the results of a folder of samples"
        raise FormatError(message, path=record["filename"], field="filename", hint=hint)
    path = root / place[0]
    picture = Image.fromarray(load_image(path))
    longer = max(picture.size)
    # Small pictures are enlarged so that every pixel stays a square, large ones are shrunk.
    scale = -(-TILE // longer) if longer < TILE else min(1.0, 2 * TILE / longer)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else None)
    _draw_boxes(picture, record, scale)
    font = ImageFont.load_default(FONT_SIZE)
    lines = [(INK, line) for line in wrap(record["prompt"], font, picture.width)]
    lines.append((RIGHT, "correct") if record["correct"] else (WRONG, "wrong"))
    for reason in filter(None, record.get("reason", "").split("\n")):
        lines += [(WRONG, line) for line in wrap(reason, font, picture.width)]
    tile = Image.new("RGB", (picture.width, picture.height + 4 + LINE_HEIGHT * len(lines)), PAPER)
    tile.paste(picture)
    pen = ImageDraw.Draw(tile)
    for i, (color, line) in enumerate(lines):
        pen.text((0, picture.height + 4 + i * LINE_HEIGHT), line, color, font)
    return tile


def _details(record: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Boxes with scores by class, from a record; FormatError for anything else."""
    try:
        details = parse_json(record.get("details", ""))
        found = {
            str(name): [[min(max(float(x), -FAR), FAR) for x in box] for box in boxes]
            for name, boxes in details.items()
        }
        if any(len(box) != 5 or box != box for boxes in found.values() for box in boxes):
            raise ValueError("a box needs four corners and a score")
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        message, at = f"cannot be read ({short_message(error)})", record["filename"]
        raise FormatError(message, path=at, field="details", hint="score it again") from None
    return found


def _draw_boxes(picture: Image.Image, record: dict[str, Any], scale: float) -> None:
    """Draw boxes first, then labels, so that no line crosses a text."""
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(LABEL_SIZE)
    labels = []
    for i, (name, boxes) in enumerate(_details(record).items()):
        color = BOXES[i % len(BOXES)]
        for x0, y0, x1, y1, score in boxes:
            corners = [x0 * scale, y0 * scale, x1 * scale - 1, y1 * scale - 1]
            corners[2:] = map(max, zip(corners[:2], corners[2:], strict=True))
            pen.rectangle(corners, outline=color, width=2)
            labels.append((corners[0], corners[1], f"{name} {score:.2f}", color))
    taken: list[tuple[float, float, float]] = []
    for x, y, text, color in labels:
        _, _, right, bottom = pen.textbbox((0, 0), text, font)
        width, height = right + 4, bottom + 2
        x = max(0, min(x, picture.width - width))
        y = max(0, min(y, picture.height - height))
        while any(abs(x - u) < max(width, w) and abs(y - v) < height for u, v, w in taken):
            y += height  # below the label drawn there already
        taken.append((x, y, width))
        pen.rectangle([x, y, x + width - 1, y + height - 1], fill=color)
        pen.text((x + 2, y), text, PAPER, font)
