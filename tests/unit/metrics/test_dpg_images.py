"""Grids and folders of DPG-Bench images, judges that look at them, and going on after a stop."""

import csv
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from arrag.cli.main import main
from arrag.data.questions import Question
from arrag.metrics.base import ScoreOptions
from arrag.metrics.dpg.images import list_dpg_images, write_grids
from arrag.metrics.dpg.judges import RuleJudge, TransformersJudge, open_judge
from arrag.metrics.dpg.score import DPGBench
from arrag.metrics.resume_log import ResumeLog
from arrag.metrics.types import Detection
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError

SIDE = 8


def grid(*levels):
    """Four flat images, top left, top right, bottom left, bottom right."""
    image = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    for level, (row, column) in zip(levels, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        image[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = level
    return Image.fromarray(image)


class LevelJudge:
    """Says yes to question n when the image is flat and at least of level n."""

    name, digest, versions = "levels", "e" * 64, {}

    def __init__(self):
        self.asked = 0

    def answer(self, image, questions):
        assert image.shape == (SIDE, SIDE, 3) and len(np.unique(image)) == 1
        self.asked += 1
        return ["yes" if image[0, 0, 0] >= question.id else "no" for question in questions]


@pytest.fixture
def run(tmp_path):
    """Two prompts of three questions each, as grids."""
    (tmp_path / "grids").mkdir()
    grid(3, 2, 1, 0).save(tmp_path / "grids/a1.png")
    grid(3, 3, 3, 3).save(tmp_path / "grids/b2.png")
    with open(tmp_path / "q.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            ["item_id", "proposition_id", "dependency", "tuple", "question_natural_language"]
        )
        for item in ("a1", "b2"):
            writer.writerows([item, n, 0, "entity - whole (x)", f"{n}?"] for n in (1, 2, 3))
    return tmp_path


def score(run, folder="grids", judge=None, allow_partial=False, **settings):
    metric = DPGBench(judge or LevelJudge(), compat="corrected", **settings)
    options = ScoreOptions(
        out=run / "out/score.json", records=run / "out/answers.csv", allow_partial=allow_partial
    )
    return metric.score(run / folder, run / "q.csv", options).to_json()


def test_grids_are_read_row_by_row_from_the_top_left(run):
    found = score(run)
    rows = {row["item_id"]: row["images"] for row in found["per_prompt"]}
    assert rows["a1"] == pytest.approx([100, 200 / 3, 100 / 3, 0])
    assert found["overall"] == pytest.approx((50 + 100) / 2)
    assert found["n_images"] == 8 and found["judge"] == {"name": "levels", "digest": "e" * 64}
    answers = list(csv.DictReader((run / "out/answers.csv").read_text().splitlines()))
    assert len(answers) == 24
    assert answers[0] == {"item_id": "a1", "proposition_id": "1", "image": "0", "answer": "yes"}


def test_one_image_a_file_and_the_first_of_a_grid(run):
    assert score(run, per_prompt=2)["overall"] == pytest.approx((250 / 3 + 100) / 2)
    for name in ("a1", "b2"):
        Image.new("RGB", (SIDE, SIDE), (2, 2, 2)).save(run / f"grids/{name}.png")
    assert score(run, per_prompt=1)["overall"] == pytest.approx(200 / 3)


def own_layout(run):
    for i, item in enumerate(("a1", "b2")):
        folder = run / f"samples/{i:05d}/samples"
        folder.mkdir(parents=True)
        (folder.parent / "metadata.jsonl").write_text(json.dumps({"item_id": item, "prompt": "p"}))
        for s, level in enumerate([(3, 2, 1, 0), (3, 3, 3, 3)][i]):
            Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(folder / f"{s:04d}.png")
    return run / "samples"


def test_own_folders_give_the_same_score_and_become_grids(run):
    own_layout(run)
    assert score(run, "samples")["overall"] == pytest.approx(75)
    assert write_grids(run / "samples", run / "again") == ["a1", "b2"]
    for name in ("a1", "b2"):
        ours, theirs = (np.asarray(Image.open(run / f"{d}/{name}.png")) for d in ("again", "grids"))
        assert np.array_equal(ours, theirs)
    (run / "samples/00001/samples/0003.png").unlink()
    with refused(MismatchError, path=run / "samples"):
        score(run, "samples")
    with refused(MismatchError, path=run / "samples"):
        write_grids(run / "samples", run / "no")
    assert not (run / "no").exists()


@pytest.mark.parametrize(
    ("harm", "kind", "value"),
    [
        (lambda g: (g / "b2.png").unlink(), "items without an image", 50),
        (lambda g: grid(1, 1, 1, 1).save(g / "c3.png"), "images of no item", 75),
        (lambda g: (g / "b2.png").write_bytes(b"\x89PNG"), "damaged images", 50),
    ],
)
def test_what_is_missing_is_refused_or_stated(run, harm, kind, value):
    harm(run / "grids")
    with refused(MismatchError, path=run / "grids"):
        score(run)
    assert not (run / "out").exists()
    found = score(run, allow_partial=True)
    assert found["partial"][kind]["count"] == 1
    assert found["overall"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("sizes", "settings", "error"),
    [
        (((16, 16), (24, 24)), {}, MismatchError),
        (((16, 14), (16, 14)), {}, MismatchError),
        (((16, 16), (16, 16)), {"resolution": 512}, MismatchError),
        (((16, 16), (16, 16)), {"per_prompt": 5}, UsageError),
    ],
)
def test_sizes_that_are_no_grid_are_refused(run, sizes, settings, error):
    for name, size in zip(("a1", "b2"), sizes, strict=True):
        Image.new("RGB", size).save(run / f"grids/{name}.png")
    with refused(error, path=run / "grids"):
        list_dpg_images(run / "grids", ["a1", "b2"], **settings)


def test_a_log_of_other_models_is_not_used(tmp_path):
    ResumeLog(tmp_path / "j", ["judge", 1]).add({"a": 1})
    assert "a" in ResumeLog(tmp_path / "j", ["judge", 1])
    assert "a" not in ResumeLog(tmp_path / "j", ["judge", 2])


def test_a_stopped_run_goes_on_where_it_was(run):
    class Stopping(LevelJudge):
        def answer(self, image, questions):
            if self.asked == 5:
                raise KeyboardInterrupt
            return super().answer(image, questions)

    with pytest.raises(KeyboardInterrupt):
        score(run, judge=Stopping())
    assert not (run / "out/score.json").exists()
    with open(run / "out/answers.partial", "a") as handle:
        handle.write('\n["torn')
    judge = LevelJudge()
    assert score(run, judge=judge)["overall"] == pytest.approx(75)
    assert judge.asked == 3 and not (run / "out/answers.partial").exists()


# -- judges ------------------------------------------------------------------------------------


def question(text, number=1):
    return Question("item", number, (), text, "Is there a dog?", "")


class Corner:
    """One dog on the left, two cups on the right, one of them seen less surely."""

    name, digest, classes = "corner", "d" * 64, ["dog", "cup", "cat"]

    def detect(self, images):
        boxes = {
            ("dog", 0.95): (0, 0, 2, 2),
            ("cup", 0.99): (6, 0, 8, 2),
            ("cup", 0.5): (6, 5, 8, 7),
        }
        found = []
        for (label, sure), (x0, y0, x1, y1) in boxes.items():
            mask = np.zeros((SIDE, SIDE), bool)
            mask[y0:y1, x0:x1] = True
            found.append(Detection(label, sure, (x0, y0, x1, y1), mask))
        return [found for _ in images]


class Colors:
    name, digest = "pixels", "c" * 64

    def classify(self, image, mask, box, class_name):
        return ("black", "red")[int(image[mask][0, 0] > 100)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("entity - whole (dog)", "yes"),
        ("entity - whole (cat)", "no"),
        ("attribute - color (dog, red)", "yes"),
        ("attribute - color (cup, red)", "no"),
        ("attribute - color (cat, red)", "no"),
        ("relation - spatial (dog, cup, left of)", "yes"),
        ("relation - spatial (cup, dog, left of)", "no"),
        ("relation - spatial (dog, cat, left of)", "no"),
        ("other - count (cup, == 1)", "yes"),  # the second is not sure enough to be counted
        ("other - count (cup, ==2)", "no"),
        ("other - count (cat, ==0)", "yes"),
        ("global - objects (==2)", "yes"),  # objects of every kind, those sure enough
    ],
)
def test_rules_answer_tuples(text, answer):
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:2, :2, 0] = 200
    assert RuleJudge(Corner(), Colors()).answer(image, [question(text)]) == [answer]


