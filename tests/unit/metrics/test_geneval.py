"""GenEval's rules clause by clause, the folder checks, and a whole scoring run on real PNGs."""

import json

import numpy as np
import pytest
from PIL import Image

from arrag.data.sample_dir import list_samples, load_image
from arrag.metrics.base import ScoreOptions
from arrag.metrics.geneval import judge as geneval
from arrag.metrics.geneval.judge import iou, keep_detections, relations
from arrag.metrics.geneval.score import GenEval
from arrag.metrics.types import Detection
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_file

IMAGE = np.zeros((64, 64, 3), np.uint8)


def thing(label, score=0.95, box=(0, 0, 10, 10)):
    mask = np.zeros((64, 64), bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return Detection(label, score, tuple(map(float, box)), mask)


class PixelColors:
    """Reads the colour off the image: the red channel under the mask is an index into `names`."""

    name, digest = "pixels", "c" * 64
    names = ("red", "green", "blue")

    def __init__(self):
        self.calls = []

    def classify(self, image, mask, box, class_name):
        self.calls.append((class_name, box))
        return self.names[int(image[mask][0, 0])]


def verdict(detections, metadata, image=IMAGE):
    return geneval.evaluate_image(image, detections, metadata, PixelColors(), "f.png")


def prompt(*include, tag="two_object", exclude=None):
    metadata = {"tag": tag, "include": list(include), "prompt": "a photo of something"}
    return metadata | ({"exclude": exclude} if exclude else {})


# -- which detections count --------------------------------------------------------------------


def test_thresholds_are_strict():
    # The official scores are float32: what is 0.3 in float32 is not above it.
    at, above = thing("cup", 0.3), thing("cup", np.nextafter(np.float32(0.3), np.float32(1)))
    assert keep_detections([at], "single_object") == {}
    assert keep_detections([at, above], "single_object") == {"cup": [above]}
    at, above = thing("cup", 0.9), thing("cup", np.nextafter(np.float32(0.9), np.float32(1)))
    assert keep_detections([at], "counting") == {}
    assert keep_detections([at, above], "counting") == {"cup": [above]}


def test_the_sixteen_best_of_a_class_are_kept_best_first():
    cups = [thing("cup", 0.4 + 0.02 * i) for i in range(20)]
    kept = keep_detections([thing("dog", 0.5), *cups], "colors")
    assert kept["cup"] == cups[:3:-1] and len(kept["cup"]) == 16
    assert len(kept["dog"]) == 1


def test_overlapping_boxes_are_all_kept_unless_asked():
    a, b = thing("cup", 0.9), thing("cup", 0.8)
    assert keep_detections([a, b], "colors") == {"cup": [a, b]}
    assert keep_detections([b, a], "colors", max_overlap=0.5) == {"cup": [a]}


def test_iou_counts_one_more_pixel():
    # 10 x 10 boxes become 11 x 11 = 121 pixels; they share columns 5..10 -> 6 x 11 = 66.
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(66 / (242 - 66))
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == pytest.approx(11 / (242 - 11))
    assert iou((0, 0, 10, 10), (11, 0, 20, 10)) == 0


# -- include: count ----------------------------------------------------------------------------


def test_too_few_and_enough():
    two = {"class": "cup", "count": 2}
    record = verdict([thing("cup")], prompt(two))
    assert not record["correct"] and record["reason"] == "expected cup>=2, found 1"
    assert verdict([thing("cup")] * 2, prompt(two))["correct"]


def test_counting_demands_the_higher_score_and_exclude_bounds_it_above():
    metadata = prompt(
        {"class": "cup", "count": 2}, tag="counting", exclude=[{"class": "cup", "count": 3}]
    )
    assert verdict([thing("cup")] * 2, metadata)["correct"]
    assert verdict([thing("cup")] * 2 + [thing("cup", 0.9)], metadata)["correct"]
    many = verdict([thing("cup")] * 3, metadata)
    assert not many["correct"] and many["reason"] == "expected cup<3, found 3"
    assert not verdict([thing("cup"), thing("cup", 0.85)], metadata)["correct"]


def test_exclude_of_another_class():
    metadata = prompt({"class": "cup", "count": 1}, exclude=[{"class": "dog", "count": 1}])
    assert verdict([thing("cup")], metadata)["correct"]
    assert not verdict([thing("cup"), thing("dog", 0.4)], metadata)["correct"]
    assert verdict([thing("cup"), thing("dog", 0.3)], metadata)["correct"]


def test_every_failing_clause_gives_a_reason():
    metadata = prompt(
        {"class": "cup", "count": 1},
        {"class": "dog", "count": 1},
        exclude=[{"class": "cat", "count": 1}],
    )
    record = verdict([thing("cat")], metadata)
    assert record["reason"].split("\n") == [
        "expected cup>=1, found 0",
        "expected dog>=1, found 0",
        "expected cat<1, found 1",
    ]


# -- include: colour ---------------------------------------------------------------------------


def painted(*boxes_and_levels):
    image = IMAGE.copy()
    for (x0, y0, x1, y1), level in boxes_and_levels:
        image[y0:y1, x0:x1, 0] = level
    return image


LEFT, RIGHT = (0, 0, 10, 10), (40, 0, 50, 10)


def test_colour_must_match():
    image = painted((LEFT, 1))
    for name, right in (("green", True), ("red", False)):
        metadata = prompt({"class": "cup", "count": 1, "color": name}, tag="colors")
        assert verdict([thing("cup", box=LEFT)], metadata, image)["correct"] is right
    assert verdict([thing("cup", box=LEFT)], metadata, image)["reason"] == (
        "expected red cup>=1, found 0 red; and 1 green"
    )


def test_only_the_first_count_detections_are_examined():
    image = painted((LEFT, 0), (RIGHT, 1))
    best_red = [thing("cup", 0.9, LEFT), thing("cup", 0.8, RIGHT)]
    best_green = [thing("cup", 0.8, LEFT), thing("cup", 0.9, RIGHT)]
    metadata = prompt({"class": "cup", "count": 1, "color": "green"}, tag="colors")
    assert not verdict(best_red, metadata, image)["correct"]  # a green cup is there, but second
    assert verdict(best_green, metadata, image)["correct"]


def test_colour_is_not_asked_where_the_count_fails():
    colors = PixelColors()
    clause = {"class": "cup", "count": 2, "color": "red"}
    assert geneval.failure_reasons(IMAGE, {"cup": [thing("cup")]}, prompt(clause), colors)
    assert colors.calls == []


def test_a_clause_of_two_needs_both_colours():
    image = painted((LEFT, 0), (RIGHT, 1))
    cups = [thing("cup", 0.9, LEFT), thing("cup", 0.8, RIGHT)]
    metadata = prompt({"class": "cup", "count": 2, "color": "red"}, tag="colors")
    record = verdict(cups, metadata, image)
    assert record["reason"] == "expected red cup>=2, found 1 red; and 1 red, 1 green"


# -- include: position -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (30, 0, 40, 10), ["left of"]),
        ((30, 0, 40, 10), (0, 0, 10, 10), ["right of"]),
        ((0, 0, 10, 10), (0, 30, 10, 40), ["above"]),
        ((0, 30, 10, 40), (0, 0, 10, 10), ["below"]),
        # Offset (-30, -30), less 2 on each axis, over |(30, 30)| = 42.4: 0.66 on both axes.
        ((0, 0, 10, 10), (30, 30, 40, 40), ["left of", "above"]),
        # Offset (-2, 0): exactly the margin 0.1 * (10 + 10), nothing is left.
        ((0, 0, 10, 10), (2, 0, 12, 10), []),
        # Offset (-4, 0): 2 left over 4 = 0.5, not above it.
        ((0, 0, 10, 10), (4, 0, 14, 10), []),
        # Offset (-4.1, 0): 2.1 / 4.1 = 0.512.
        ((0, 0, 10, 10), (4.1, 0, 14.1, 10), ["left of"]),
        # Offset (-13, -20) -> (-11, -18); raw length 23.85 -> 0.461; own length 21.1 -> 0.521.
        ((0, 0, 10, 10), (13, 20, 23, 30), ["above"]),
        # The margin follows each axis' own extent: widths 40 + 40 -> 8, heights 4 + 4 -> 0.8.
        ((0, 0, 40, 4), (8, 10, 48, 14), ["above"]),
        ((5, 5, 9, 9), (5, 5, 9, 9), []),
    ],
)
def test_relations(a, b, expected):
    assert relations(a, b) == expected


