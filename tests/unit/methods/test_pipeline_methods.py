"""Pipelines as methods of a configuration: its checks, the names of results, the plan, samples."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import TypeAdapter
from retrieval_fixtures import IMAGES, retriever  # noqa: F401 (a fixture)
from tiny_pipelines import save_imagerag, save_rdm, save_tiny

from arrag.cli.main import main
from arrag.config.generators import Diffusers, Generator
from arrag.config.root import Config, load_config
from arrag.methods.diffusion import load_diffusion
from arrag.methods.retrieval_gate import RecordedAnswers
from arrag.pipeline.layout import Layout
from arrag.utils.errors import ConfigError
from arrag.utils.files import read_json, write_text
from arrag.utils.hashing import sha256_file

STEPS = {"steps": 2, "guidance_scale": 4.0}
PROMPTS = ["a photo of a dog", "two cups\nand a 🐕"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny folders of each kind."""
    path = tmp_path_factory.mktemp("models")
    save_tiny("PixArtAlphaPipeline", path / "pixart")
    save_rdm(path / "rdm", 64)
    return save_imagerag(path)


def generators(models, root):
    """The blocks of each kind."""
    database = {
        "clip": str(root / "checkpoints/micro-retriever"),
        "tokenizer": str(root / "checkpoints/micro-janus"),
    }
    return {
        "pixart": {"kind": "diffusers", "checkpoint": str(models / "pixart"), **STEPS},
        "rdm": {"kind": "rdm", "checkpoint": str(models / "rdm"), "k": 2, **STEPS, **database},
        "imagerag": {
            "kind": "imagerag",
            "checkpoint": str(models / "sdxl"),
            "ip_adapter": str(models / "plus.safetensors"),
            "image_encoder": str(models / "encoder"),
            "judge": {"kind": "recorded", "name": "a model", "answers": str(models / "a.jsonl")},
            **STEPS,
            **database,
        },
    }


@pytest.fixture
def document(models, root, tmp_path):
    """The small configuration with a method of each kind; prompts of two kinds of text."""
    answers = [{"prompt": PROMPTS[0], "caption": None}, {"prompt": PROMPTS[1], "caption": "cups"}]
    write_text(models / "a.jsonl", "".join(json.dumps(answer) + "\n" for answer in answers))
    include = [{"class": "dog", "count": 1}]
    entry = {"tag": "single_object", "include": include}
    lines = [json.dumps({**entry, "prompt": prompt}) for prompt in PROMPTS]
    write_text(tmp_path / "prompts.jsonl", "\n".join(lines) + "\n")
    document = yaml.safe_load((root / "config" / "micro-ci.yaml").read_text(encoding="utf-8"))
    document["generators"] |= generators(models, root)
    document["benchmarks"]["geneval"]["prompts"] = str(tmp_path / "prompts.jsonl")
    document["methods"] |= {
        name: {"label": name, "generator": name} for name in generators(models, root)
    }
    return document


@pytest.fixture
def in_repository(root, monkeypatch):
    """The shipped checkpoints are named as from the repository's root."""
    monkeypatch.chdir(root)


def sample(document, method, tmp_path, *more):
    """``arrag sample``: its exit status, and the folder."""
    write_text(tmp_path / "config.yaml", yaml.safe_dump(document, sort_keys=False))
    out = tmp_path / method
    arguments = ["--config", tmp_path / "config.yaml", "--method", method, "--out", out, *more]
    return main(["sample", *map(str, arguments)]), out


