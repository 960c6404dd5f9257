"""A DPG-Bench score as a file: from images and a judge, or from recorded answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arrag import __version__
from arrag.data.questions import Items, by_item, counted, listed, read_questions
from arrag.data.sample_dir import read_run
from arrag.metrics.dpg.answers import Answers, Judge, read_answers, write_answers
from arrag.metrics.dpg.images import Picture, list_pictures
from arrag.metrics.dpg.questions import score_answers
from arrag.metrics.journal import Journal
from arrag.utils.errors import ArragError
from arrag.utils.files import write_json
from arrag.utils.hashing import images_digest, sha256_file, sha256_json


def score_recorded(
    questions: str | Path,
    answers: str | Path,
    where: Mapping[str, str] | None = None,
    *,
    compat: str,
    dependency: str,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """The score of recorded answers; see ``arrag.metrics.dpg.questions.score_answers``."""
    given = read_answers(answers, where)
    rows = read_questions(questions)
    score = score_answers(questions, rows, given, compat, dependency, allow_partial)
    judge = {"name": "recorded", "digest": sha256_file(answers)}
    return score | _provenance(questions, judge, None, {})


def score_images(
    images_dir: str | Path,
    questions: str | Path,
    judge: Judge,
    out_json: str | Path,
    answers_out: str | Path,
    *,
    compat: str,
    dependency: str,
    per_prompt: int | None = None,
    resolution: int | None = None,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """Let ``judge`` answer for every image; write the score and the answers, both atomically.

    An interrupted run goes on where it stopped. Raises ArragError when images are missing, damaged
    or of no prompt (unless ``allow_partial``, which leaves them out and states them), when sizes
    are wrong, or when the judge cannot answer a question.
    """
    rows = read_questions(questions)
    items = by_item(rows)
    pictures, gaps = list_pictures(images_dir, items, per_prompt, resolution)
    for kind, names in gaps.items():
        if not allow_partial:
            raise ArragError(
                f"{images_dir}: {kind}: {listed(names)}; generate the images of {questions} again, "
                "or pass --allow-partial to have it stated in the score"
            )
    if check := getattr(judge, "check", None):
        check(rows)
    identity = ["dpg", judge.name, judge.digest, sha256_file(questions)]
    journal = Journal(Path(answers_out).with_suffix(".partial"), identity)
    answers = judge_pictures(pictures, items, judge, journal)
    score = score_answers(questions, rows, answers, compat, dependency, allow_partial)
    score["partial"] |= {kind: counted(names) for kind, names in gaps.items()}
    about = {"name": judge.name, "digest": judge.digest}
    score |= _provenance(questions, about, read_run(images_dir), judge.versions)
    files = {picture.path for picture in pictures}
    digest = images_digest(map(sha256_file, files))
    score["images"] = {"path": str(images_dir), "sha256": digest}
    write_answers(answers_out, answers)
    write_json(out_json, score)
    journal.finish()
    return score


def judge_pictures(
    pictures: list[Picture], items: Items, judge: Judge, journal: Journal
) -> Answers:
    """Answers to every question of every picture; what ``journal`` holds is not asked again."""
    answers: Answers = {}
    digests = {path: sha256_file(path) for path in {picture.path for picture in pictures}}
    for picture in tqdm(pictures, desc="DPG-Bench", unit="image"):
        key = sha256_json([digests[picture.path], picture.item, picture.image, picture.box])
        asked = items[picture.item]
        if key not in journal:
            journal.add({key: judge.answer(picture.load(), list(asked.values()))})
        given = dict(zip(asked, journal[key], strict=True))
        answers.setdefault(picture.item, {})[picture.image] = given
    return answers


def _provenance(
    questions: str | Path, judge: dict[str, str], run: Any, versions: dict[str, str]
) -> dict[str, Any]:
    return {
        "prompt_set_sha256": sha256_file(questions),
        "judge": judge,
        "run": run,
        "versions": {"arrag": __version__} | versions,
    }