def test_position_examines_every_pair_and_names_the_failure():
    target = {"class": "cup", "count": 1}
    subject = {"class": "dog", "count": 2, "position": ["right of", 0]}
    metadata = prompt(target, subject, tag="position")
    cup, near = thing("cup", box=(20, 0, 30, 10)), thing("dog", 0.8, (50, 0, 60, 10))
    far = thing("dog", 0.7, (45, 0, 55, 10))
    assert verdict([cup, near, far], metadata)["correct"]
    wrong = verdict([cup, near, thing("dog", 0.7, (0, 0, 10, 10))], metadata)
    assert wrong["reason"] == "expected dog right of target, found left of target"
    unclear = verdict([cup, near, thing("dog", 0.7, (20, 0, 30, 10))], metadata)
    assert unclear["reason"] == "expected dog right of target, found  target"


def test_position_without_its_target():
    metadata = prompt(
        {"class": "cup", "count": 1},
        {"class": "dog", "count": 1, "position": ["right of", 0]},
        tag="position",
    )
    assert verdict([thing("dog")], metadata)["reason"].split("\n") == [
        "expected cup>=1, found 0",
        "no target for dog to be right of",
    ]


def test_position_is_not_examined_where_the_colour_fails():
    metadata = prompt(
        {"class": "cup", "count": 1},
        {"class": "dog", "count": 1, "color": "blue", "position": ["right of", 0]},
    )
    record = verdict([thing("cup"), thing("dog")], metadata)
    assert record["reason"] == "expected blue dog>=1, found 0 blue; and 1 red"


