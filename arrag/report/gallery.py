"""Contact sheets: samples of several methods side by side, one row for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from arrag.config.root import Config
from arrag.data.prompts import first_of_each_task, load_prompt_set
from arrag.data.sample_dir import load_image, prompt_text, sample_path
from arrag.pipeline.layout import Layout
from arrag.pipeline.records import write_record
from arrag.utils.errors import MismatchError, UsageError
from arrag.utils.outputs import atomic_path

FONT_SIZE = 15  # pixels
CAPTION_WIDTH = 190  # pixels of the prompts' column
GAP = 4  # pixels between images of a prompt
MARGIN = 14  # pixels around the sheet and between methods
INK, PAPER, LINE = "#1f2328", "#ffffff", "#d1d9e0"
LONGEST = 2000  # characters drawn of a text


def write_gallery(config: Config, out: Path, per_task: int = 2, images: int = 4) -> list[int]:
    """Write a contact sheet of all methods and the real images, with its record.

    Args:
        config: The configuration, whose samples are read where the workflow has them.
        out: The PNG file.
        per_task: Prompts of each task.
        images: Images of each prompt.

    Returns:
        Indices of the prompts shown.

    Raises:
        MissingError: A sample is missing.
    """
    name = config.main_benchmark
    benchmark, layout = config.benchmark(name), Layout(config)
    labels = config.row_labels(name)
    labels.pop("reconstructions", None)  # hardly different from the real images
    columns = {label: layout.samples(key, name) for key, label in labels.items()}
    shown = first_of_each_task(load_prompt_set(benchmark), per_task)
    first = load_image(sample_path(next(iter(columns.values())), 0, 0))
    scale = max(1, 96 // first.shape[1])  # small images are enlarged to about 96 pixels
    contact_sheet(columns, shown, out, min(images, benchmark.images_per_prompt), scale)
    write_record(out, made_of={f"samples of {k}": p for k, p in columns.items()})
    return shown


def contact_sheet(
    columns: Mapping[str, str | Path],
    prompts: Sequence[int],
    out_png: str | Path,
    per_prompt: int,
    scale: int,
) -> None:
    """Draw samples as a grid of prompts (rows) by methods (columns) and write a PNG.

    Args:
        columns: Folder of samples in GenEval's layout, by caption.
        prompts: Indices of the prompts; their texts come from the samples' metadata.
        out_png: The file to write.
        per_prompt: Samples of each prompt, from the first on.
        scale: Factor by which images are enlarged, every pixel to a square.

    Raises:
        UsageError: Nothing to draw.
        MismatchError: Samples differ in size, or folders hold other prompts under an index.
        ArragError: A sample is missing or damaged.
    """
    if not columns or not prompts or per_prompt < 1 or scale < 1:
        sizes = f"{len(columns)} columns, {len(prompts)} prompts, {per_prompt=}, {scale=}"
        raise UsageError(f"contact sheet: {sizes}; each must be at least 1")
    texts = []
    for prompt in prompts:
        found = {label: prompt_text(root, prompt) for label, root in columns.items()}
        if len(set(found.values())) > 1:
            message = f"prompt {prompt} differs between folders: {found}"
            raise MismatchError(message, field="prompt", hint="generate the samples again")
        texts.append(next(iter(found.values())))

    def pictures_of(root: str | Path, prompt: int) -> list[Image.Image]:
        files = [sample_path(root, prompt, i) for i in range(per_prompt)]
        images = [Image.fromarray(load_image(file)) for file in files]
        return [ImageOps.scale(image, scale, Image.Resampling.NEAREST) for image in images]

    pictures = [[pictures_of(root, prompt) for root in columns.values()] for prompt in prompts]
    sizes = {picture.size for row in pictures for group in row for picture in group}
    if len(sizes) > 1:
        found = f"samples have sizes {sorted(sizes)}"
        raise MismatchError(found, field="size", hint="show one size")
    save_sheet(_draw(list(columns), texts, pictures, sizes.pop()), out_png)


def save_sheet(sheet: Image.Image, out_png: str | Path) -> None:
    """Write a contact sheet as PNG."""
    with atomic_path(out_png) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


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
    lefts = [MARGIN + CAPTION_WIDTH + MARGIN + i * (group + MARGIN) for i in range(len(labels))]
    right = lefts[-1] + group
    sheet = Image.new("RGB", (right + MARGIN, top + MARGIN + sum(rows)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for left, head in zip(lefts, heads, strict=True):
        pen.multiline_text((left, MARGIN), "\n".join(head), INK, font)
    y = top
    for caption, row, step in zip(captions, pictures, rows, strict=True):
        pen.line([(MARGIN, y), (right, y)], LINE)
        body = y + MARGIN // 2
        for i, text in enumerate(caption):
            pen.text((MARGIN, body + i * line), text, INK, font)
        for left, images in zip(lefts, row, strict=True):
            for i, image in enumerate(images):
                sheet.paste(image, (left + i * (width + GAP), body))
        y += step
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wrap ``text`` at words to lines of at most ``width`` pixels (a longer word has its own).

    A text is cut at LONGEST characters, which no prompt reaches.
    """
    lines = [""]
    for word in text[:LONGEST].split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
