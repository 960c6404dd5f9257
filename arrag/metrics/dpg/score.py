"""The DPG-Bench score of images by a VQA judge, or of recorded answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from arrag.data.questions import Items, Question, by_item, counted, read_questions
from arrag.data.sample_dir import read_run
from arrag.metrics.base import DEFAULTS, Metric, Score, ScoreOptions, library_versions
from arrag.metrics.dpg.answers import Answers, VqaJudge, read_answers, write_answers
from arrag.metrics.dpg.images import DpgImage, list_dpg_images
from arrag.metrics.dpg.questions import choose_rules, score_answers
from arrag.metrics.resume_log import ResumeLog
from arrag.metrics.types import Gaps, refuse_gaps
from arrag.utils.hashing import images_digest, sha256_file, sha256_json


class DPGBench(Metric):
    """Percent of the propositions of a prompt that hold in its images.

    Args:
        judge: Answers the questions; not needed for recorded answers.
        compat: ``official`` with the defects of the published script, or ``corrected``.
        dependency: How a failed question zeroes its children: ``none``, ``dsg``, ``official``.
            Each of the two follows from the other if it is None.
        per_prompt: Images of a prompt; None takes 4 of a grid, all of a folder.
        resolution: Pixels a side that each image must have; None accepts any.
    """

    name = "dpg"

    def __init__(
        self,
        judge: VqaJudge | None = None,
        *,
        compat: str | None = None,
        dependency: str | None = None,
        per_prompt: int | None = None,
        resolution: int | None = None,
    ) -> None:
        self.judge, self.per_prompt, self.resolution = judge, per_prompt, resolution
        self.compat, self.dependency = choose_rules(compat, dependency)

    def score(
        self, images: str | Path, target: str | Path, options: ScoreOptions = DEFAULTS
    ) -> Score:
        """Let the judge answer for every image; an interrupted run continues where it stopped.

        Args:
            images: Folder of grids, or of samples in GenEval's layout.
            target: The question table.
            options: ``records`` is the CSV file of the answers.

        Raises:
            ArragError: Images are missing, damaged or of no prompt (unless ``allow_partial``),
                their sizes are wrong, or the judge cannot answer a question.
        """
        rows = read_questions(target)
        items = by_item(rows)
        found, gaps = list_dpg_images(images, items, self.per_prompt, self.resolution)
        remedy = f"generate the images of {target} again"
        refuse_gaps(gaps, images, options.allow_partial, remedy)
        if check := getattr(self.judge, "check", None):
            check(rows)
        identity = ["dpg", self.judge.name, self.judge.digest, sha256_file(target)]
        unfinished = options.records and options.records.with_suffix(".partial")
        log = ResumeLog(unfinished, identity)
        answers = _ask(found, items, self.judge, log)
        files = {image.path for image in found}
        score = self._score(
            rows,
            target,
            answers,
            options,
            gaps,
            judge={"name": self.judge.name, "digest": self.judge.digest},
            run=read_run(images),
            versions=library_versions() | self.judge.versions,
            images={"path": str(images), "sha256": images_digest(map(sha256_file, files))},
        )
        if options.records is not None:
            write_answers(options.records, answers)
        score.write(options.out)
        log.remove()
        return score

    def score_recorded(
        self,
        answers: str | Path,
        target: str | Path,
        where: Mapping[str, str] | None = None,
        options: ScoreOptions = DEFAULTS,
    ) -> Score:
        """The score of recorded answers; see ``arrag.metrics.dpg.answers.read_answers``."""
        given = read_answers(answers, where)
        judge = {"name": "recorded", "digest": sha256_file(answers)}
        about = {"judge": judge, "run": None, "versions": library_versions()}
        score = self._score(read_questions(target), target, given, options, {}, **about)
        score.write(options.out)
        return score

    def _score(
        self,
        rows: list[Question],
        target: str | Path,
        answers: Answers,
        options: ScoreOptions,
        gaps: Gaps,
        **about: Any,
    ) -> Score:
        found = score_answers(
            target, rows, answers, self.compat, self.dependency, options.allow_partial
        )
        found["partial"] |= {kind: counted(names) for kind, names in gaps.items()}
        return Score(**found, prompt_set_sha256=sha256_file(target), **about)


def _ask(images: list[DpgImage], items: Items, judge: VqaJudge, log: ResumeLog) -> Answers:
    """Answers to every question of every image; those in the log are not asked again."""
    answers: Answers = {}
    digests = {path: sha256_file(path) for path in {image.path for image in images}}
    for image in tqdm(images, desc="DPG-Bench", unit="image"):
        key = sha256_json([digests[image.path], image.item, image.image, image.box])
        questions = items[image.item]
        if key not in log:
            log.add({key: judge.answer(image.load(), list(questions.values()))})
        given = dict(zip(questions, log[key], strict=True))
        answers.setdefault(image.item, {})[image.image] = given
    return answers