def test_record_has_the_official_fields():
    metadata = prompt({"class": "cup", "count": 1}, tag="single_object")
    record = verdict([thing("cup", 0.5, (1, 2, 3, 4)), thing("dog", 0.1)], metadata)
    assert list(record) == [
        "filename",
        "tag",
        "prompt",
        "correct",
        "reason",
        "metadata",
        "details",
    ]
    assert record["correct"] is True and record["reason"] == ""
    assert json.loads(record["metadata"]) == metadata
    assert json.loads(record["details"]) == {"cup": [[1.0, 2.0, 3.0, 4.0, 0.5]]}


CUP = {"class": "cup", "count": 1}


# -- folders of samples ------------------------------------------------------------------------

PROMPTS = [
    prompt(CUP, tag="single_object"),
    prompt(CUP | {"color": "green"}, tag="colors"),
    prompt(CUP | {"count": 2}, tag="counting"),
]
# Level of the red channel: 1 = a green cup, 0 = a red cup, 9 = nothing there.
LEVELS = [[0, 9], [1, 0], [0, 0]]


@pytest.fixture
def run(tmp_path):
    root = tmp_path / "samples"
    for i, (metadata, levels) in enumerate(zip(PROMPTS, LEVELS, strict=True)):
        folder = root / f"{i:05d}" / "samples"
        folder.mkdir(parents=True)
        (folder.parent / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
        for s, level in enumerate(levels):
            Image.fromarray(painted((LEFT, level))).save(folder / f"{s:04d}.png")
    (root / "run.json").write_text(json.dumps({"seed": 5, "images_per_prompt": 2}))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    return tmp_path


class OneCup:
    """Finds a cup in the left corner of an image unless its red channel says 9."""

    name, digest, classes = "corner", "d" * 64, ["cup", "dog"]

    def __init__(self):
        self.batches = []

    def detect(self, images):
        self.batches.append(len(images))
        return [[] if image[0, 0, 0] == 9 else [thing("cup", box=LEFT)] for image in images]


def score(run, detector=None, prompts="prompts.jsonl", **options):
    detector = detector or OneCup()
    options = ScoreOptions(out=run / "out/score.json", records=run / "out/records.jsonl", **options)
    target = None if prompts is None else run / prompts
    found = GenEval(detector, PixelColors()).score(run / "samples", target, options)
    return found.to_json(), detector


def test_a_whole_run(run):
    result, detector = score(run, batch_size=4)
    assert detector.batches == [4, 2]
    assert {t: v["value"] for t, v in result["tasks"].items()} == {
        "single_object": 0.5,
        "colors": 0.5,
        "counting": 0.0,
    }
    assert result["value"] == pytest.approx(1 / 3) and result["interval"] == [result["value"]] * 2
    assert result["tasks"]["colors"]["n"] == 1
    assert (result["n_images"], result["n_prompts"]) == (6, 3)
    assert [row["verdicts"] for row in result["per_prompt"]] == ["10", "10", "00"]
    assert [row["mean"] for row in result["per_prompt"]] == [0.5, 0.5, 0.0]
    assert result["prompt_set_sha256"] == sha256_file(run / "prompts.jsonl")
    assert result["judge"] == {
        "detector": "corner",
        "detector_digest": "d" * 64,
        "color": "pixels",
        "color_digest": "c" * 64,
    }
    assert result["run"] == {"seed": 5, "images_per_prompt": 2}
    assert result["compat"] == "official" and "torch" in result["versions"]
    assert read_json(run / "out/score.json") == result
    records = [json.loads(s) for s in (run / "out/records.jsonl").read_text().splitlines()]
    assert [r["filename"] for r in records][:3] == [
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/samples/0000.png",
    ]
    assert [r["correct"] for r in records] == [True, False, True, False, False, False]


def test_the_overall_is_the_mean_of_tasks_not_of_images(run):
    more = [prompt(CUP, tag="single_object")] * 3
    for i, metadata in enumerate(more, start=3):
        folder = run / "samples" / f"{i:05d}" / "samples"
        folder.mkdir(parents=True)
        (folder.parent / "metadata.jsonl").write_text(json.dumps(metadata))
        for s in range(2):
            Image.fromarray(painted((LEFT, 0))).save(folder / f"{s:04d}.png")
    (run / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS + more))
    result, _ = score(run)
    assert result["tasks"]["single_object"]["value"] == 7 / 8
    assert result["value"] == pytest.approx((7 / 8 + 1 / 2 + 0) / 3)  # of images: 8 / 12


