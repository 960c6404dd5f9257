"""Contact sheets: the samples of several methods side by side, one prompt a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from arrag.data.sample_dir import load_image, prompt_text
from arrag.utils.errors import ArragError
from arrag.utils.outputs import atomic_path

FONT_SIZE = 15  # pixels
CAPTION_WIDTH = 190  # pixels of the prompts' column
GAP = 4  # pixels between images of a prompt
MARGIN = 14  # pixels around the sheet and between methods
INK, PAPER, LINE = "#1f2328", "#ffffff", "#d1d9e0"
LONGEST = 2000  # characters of a text that are drawn


def contact_sheet(
    columns: Mapping[str, str | Path],
    prompts: Sequence[int],
    out_png: str | Path,
    per_prompt: int,
    scale: int,
) -> None:
    """Draw samples as a grid of prompts (rows) by methods (columns) and write a PNG.

    ``columns`` maps a caption to a directory of samples in GenEval's layout; ``prompts`` are the
    indices of the prompts shown, whose texts come from the samples' metadata. The first
    ``per_prompt`` images of each are enlarged ``scale`` times, every pixel a square. Raises
    ArragError when a sample is missing or damaged, when sizes differ, or when the directories hold
    other prompts under the same index.
    """
    if not columns or not prompts or per_prompt < 1 or scale < 1:
        raise ArragError(
            f"contact sheet: {len(columns)} columns, {len(prompts)} prompts, per_prompt "
            f"{per_prompt}, scale {scale}; each must be at least 1"
        )
    texts = [_text(columns, prompt) for prompt in prompts]
    pictures = [
        [_pictures(Path(root), prompt, per_prompt, scale) for root in columns.values()]
        for prompt in prompts
    ]
    sizes = {picture.size for row in pictures for group in row for picture in group}
    if len(sizes) > 1:
        raise ArragError(f"contact sheet: samples have sizes {sorted(sizes)}; show equal sizes")
    sheet = _draw(list(columns), texts, pictures, sizes.pop())
    with atomic_path(out_png) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _text(columns: Mapping[str, str | Path], prompt: int) -> str:
    texts = {label: prompt_text(root, prompt) for label, root in columns.items()}
    if len(set(texts.values())) > 1:
        raise ArragError(f"contact sheet: prompt {prompt} differs between directories: {texts}")
    return next(iter(texts.values()))


def _pictures(root: Path, prompt: int, per_prompt: int, scale: int) -> list[Image.Image]:
    folder = root / f"{prompt:05d}" / "samples"
    images = [Image.fromarray(load_image(folder / f"{i:04d}.png")) for i in range(per_prompt)]
    return [
        im.resize((im.width * scale, im.height * scale), Image.Resampling.NEAREST) for im in images
    ]


def _draw(
    labels: list[str],
    texts: list[str],
    pictures: list[list[list[Image.Image]]],
    size: tuple[int, int],
) -> Image.Image:
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + 5
    width, height = size
    group = len(pictures[0][0]) * (width + GAP) - GAP
    heads = [wrap(label, font, group) for label in labels]
    captions = [wrap(text, font, CAPTION_WIDTH) for text in texts]
    top = MARGIN + line * max(map(len, heads)) + GAP
    rows = [max(height, line * len(caption)) + MARGIN for caption in captions]
    total = (
        MARGIN + CAPTION_WIDTH + len(labels) * (MARGIN + group) + MARGIN,
        top + MARGIN + sum(rows),
    )
    sheet = Image.new("RGB", total, PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [MARGIN + CAPTION_WIDTH + MARGIN + i * (group + MARGIN) for i in range(len(labels))]
    for left, head in zip(lefts, heads, strict=True):
        pen.multiline_text((left, MARGIN), "\n".join(head), INK, font)
    y = top
    for caption, row, step in zip(captions, pictures, rows, strict=True):
        pen.line([(MARGIN, y), (total[0] - MARGIN, y)], LINE)
        body = y + MARGIN // 2
        for i, text in enumerate(caption):
            pen.text((MARGIN, body + i * line), text, INK, font)
        for left, images in zip(lefts, row, strict=True):
            for i, image in enumerate(images):
                sheet.paste(image, (left + i * (width + GAP), body))
        y += step
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Words of ``text`` in lines of at most ``width`` pixels (a longer word stands alone).

    Of a text of more than LONGEST characters, as no prompt is, only the beginning.
    """
    lines = [""]
    for word in text[:LONGEST].split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
