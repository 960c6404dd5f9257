"""Judges that answer the questions of DPG-Bench: VQA models, and rules for the micro world.

All have one interface, ``arrag.metrics.dpg.answers.VqaJudge``. The official one is mPLUG-large; its
weights come through modelscope, which no default installation has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from arrag.data.questions import Question
from arrag.metrics.base import library_versions, load_detector
from arrag.metrics.dpg.answers import VqaJudge
from arrag.metrics.geneval.judge import keep_detections, relations
from arrag.metrics.types import ColorNamer, Detector
from arrag.utils.checkpoint import load_pretrained, loading
from arrag.utils.device import default_device
from arrag.utils.errors import MismatchError, MissingError, UsageError
from arrag.utils.hashing import tree_digest
from arrag.utils.registry import Registry

MPLUG = "damo/mplug_visual-question-answering_coco_large_en"  # the official judge
MAX_NEW_TOKENS = 10  # of a generated answer
# "entity - whole (dog)" -> category and arguments
TUPLE = re.compile(r"^\s*(?P<category>[^(]*?)\s*\((?P<arguments>.*)\)\s*$", re.S)
ARGUMENTS = {  # category of a tuple that the rules judge -> number of arguments
    "entity - whole": 1,
    "attribute - color": 2,
    "relation - spatial": 3,
    "other - count": 2,
    "global - objects": 1,
}

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

        if detector is None or color is None:
            option = "--detector" if detector is None else "--color"
            raise UsageError("is missing; judging images needs it", field=option)
        return RuleJudge(load_detector(detector), ColorClassifier(color))
    return VQA_JUDGES.get(name)() if name in VQA_JUDGES else TransformersJudge(name)


class TransformersJudge:
    """A local VQA model of transformers: a classifier over answers (ViLT) or a writer (BLIP)."""

    def __init__(self, path: str | Path) -> None:
        from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

        hint = "give a folder with config.json, model.safetensors and the processor's files"
        with loading(path, "a VQA model of transformers", hint):
            model = load_pretrained(
                AutoModelForVisualQuestionAnswering, Path(path), "float32", leave_out=("",)
            )
            self.processor = AutoProcessor.from_pretrained(str(path), local_files_only=True)
        self.model = model.eval().to(default_device())
        self.name = f"{self.model.config.model_type}:{Path(path).name}"
        self.digest = tree_digest(path)
        self.versions = library_versions("torch", "transformers", "pillow")

    @torch.inference_mode()
    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """See ``VqaJudge``. One question at a time: padding must not change an answer."""
        picture = Image.fromarray(image)
        return [self._one(picture, question.question) for question in questions]

    def _one(self, picture: Image.Image, question: str) -> str:
        inputs = self.processor(images=picture, text=question, return_tensors="pt").to(
            self.model.device
        )
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
        self.versions = library_versions("torch", "modelscope")

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """See ``VqaJudge``."""
        picture = Image.fromarray(image)
        return [
            self._pipeline({"image": picture, "question": q.question})["text"] for q in questions
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
        self.versions = library_versions("torch", "torchvision", "transformers", "open-clip-torch")

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[str]:
        """See ``VqaJudge``: yes or no."""
        detections = self.detector.detect([image])[0]
        found = keep_detections(detections, "")
        counted = keep_detections(detections, "counting")
        return [
            "yes" if self._holds(image, found, counted, self._parse(question)) else "no"
            for question in questions
        ]

    def check(self, questions: Sequence[Question]) -> None:
        """Raise ArragError for the first tuple that no rule answers, before any image is judged."""
        for question in questions:
            category, label, *_ = self._parse(question)
            if category != "global - objects" and label not in self.detector.classes:
                raise MismatchError(
                    f"detector {self.detector.name} does not know {label!r}",
                    field=f"question {question.item}/{question.id}",
                    hint="use the questions that belong to this detector",
                )

    def _parse(self, question: Question) -> list[str]:
        """Category and arguments of the question's tuple."""
        match = TUPLE.match(question.tuple)
        arguments = [a.strip() for a in match["arguments"].split(",")] if match else []
        if not match or ARGUMENTS.get(match["category"]) != len(arguments):
            known = "; ".join(f"{name} with {n} arguments" for name, n in ARGUMENTS.items())
            raise MismatchError(
                f"tuple is {question.tuple!r}; the rule judge knows {known}",
                field=f"question {question.item}/{question.id}",
                hint="give another judge",
            )
        return [match["category"], *arguments]

    def _holds(self, image: np.ndarray, found: dict, counted: dict, parsed: list[str]) -> bool:
        match parsed:
            case "entity - whole", label:
                return label in found
            case "attribute - color", label, color:
                best = found.get(label, [])[:1]
                return any(self.color.classify(image, d.mask, d.box, label) == color for d in best)
            case "relation - spatial", label, other, side:
                if label not in found or other not in found:
                    return False
                return side in relations(found[label][0].box, found[other][0].box)
            case "other - count", label, number:
                return f"=={len(counted.get(label, []))}" == number.replace(" ", "")
            case _, number:  # global - objects
                return f"=={sum(map(len, counted.values()))}" == number.replace(" ", "")