def test_without_run_json_the_largest_folder_sets_the_count(run):
    (run / "samples/run.json").unlink()
    assert score(run)[0]["run"] is None
    (run / "samples/00001/samples/0001.png").unlink()
    with pytest.raises(ArragError):
        score(run)


def test_official_folders_need_no_prompt_file(run):
    """The official generator numbers images with five digits and writes no run.json."""
    (run / "samples/run.json").unlink()
    for path in sorted((run / "samples").glob("*/samples/*.png")):
        path.rename(path.with_name(f"0{path.name}"))
    (run / "samples/00000/grid.png").touch()
    whole, _ = score(run, prompts=None)
    assert whole["value"] == pytest.approx(1 / 3) and whole["partial"] == {}
    assert whole["overall"] == whole["value"] and whole["image_sizes"] == {"64 x 64": 6}
    assert json.loads((run / "out/records.jsonl").read_text().split("\n")[0])["filename"] == (
        "00000/samples/00000.png"
    )
    (run / "samples/00001").rename(run / "samples/00003")
    with pytest.raises(ArragError):
        score(run, prompts=None)


def test_a_partial_run_says_what_is_missing(run):
    (run / "samples/00001/samples/0001.png").unlink()
    _truncate(run / "samples/00000/samples/0001.png")
    for path in sorted((run / "samples/00002").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (run / "samples/00002").rmdir()
    result, _ = score(run, allow_partial=True)
    assert result["partial"] == {
        "prompt folders are missing": {"count": 1, "first": ["00002"]},
        "images are missing": {"count": 1, "first": ["00001/samples/0001.png"]},
        "images are damaged": {"count": 1, "first": ["00000/samples/0001.png"]},
    }
    assert (result["n_prompts"], result["n_images"], result["value"]) == (2, 2, 1)


def test_a_stopped_run_goes_on_where_it_was(run):
    class Stopping(OneCup):
        def detect(self, images):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().detect(images)

    with pytest.raises(KeyboardInterrupt):
        score(run, Stopping(), batch_size=2)
    assert not (run / "out/score.json").exists()
    result, detector = score(run, batch_size=2)
    assert detector.batches == [2] and result["n_images"] == 6
    assert [p.name for p in (run / "out").iterdir() if p.suffix == ".partial"] == []


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda s: [f.rename(s / f"old-{f.name}") for f in sorted(s.glob("0*"))[:2]],
            "2 prompt folders are missing: 00000, 00001",
        ),
        (lambda s: (s / "00007").mkdir(), "1 folders belong to no prompt: 00007"),
        (
            lambda s: (s / "00001/metadata.jsonl").write_text(json.dumps(PROMPTS[0])),
            "1 metadata files are missing or of another prompt set: 00001/metadata.jsonl",
        ),
        (
            lambda s: (s / "00002/samples/0000.png").unlink(),
            "1 images are missing: 00002/samples/0000.png",
        ),
        (
            lambda s: (s / "00002/samples/0002.png").touch(),
            "1 images are beyond the 2 a prompt: 00002/samples/0002.png",
        ),
        (
            lambda s: _truncate(s / "00000/samples/0001.png"),
            "1 images are damaged: 00000/samples/0001.png",
        ),
        (
            lambda s: _flip(s / "00000/samples/0001.png"),
            "1 images are damaged: 00000/samples/0001.png",
        ),
    ],
)
def test_an_incomplete_set_is_refused(run, harm, message):
    harm(run / "samples")
    with pytest.raises(ArragError) as caught:
        score(run)
    assert message in str(caught.value)
    assert not (run / "out").exists()


def test_many_offenders_are_counted_and_the_first_named(run):
    with pytest.raises(ArragError):
        list_samples(run / "samples", PROMPTS + [prompt(CUP)] * 37)


def test_a_class_the_detector_does_not_know(run):
    lines = [json.dumps(p | {"include": [CUP | {"class": "zebra"}]}) for p in PROMPTS]
    (run / "prompts.jsonl").write_text("\n".join(lines))
    with pytest.raises(ArragError):
        score(run)


def test_load_image_turns_upright_and_to_rgb(tmp_path):
    picture = Image.new("L", (6, 4), 7)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png").shape == (6, 4, 3)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ArragError):
        load_image(tmp_path / "b.png")
