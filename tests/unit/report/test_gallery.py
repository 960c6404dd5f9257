"""Contact sheets: the right pixels of the right sample in the right place."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFont

from arrag.report import gallery
from arrag.report.gallery import contact_sheet
from arrag.utils.errors import ArragError, MismatchError, UsageError


@pytest.fixture
def runs(tmp_path):
    """Two methods, three prompts, two samples; every sample holds its own address."""
    for m, method in enumerate(("vanilla", "daid")):
        for p in range(3):
            folder = tmp_path / method / f"{p:05d}" / "samples"
            folder.mkdir(parents=True)
            (folder.parent / "metadata.jsonl").write_text(json.dumps({"prompt": f"prompt {p}"}))
            for s in range(2):
                pixels = np.full((8, 8, 3), (100 + m, 50 + p, 10 + s), np.uint8)
                pixels[0, 0] = (255, 0, 0)
                Image.fromarray(pixels).save(folder / f"{s:04d}.png")
    return {"Janus": tmp_path / "vanilla", "+ DAiD": tmp_path / "daid"}


def places(sheet, colour):
    ys, xs = np.nonzero((sheet == np.array(colour)).all(-1))
    return xs, ys


def test_every_sample_stands_in_its_row_and_column_enlarged(runs, tmp_path):
    contact_sheet(runs, [2, 0], tmp_path / "sheet.png", per_prompt=2, scale=3)
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    corners = {}
    for m in range(2):
        for p in (0, 2):
            for s in range(2):
                xs, ys = places(sheet, (100 + m, 50 + p, 10 + s))
                assert len(xs) == (64 - 1) * 9  # 8 x 8 pixels, one is red; each 3 x 3
                corners[m, p, s] = (int(xs.min()), int(ys.min()))
                red = sheet[ys.min() : ys.min() + 3, xs.min() : xs.min() + 3]
                assert (red == (255, 0, 0)).all()  # nearest neighbour: no blend at the edge
    assert corners[0, 2, 0][1] < corners[0, 0, 0][1]  # prompts in the order asked for
    assert corners[0, 2, 0][0] < corners[0, 2, 1][0] < corners[1, 2, 0][0] < corners[1, 2, 1][0]
    assert len({y for (_, p, _), (_, y) in corners.items() if p == 2}) == 1
    assert len(places(sheet, (100, 51, 10))[0]) == 0  # prompt 1 was not asked for


def test_captions_are_drawn_for_prompts_and_methods(runs, tmp_path):
    contact_sheet(runs, [0, 1], tmp_path / "sheet.png", per_prompt=1, scale=8)
    sheet = np.array(Image.open(tmp_path / "sheet.png").convert("L"))
    first = np.array(Image.open(tmp_path / "sheet.png"))
    x, y = (v.min() for v in places(first, (100, 50, 10)))
    dark = sheet < 128
    assert dark[: y - 4, x:].any()  # method names above
    assert dark[y : y + 30, : x - 4].any()  # prompt beside


def test_long_text_is_wrapped_to_its_width():
    font = ImageFont.load_default(gallery.FONT_SIZE)
    text = "a photo of a brown refrigerator right of a purple dining table"
    lines = gallery.wrap(text, font, gallery.CAPTION_WIDTH)
    assert " ".join(lines) == text and len(lines) > 1
    assert all(font.getlength(line) <= gallery.CAPTION_WIDTH for line in lines)
    assert gallery.wrap("incomprehensibilities", font, 20) == ["incomprehensibilities"]


def test_bad_input_is_refused_and_nothing_is_written(runs, tmp_path):
    out = tmp_path / "sheet.png"

    def refused(error, *arguments):
        with pytest.raises(error) as raised:
            contact_sheet(runs, *arguments)
        assert not out.exists()
        return raised.value

    refused(UsageError, [], out, 1, 1)
    assert refused(ArragError, [9], out, 1, 1).path == runs["Janus"] / "00009/metadata.jsonl"
    assert refused(ArragError, [0], out, 3, 1).path.name == "0002.png"
    (runs["Janus"] / "00000/metadata.jsonl").write_text(json.dumps({"prompt": "another"}))
    assert refused(MismatchError, [0], out, 1, 1).field == "prompt"
    Image.new("RGB", (9, 9)).save(runs["Janus"] / "00001/samples/0000.png")
    assert refused(MismatchError, [1], out, 1, 1).field == "size"