def test_sampling_with_each_kind(document, retriever, tmp_path, in_repository):  # noqa: F811
    places = ["--codes", retriever.index.store.path, "--image-index", retriever.index.path]
    texts = [prompt for prompt in PROMPTS for _ in range(2)]
    for method in ("pixart", "rdm", "imagerag"):
        status, out = sample(document, method, tmp_path, *(places if method != "pixart" else []))
        assert status == 0
        run = read_json(out / "run.json")
        assert run["parameters"] > 0 and run["versions"]["diffusers"]
        images = [np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))]
        assert [image.shape for image in images] == [(32, 32, 3)] * 4
        assert len({image.tobytes() for image in images}) == 4
        if method == "pixart":
            settings = Diffusers(**document["generators"]["pixart"])
            want = load_diffusion(settings).generate(texts, [0, 1, 0, 1], 0)
            assert np.array_equal(np.stack(images), want)
            assert not (out / "retrieved.jsonl").exists() and run["index"] is None
            continue
        assert run["index"] == retriever.index.store.digest
        assert run["weights"]["clip"] == retriever.clip.digest
        found = [json.loads(line) for line in (out / "retrieved.jsonl").read_text().splitlines()]
        if method == "rdm":
            assert [(f["prompt"], f["sample"]) for f in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
            assert [f["query"] for f in found] == texts and len(found[0]["images"]) == 2
        else:  # the first prompt's images lacked nothing
            assert [(f["prompt"], f["query"]) for f in found] == [(1, "cups")] * 2
            answers = sha256_file(document["generators"]["imagerag"]["judge"]["answers"])
            assert run["weights"]["judge"] == f"recorded answers of a model: {answers}"
        texts_found = {f["query"]: f["images"] for f in found}
        for text, numbers in texts_found.items():
            query = retriever.clip.encode_texts([text])
            assert numbers == retriever.index.search(query, len(numbers))[1][0].tolist()
            assert max(numbers) < IMAGES


def test_what_is_missing_is_reported_before_anything_is_generated(
    document,
    retriever,  # noqa: F811
    tmp_path,
    in_repository,
    capsys,
):
    status, out = sample(document, "rdm", tmp_path)
    assert status == 2 and "manifest.json" in capsys.readouterr().err
    answers = document["generators"]["imagerag"]["judge"]["answers"]
    write_text(answers, json.dumps({"prompt": PROMPTS[0], "caption": None}) + "\n")
    places = ["--codes", retriever.index.store.path, "--image-index", retriever.index.path]
    status, out = sample(document, "imagerag", tmp_path, *places)
    assert status == 2 and "a.jsonl" in capsys.readouterr().err
    assert not out.exists()


def test_names_follow_what_shapes_an_image(document, models, in_repository):
    def names():
        layout = Layout(Config.model_validate(document))
        parts = {f"{m} {part}": p for m in rows for part, p in layout.artifacts_for(m).items()}
        return {m: layout.run(m) for m in rows} | parts

    rows = ("racm3", "pixart", "rdm", "imagerag")
    before = names()
    # One database and one index of its images serve all that name the same models.
    for part in ("codes", "image_index"):
        assert before[f"rdm {part}"] == before[f"imagerag {part}"] == before[f"racm3 {part}"]
    assert "rdm index" not in before and "pixart codes" not in before

    def changed(method, **settings):
        kept = dict(document["generators"][method])
        document["generators"][method] |= settings
        after = names()
        document["generators"][method] = kept
        return {name for name in before if after[name] != before[name]}

    assert changed("pixart", steps=3) == {"pixart"}
    assert changed("rdm", k=3) == {"rdm"}
    assert changed("imagerag", ip_adapter=str(models / "bare.safetensors")) == {"imagerag"}
    assert changed("imagerag", judge={"kind": "always"}) == {"imagerag"}
    other = document["generators"]["pixart"]["checkpoint"]
    assert changed("rdm", clip=other) == {"rdm", "rdm image_index"}
    assert changed("rdm", tokenizer=other) == {"rdm", "rdm codes", "rdm image_index"}
    write_text(models / "a.jsonl", "{}\n")
    after = names()
    assert {name for name in before if after[name] != before[name]} == {"imagerag"}
    document["database"]["images"] += 1
    again = names()
    moved = {name for name in after if again[name] != after[name]}
    assert {"rdm", "imagerag", "rdm codes"} <= moved and "pixart" not in moved


def test_mistakes_in_a_configuration(document, tmp_path):
    def mistakes(**changed):
        write_text(tmp_path / "config.yaml", yaml.safe_dump({**document, **changed}))
        with pytest.raises(ConfigError) as error:
            load_config(tmp_path / "config.yaml")
        return {one.field for one in error.value.mistakes}

    blocks = document["generators"]
    augment = document["methods"]["daid"]["augment"]
    augmented = {"label": "x", "generator": "rdm", "augment": augment}
    assert "methods.x.augment.kind" in mistakes(methods={"x": augmented})
    assert mistakes(methods={"rdm": document["methods"]["rdm"]}, database=None)
    assert mistakes(generators={"pixart": blocks["pixart"], **blocks})  # no image tokens first
    for field, value in (("steps", 0), ("size", 4), ("dtype", "float64"), ("temperature", 1.0)):
        wrong = {**blocks, "pixart": {**blocks["pixart"], field: value}}
        assert mistakes(generators=wrong) == {f"generators.pixart.{field}"}
    wrong = {**blocks, "imagerag": {**blocks["imagerag"], "prompt": "nothing of it"}}
    assert mistakes(generators=wrong) == {"generators.imagerag.prompt"}


def test_the_examples_of_the_documentation(root, tmp_path):
    page = (root / "docs" / "pipelines.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (answers,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    kinds = yaml.safe_load(settings.replace("kind: janus, ...", "kind: janus"))["generators"]
    assert list(kinds) == ["janus", "sdxl", "rdm", "imagerag"]
    for name in ("sdxl", "rdm", "imagerag"):
        TypeAdapter(Generator).validate_python(kinds[name])
    write_text(tmp_path / "a.jsonl", answers)
    gate = RecordedAnswers(tmp_path / "a.jsonl", "a model")
    gate.check_prompts(["a green cup and a yellow bowl", "a photo of a dog"], 1)
    assert gate.caption("a photo of a dog", 3) is None


def test_parts_record_what_they_retrieve_as_one_job_does(
    document,
    retriever,  # noqa: F811
    tmp_path,
    in_repository,
):
    places = ["--codes", retriever.index.store.path, "--image-index", retriever.index.path]
    places += ["--batch-size", 1]
    for method in ("rdm", "imagerag"):
        (tmp_path / "parts").mkdir(exist_ok=True)
        assert sample(document, method, tmp_path, *places)[0] == 0
        for more in (["--part", "2/2"], ["--part", "1/2"], ["--join"]):
            status, out = sample(document, method, tmp_path / "parts", *places, *more)
            assert status == 0
            assert (out / "retrieved.jsonl").exists() == (more == ["--join"])
        whole = {p.relative_to(tmp_path): p for p in (tmp_path / method).rglob("*") if p.is_file()}
        parts = {p.relative_to(out.parent): p for p in out.rglob("*") if p.is_file()}
        assert whole.keys() == parts.keys() and "retrieved.jsonl" in {p.name for p in whole}
        assert all(whole[name].read_bytes() == parts[name].read_bytes() for name in whole)