@pytest.mark.parametrize(
    "text",
    ["global - style (photo)", "entity - whole (a, b)", "entity - whole", "entity - whole (zebra)"],
)
def test_rules_refuse_what_they_cannot_judge(text):
    with refused(MismatchError, field="question item/1"):
        RuleJudge(Corner(), Colors()).check([question(text)])


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2}  # fmt: skip
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "there", "a", "dog", "?", "yes", "no"]


def tokenizer(folder, extra=()):
    from transformers import BertTokenizer

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*WORDS, *extra]) + "\n")
    return BertTokenizer(str(folder / "vocab.txt"))


@pytest.fixture(scope="module")
def vilt(tmp_path_factory):
    """A ViLT of random weights: a classifier over three answers."""
    from transformers import ViltConfig, ViltForQuestionAnswering, ViltImageProcessor, ViltProcessor

    root = tmp_path_factory.mktemp("vilt")
    torch.manual_seed(0)
    config = ViltConfig(
        **SMALL,
        vocab_size=len(WORDS),
        image_size=32,
        patch_size=16,
        id2label={0: "yes", 1: "no", 2: "maybe"},
        label2id={"yes": 0, "no": 1, "maybe": 2},
    )
    model = ViltForQuestionAnswering(config)
    model.save_pretrained(root / "tiny")
    processor = ViltProcessor(
        ViltImageProcessor(size={"shortest_edge": 32}), tokenizer(root / "words")
    )
    processor.save_pretrained(root / "tiny")
    return root / "tiny", model.eval(), processor


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A BLIP of random weights: writes its answer."""
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    root = tmp_path_factory.mktemp("blip")
    torch.manual_seed(1)
    words = tokenizer(root / "words", ["[DEC]", "[ENC]"])
    ids = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(
        text_config=SMALL | ids | {"vocab_size": len(words), "encoder_hidden_size": 16},
        vision_config=SMALL | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    model = BlipForQuestionAnswering(config)
    model.save_pretrained(root / "tiny")
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), words)
    processor.save_pretrained(root / "tiny")
    return root / "tiny", model.eval(), processor


def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(4)]


def test_a_classifier_answers_with_its_best_label(vilt):
    path, model, processor = vilt
    judge = TransformersJudge(path)
    said = []
    for image in pictures():
        inputs = processor(Image.fromarray(image), "Is there a dog?", return_tensors="pt")
        with torch.no_grad():
            best = int(model(**inputs).logits.argmax())
        said += judge.answer(image, [question(""), question("")])
        assert said[-2:] == [model.config.id2label[best]] * 2
    assert judge.name == "vilt:tiny" and len(judge.digest) == 64


def test_a_writer_answers_with_its_text(blip):
    path, model, processor = blip
    judge = TransformersJudge(path)
    for image in pictures()[:2]:
        inputs = processor(
            images=Image.fromarray(image), text="Is there a dog?", return_tensors="pt"
        )
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=10, do_sample=False)
        text = processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
        assert judge.answer(image, [question("")]) == [text]


def test_a_folder_without_weights_is_refused(vilt, tmp_path):
    with refused():
        TransformersJudge(tmp_path)
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (vilt[0] / name).exists():
            (tmp_path / name).write_bytes((vilt[0] / name).read_bytes())
    with refused(FormatError, path=tmp_path):
        TransformersJudge(tmp_path)


@pytest.mark.skipif(find_spec("modelscope") is not None, reason="modelscope is installed here")
def test_the_official_judge_says_what_it_needs():
    with refused(MissingError, field="--judge mplug"):
        open_judge("mplug")


def test_a_model_judges_through_the_command(run, vilt, capsys):
    command = ["score", "dpg", "--images", str(run / "grids"), "--questions", str(run / "q.csv")]
    assert main([*command, "--judge", str(vilt[0]), "--out", str(run / "s.json"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["judge"]["name"] == "vilt:tiny" and printed["n_images"] == 8
    again = ["score", "dpg", "--questions", str(run / "q.csv")]
    assert main([*again, "--answers", str(run / "s.answers.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] == printed["overall"]
    with refused(UsageError, field="--detector"):
        open_judge("rules")
