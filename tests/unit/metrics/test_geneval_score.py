"""A whole GenEval run on real PNGs: the summary, what is refused, and going on after a stop."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from arrag.data.sample_dir import list_samples, load_image
from arrag.metrics.base import ScoreOptions
from arrag.metrics.geneval.score import GenEval
from arrag.metrics.types import Detection
from arrag.utils.errors import ArragError, FormatError, MismatchError
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_file

BOX = (0.0, 0.0, 10.0, 10.0)
CUP = {"class": "cup", "count": 1}
PROMPTS = [
    {"tag": "single_object", "include": [CUP], "prompt": "a cup"},
    {"tag": "colors", "include": [CUP | {"color": "green"}], "prompt": "a green cup"},
    {"tag": "counting", "include": [CUP | {"count": 2}], "prompt": "two cups"},
]
# Level of the red channel: 1 = a green cup, 0 = a red cup, 9 = nothing there.
LEVELS = [[0, 9], [1, 0], [0, 0]]


class LevelColors:
    name, digest = "pixels", "c" * 64

    def classify(self, image, mask, box, class_name):
        return ("red", "green")[int(image[0, 0, 0])]


class OneCup:
    """Finds a cup in the left corner of an image unless its red channel says 9."""

    name, digest, classes = "corner", "d" * 64, ["cup", "dog"]

    def __init__(self, stop_after=99):
        self.batches, self.stop_after = [], stop_after

    def detect(self, images):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(images))
        mask = np.ones((16, 16), bool)
        cup = Detection("cup", 0.95, BOX, mask)
        return [[] if image[0, 0, 0] == 9 else [cup] for image in images]


def add_folder(root, index, metadata, levels):
    folder = root / f"{index:05d}" / "samples"
    folder.mkdir(parents=True)
    (folder.parent / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    for s, level in enumerate(levels):
        Image.new("RGB", (16, 16), (level, 0, 0)).save(folder / f"{s:04d}.png")


def write_prompts(run, prompts):
    (run / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))


@pytest.fixture
def run(tmp_path):
    for i, (metadata, levels) in enumerate(zip(PROMPTS, LEVELS, strict=True)):
        add_folder(tmp_path / "samples", i, metadata, levels)
    about = {"seed": 5, "images_per_prompt": 2}
    (tmp_path / "samples/run.json").write_text(json.dumps(about))
    write_prompts(tmp_path, PROMPTS)
    return tmp_path


def score(run, detector=None, prompts="prompts.jsonl", **options):
    detector = detector or OneCup()
    options = ScoreOptions(out=run / "out/score.json", records=run / "out/records.jsonl", **options)
    target = None if prompts is None else run / prompts
    return GenEval(detector, LevelColors()).score(run / "samples", target, options), detector


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_a_whole_run(run):
    found, detector = score(run, batch_size=4)
    assert detector.batches == [4, 2]
    values = {task: cell["value"] for task, cell in found.tasks.items()}
    assert values == {"single_object": 0.5, "colors": 0.5, "counting": 0.0}
    assert found.value == pytest.approx(1 / 3) and found.interval == [found.value] * 2
    assert (found.n_images, found.n_prompts, found.tasks["colors"]["n"]) == (6, 3, 1)
    assert [row["verdicts"] for row in found.per_prompt] == ["10", "10", "00"]
    assert found.prompt_set_sha256 == sha256_file(run / "prompts.jsonl")
    assert found.judge["detector_digest"] == "d" * 64 and found.judge["color"] == "pixels"
    assert found.run == {"seed": 5, "images_per_prompt": 2} and found.left_out == {}
    assert found.compat == "official" and "torch" in found.versions
    assert read_json(run / "out/score.json") == found.to_json()
    records = [json.loads(s) for s in (run / "out/records.jsonl").read_text().splitlines()]
    assert [r["filename"][:5] for r in records] == ["00000"] * 2 + ["00001"] * 2 + ["00002"] * 2
    assert [r["correct"] for r in records] == [True, False, True, False, False, False]


def test_the_overall_is_the_mean_of_tasks_not_of_images(run):
    for i in range(3, 6):
        add_folder(run / "samples", i, PROMPTS[0], [0, 0])
    write_prompts(run, PROMPTS + [PROMPTS[0]] * 3)
    found, _ = score(run)
    assert found.tasks["single_object"]["value"] == 7 / 8
    assert found.value == pytest.approx((7 / 8 + 1 / 2 + 0) / 3)  # of images: 8 / 12


def test_official_folders_need_no_prompt_file(run):
    """The official generator numbers images with five digits and writes no run.json."""
    (run / "samples/run.json").unlink()
    for path in sorted((run / "samples").glob("*/samples/*.png")):
        path.rename(path.with_name(f"0{path.name}"))
    (run / "samples/00000/grid.png").touch()
    found, _ = score(run, prompts=None)
    assert found.value == pytest.approx(1 / 3) and found.run is None
    assert found.image_sizes == {"16 x 16": 6}
    (run / "samples/00001/samples/00001.png").unlink()  # the largest folder sets the count
    with refused(MismatchError):
        score(run, prompts=None)


def test_a_partial_run_states_what_is_missing(run):
    (run / "samples/00001/samples/0001.png").unlink()
    truncate(run / "samples/00000/samples/0001.png")
    shutil.rmtree(run / "samples/00002")
    found, _ = score(run, allow_partial=True)
    assert {what: gap["first"] for what, gap in found.partial.items()} == {
        "prompt folders are missing": ["00002"],
        "images are missing": ["00001/samples/0001.png"],
        "images are damaged": ["00000/samples/0001.png"],
    }
    assert set(found.left_out.values()) == {1}
    assert (found.n_prompts, found.n_images, found.value) == (2, 2, 1)


def test_a_stopped_run_goes_on_where_it_was(run):
    with pytest.raises(KeyboardInterrupt):
        score(run, OneCup(stop_after=2), batch_size=2)
    assert not (run / "out/score.json").exists()
    found, detector = score(run, batch_size=2)
    assert detector.batches == [2] and found.n_images == 6
    assert [p.name for p in (run / "out").iterdir() if p.suffix == ".partial"] == []


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda s: shutil.rmtree(s / "00001"), "00001"),
        (lambda s: (s / "00007").mkdir(), "00007"),
        (
            lambda s: (s / "00001/metadata.jsonl").write_text(json.dumps(PROMPTS[0])),
            "00001/metadata.jsonl",
        ),
        (lambda s: (s / "00002/samples/0000.png").unlink(), "00002/samples/0000.png"),
        (lambda s: (s / "00002/samples/0002.png").touch(), "00002/samples/0002.png"),
        (lambda s: truncate(s / "00000/samples/0001.png"), "00000/samples/0001.png"),
    ],
)
def test_an_incomplete_set_is_refused_by_name(run, harm, named):
    harm(run / "samples")
    with refused(ArragError, path=run / "samples") as caught:
        score(run)
    assert "1 " in str(caught.value) and named in str(caught.value)
    assert not (run / "out").exists()


def test_other_prompts_and_other_classes_are_refused(run):
    with refused(MismatchError, path=run / "samples") as caught:
        list_samples(run / "samples", PROMPTS + [PROMPTS[0]] * 37)
    assert "00003" in caught.value.message and "00039" not in caught.value.message
    write_prompts(run, [p | {"include": [CUP | {"class": "zebra"}]} for p in PROMPTS])
    with refused(MismatchError, path=run / "prompts.jsonl", field="class"):
        score(run)


def test_images_are_read_upright_and_in_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("L", (6, 4), 7).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png").shape == (6, 4, 3)
    (tmp_path / "b.png").write_bytes(b"no image")
    with refused(FormatError, path=tmp_path / "b.png"):
        load_image(tmp_path / "b.png")
