"""The sheet of GenEval verdicts."""

import json

import numpy as np
import pytest
from PIL import Image

from arrag.cli.main import main
from arrag.report.verdicts import choose, verdict_sheet
from arrag.utils.errors import ArragError


def record(folder, correct, tag="colors", reason="", details="{}"):
    prompt = {"tag": tag, "include": [{"class": "cup", "count": 1}], "prompt": f"a photo {folder}"}
    return {
        "filename": f"x/{folder:05d}/samples/0000.png",
        "tag": tag,
        "prompt": prompt["prompt"],
        "correct": correct,
        "reason": reason,
        "metadata": json.dumps(prompt),
        "details": details,
    }


def test_a_sheet_shows_boxes_and_reasons(tmp_path, capsys):
    boxes = json.dumps({"cup": [[0, 0, 4, 4, 0.99]]})
    records = [
        record(0, True, details=boxes),
        record(1, False, details=boxes, reason="expected cup>=1, found 0"),
        record(2, True, "counting"),
    ]
    for r in records:
        path = tmp_path / "samples" / "/".join(r["filename"].split("/")[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), "#808080").save(path)
    results = tmp_path / "r.jsonl"
    results.write_text("".join(json.dumps(r) + "\n" for r in records))
    command = ["report", "verdicts", "--results", str(results), "--images"]
    assert main([*command, str(tmp_path / "samples"), "--out", str(tmp_path / "v.png")]) == 0
    capsys.readouterr()
    sheet = np.asarray(Image.open(tmp_path / "v.png"))
    blue, green, red = (
        (sheet == color).all(-1) for color in ((9, 105, 218), (26, 127, 55), (207, 34, 46))
    )
    assert blue.sum() > 200 and green.sum() > 40 and red.sum() > 40
    assert sheet.shape[1] > 3 * 240
    with pytest.raises(ArragError):
        verdict_sheet(tmp_path / "nowhere", records, tmp_path / "w.png")
    assert not (tmp_path / "w.png").exists()


def test_right_and_wrong_of_every_task_are_chosen():
    records = [record(i, i % 3 == 0, ("colors", "counting")[i % 2]) for i in range(30)]
    chosen = choose(records, 2)
    assert [(r["tag"], r["correct"]) for r in chosen] == [
        (tag, right) for tag in ("colors", "counting") for right in (True, False) for _ in range(2)
    ]
