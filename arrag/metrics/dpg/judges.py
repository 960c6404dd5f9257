"""Judges that answer the questions of DPG-Bench: VQA models, and rules for the micro world.

All have one interface, ``arrag.metrics.dpg.answers.VqaJudge``. The official one is mPLUG-large; its
weights come through modelscope, which no default installation has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from arrag.data.questions import Question
from arrag.metrics.base import load_detector
from arrag.metrics.dpg.answers import VqaJudge
from arrag.metrics.geneval.judge import keep_detections, relations
from arrag.metrics.types import ColorNamer, Detector
from arrag.utils.device import default_device
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError
from arrag.utils.files import read_json
from arrag.utils.hashing import tree_digest
from arrag.utils.registry import Registry

MPLUG = "damo/mplug_visual-question-answering_coco_large_en"  # the official judge
MAX_NEW_TOKENS = 10  # of a generated answer
# "entity - whole (dog)" -> category and arguments
TUPLE = re.compile(r"^\s*(?P<category>[^(]*?)\s*\((?P<arguments>.*)\)\s*$", re.S)


VQA_JUDGES: Registry[type[VqaJudge]] = Registry("VQA judge")


def open_judge(
    name: str, detector: str | Path | None = None, color: str | Path | None = None
) -> VqaJudge:
    """Open the judge that answers the questions.

    Args:
        name: A registered name (``rules``, ``mplug``), or the folder of a VQA model of
            transformers.
        detector: The detector of ``rules``.
        color: The colour classifier of ``rules``.

    Raises:
        ArragError: The judge cannot be used.
    """
    if name == "rules":
        from arrag.metrics.color import ColorClassifier

        for option, given in (("--detector", detector), ("--color", color)):
            if given is None:
                raise UsageError("is missing; judging images needs it", field=option)
        return RuleJudge(load_detector(detector), ColorClassifier(color))
    return VQA_JUDGES.get(name)() if name in VQA_JUDGES else TransformersJudge(name)


def _versions(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


class TransformersJudge:
    """A local VQA model of transformers: a classifier over answers (ViLT) or a writer (BLIP)."""

    def __init__(self, path: str | Path) -> None:
        from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

        read_json(Path(path) / "config.json")
        self.device = torch.device(default_device())
        try:
            self.processor = AutoProcessor.from_pretrained(str(path), local_files_only=True)
            model, report = AutoModelForVisualQuestionAnswering.from_pretrained(
                str(path), local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers and safetensors raise a dozen types here
            raise FormatError(
                f"cannot be read as a VQA model of transformers ({error})",
                path=path,
                hint="give a folder with config.json, model.safetensors and the processor's files",
            ) from error
        if absent := [*report["missing_keys"], *map(str, report["mismatched_keys"])]:
            raise FormatError(
                f"{len(absent)} weights are missing or of another shape",
                path=path,
                field=absent[0],
                hint="fetch the checkpoint that belongs to its config.json",
            )
        self.model = model.eval().to(self.device)
        self.name = f"{model.config.model_type}:{Path(path).name}"
        self.digest = tree_digest(path)
        self.versions = _versions("torch", "transformers", "pillow")

    @torch.inference_mode()
    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """See ``VqaJudge``. One question at a time: padding must not change an answer."""
        picture = Image.fromarray(image)
        return [self._one(picture, question.question) for question in questions]

    def _one(self, picture: Image.Image, question: str) -> str:
        inputs = self.processor(images=picture, text=question, return_tensors="pt").to(self.device)
        if self.model.can_generate():
            tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            return self.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        logits = self.model(**inputs).logits  # [1, answers]
        return self.model.config.id2label[int(logits.argmax(-1))]


@VQA_JUDGES.register("mplug")
class MPlugJudge:
    """The official judge, mPLUG-large, through modelscope (imported here only)."""

    def __init__(self) -> None:
        try:
            from modelscope.pipelines import pipeline
            from modelscope.utils.constant import Tasks
        except ImportError as error:
            raise MissingError(
                f"modelscope cannot be imported ({error})",
                field="--judge mplug",
                hint="install modelscope[multi-modal] in a separate environment, or record the "
                "answers there and score them with --answers",
            ) from None
        try:
            self._pipeline: Any = pipeline(Tasks.visual_question_answering, model=MPLUG)
        except Exception as error:  # modelscope raises whatever its download and model do
            raise MissingError(
                f"{MPLUG} cannot be loaded ({error})",
                field="--judge mplug",
                hint="let modelscope download it once",
            ) from error
        self.name = f"modelscope:{MPLUG}"
        folder = getattr(self._pipeline.model, "model_dir", None)
        self.digest = tree_digest(folder) if folder else ""
        self.versions = _versions("torch", "modelscope")

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """See ``VqaJudge``."""
        picture = Image.fromarray(image)
        return [
            self._pipeline({"image": picture, "question": question.question})["text"]
            for question in questions
        ]


@VQA_JUDGES.register("rules")
class RuleJudge:
    """Answers from a detector, a colour classifier and boxes, for tuples that say what to check.

    entity - whole (dog); attribute - color (dog, red); relation - spatial (dog, cup, left of);
    other - count (dog, ==3); global - objects (==3), of any kind. The rules are GenEval's: an
    object counts above 0.3 (0.9 when counted), colour and position are those of the best one.
    """

    def __init__(self, detector: Detector, color: ColorNamer) -> None:
        self.detector, self.color = detector, color
        self.name = f"rules:{detector.name}+{color.name}"
        self.digest = f"{detector.digest}+{color.digest}"
        self.versions = _versions("torch", "torchvision", "transformers", "open-clip-torch")
        self._rules = {
            ("entity - whole", 1): self._entity,
            ("attribute - color", 2): self._color,
            ("relation - spatial", 3): self._spatial,
            ("other - count", 2): self._count,
            ("global - objects", 1): self._total,
        }
        self._counting = (self._count, self._total)

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """See ``VqaJudge``: yes or no."""
        detections = self.detector.detect([image])[0]
        found = keep_detections(detections, "")
        counted = keep_detections(detections, "counting")
        answers = []
        for question in questions:
            rule, arguments = self._parse(question)
            holds = rule(image, counted if rule in self._counting else found, *arguments)
            answers.append("yes" if holds else "no")
        return answers

    def check(self, questions: Sequence[Question]) -> None:
        """Raise ArragError for the first tuple that no rule answers, before any image is judged."""
        for question in questions:
            rule, (label, *_) = self._parse(question)
            if rule != self._total and label not in self.detector.classes:
                raise MismatchError(
                    f"detector {self.detector.name} does not know {label!r}",
                    field=f"question {question.item}/{question.id}",
                    hint="use the questions that belong to this detector",
                )

    def _parse(self, question: Question) -> tuple[Any, list[str]]:
        match = TUPLE.match(question.tuple)
        arguments = [a.strip() for a in match["arguments"].split(",")] if match else []
        rule = self._rules.get((match["category"], len(arguments))) if match else None
        if rule is None:
            known = "; ".join(f"{name} with {n} arguments" for name, n in self._rules)
            raise MismatchError(
                f"tuple is {question.tuple!r}; the rule judge knows {known}",
                field=f"question {question.item}/{question.id}",
                hint="give another judge",
            )
        return rule, arguments

    def _entity(self, image: np.ndarray, found: dict, label: str) -> bool:
        return label in found

    def _color(self, image: np.ndarray, found: dict, label: str, color: str) -> bool:
        best = found.get(label, [])[:1]
        return any(self.color.classify(image, d.mask, d.box, label) == color for d in best)

    def _spatial(self, image: np.ndarray, found: dict, label: str, other: str, side: str) -> bool:
        if label not in found or other not in found:
            return False
        return side in relations(found[label][0].box, found[other][0].box)

    def _count(self, image: np.ndarray, counted: dict, label: str, number: str) -> bool:
        return f"=={len(counted.get(label, []))}" == number.replace(" ", "")

    def _total(self, image: np.ndarray, counted: dict, number: str) -> bool:
        return f"=={sum(map(len, counted.values()))}" == number.replace(" ", "")
