"""DPG-Bench and DSG: the share of a prompt's propositions that hold in its images.

A reimplementation of the rules of TencentQQGYLab/ELLA, dpg_bench/compute_dpg_bench.py (Hu et
al. 2024, arXiv 2403.05135), and of j-min/DSG, dsg/vqa_utils.py (Cho et al. 2024, arXiv 2310.18235).

The official DPG script has defects that its published numbers contain. ``compat`` chooses:

=========================  =================================  ===============================
                           official                           corrected
=========================  =================================  ===============================
first row of the table     skipped                            used
a prompt's rows apart      only the last run of them counts   all count
zeroing (``dependency``)   "official": after earlier zeroing  "dsg": by the parents' answers
a parent that is missing   its prompt is dropped              refused, or ignored and reported
categories                 answers to the last image, before  all images' scores, after zeroing
                           zeroing
=========================  =================================  ===============================
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arrag.data import questions as table
from arrag.data.questions import Items, Question, by_item, by_item_official
from arrag.metrics.bootstrap import OVERALL, bootstrap, bootstrap_shares
from arrag.metrics.dpg.answers import Answers, complete_images, unknown_ids
from arrag.metrics.types import refuse_gaps
from arrag.utils.errors import FormatError, MismatchError

YES = "yes"  # an answer counts when it is exactly this
PERCENT = 100.0  # the official script prints fractions times 100
OWN_DEPENDENCY = {"official": "official", "corrected": "dsg"}  # of each compat
# What makes a table unusable: the official script stops at the first and lives with the others.
# Circles (44 propositions of dsg-1k-anns.csv are their own parents) change no score under "dsg".
REFUSED = {
    "official": (table.NOT_INTEGER,),
    "corrected": (table.NOT_INTEGER, table.MISSING_PARENT, table.DUPLICATE),
}
STRATUM = "dpg"  # all prompts are one stratum of the bootstrap


class _MissingParentError(Exception):
    """The official script drops a prompt when it looks for a parent that is not there."""


@dataclass
class _Tally:
    """Scores of a run: per prompt its images' scores, per category what each prompt adds."""

    images: dict[str, list[float]] = field(default_factory=dict)
    categories: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def choose_rules(compat: str | None, dependency: str | None) -> tuple[str, str]:
    """The rules of a score: each of the two implies the other where only one is given.

    The default is the official number. Zeroing by another rule than the official one makes the
    number no official one, so it implies ``corrected``; give both to mix them.
    """
    if compat is None:
        compat = "official" if dependency in (None, "official") else "corrected"
    return compat, dependency or OWN_DEPENDENCY[compat]


def question_scores(
    questions: dict[int, Question], given: dict[int, str], dependency: str, strict: bool
) -> tuple[dict[int, float], dict[int, float]]:
    """Scores of one image: {proposition: 0 or 1} before and after zeroing.

    A question whose parent scores 0 gets 0: by the parents' answers ("dsg"), or by their scores as
    the rows before have left them ("official"). An item with an unreadable dependency has none, as
    DSG reads it. A parent that is missing raises when ``strict`` (only when it is reached).
    """
    raw = {number: float(given[number] == YES) for number in questions}
    after = dict(raw)
    readable = all(question.parents is not None for question in questions.values())
    if dependency == "none" or not readable:
        return raw, after
    seen = after if dependency == "official" else raw
    for number, question in questions.items():
        for parent in question.parents or ():
            if parent not in seen:
                if strict:
                    raise _MissingParentError(f"proposition {number} depends on {parent}")
                continue
            if seen[parent] == 0:
                after[number] = 0.0
                break
    return raw, after


def tally(items: Items, answers: Answers, compat: str, dependency: str) -> _Tally:
    """Scores of every prompt of ``items`` that has answers (each image answered in whole)."""
    result = _Tally()
    official = compat == "official"
    for item, images in answers.items():
        if item not in items:
            result.dropped[item] = "its only question is in the skipped first row"
            continue
        questions = items[item]
        try:
            scored = [
                question_scores(questions, given, dependency, strict=official)
                for given in images.values()
            ]
        except _MissingParentError as error:
            result.dropped[item] = f"{error}, which is not there"
            continue
        result.images[item] = [sum(after.values()) / len(after) for _, after in scored]
        counted = [scored[-1][0]] if official else [after for _, after in scored]
        shares: dict[str, list[float]] = defaultdict(list)
        for scores in counted:
            for number, score in scores.items():
                shares[questions[number].category].append(score)
        result.categories[item] = dict(shares)
    return result


def summarise(counts: _Tally, items: Items) -> dict[str, Any]:
    """Overall, categories and per-prompt rows in percent, with 95 % intervals over prompts.

    At least one prompt must have been scored.
    """
    names = list(counts.images)
    rows = [
        {
            "item_id": item,
            "tag": STRATUM,
            "mean": PERCENT * (sum(scores) / len(scores)),
            "images": [PERCENT * score for score in scores],
            "l1": _shares(counts.categories[item]),
        }
        for item, scores in counts.images.items()
    ]
    overall = bootstrap([STRATUM] * len(rows), [row["mean"] for row in rows])[OVERALL]
    level1, level2 = _categories(counts, names)
    return {
        "value": overall.value,
        OVERALL: overall.value,
        "interval": [overall.low, overall.high],
        "unit": "percent",
        "l1": level1,
        "l2": level2,
        "n_items": len(names),
        "n_prompts": len(names),
        "n_images": sum(map(len, counts.images.values())),
        "n_questions": sum(len(items[item]) for item in names),
        "dropped": counts.dropped,
        "per_prompt": rows,
    }


def _shares(categories: dict[str, list[float]]) -> dict[str, list[float]]:
    """What a prompt adds to each L1 category: {category: [sum in percent, number of scores]}."""
    sums: dict[str, list[float]] = {}
    for category, scores in categories.items():
        total = sums.setdefault(table.broad(category), [0.0, 0])
        total[0] += PERCENT * sum(scores)
        total[1] += len(scores)
    return sums


def _categories(counts: _Tally, names: list[str]) -> tuple[dict, dict]:
    """L1 and L2: {category: value, interval, n scores}, in order of first appearance."""
    levels: tuple[dict[str, np.ndarray], ...] = ({}, {})
    for i, item in enumerate(names):
        for category, scores in counts.categories[item].items():
            for level, name in zip(levels, (table.broad(category), category), strict=True):
                sums = level.setdefault(name, np.zeros((2, len(names))))
                sums[:, i] += sum(scores), len(scores)
    sums = np.stack([s for level in levels for s in level.values()])  # [K, 2, n]
    estimates = iter(bootstrap_shares(PERCENT * sums[:, 0], sums[:, 1]))
    first, second = (
        {
            name: {"value": e.value, "interval": [e.low, e.high], "n": int(total[1].sum())}
            for (name, total), e in zip(level.items(), estimates, strict=False)
        }
        for level in levels
    )
    return first, second


def score_answers(
    questions_path: Any,
    rows: list[Question],
    answers: Answers,
    compat: str,
    dependency: str,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """The fields of the score of answers to a table.

    ``compat_values`` holds the overall of both rules, each with its own way of zeroing unless it
    is ``compat``'s; None where the answers do not suffice for it.

    Args:
        questions_path: The table, for messages.
        rows: Its rows.
        answers: What the judge said.
        compat: ``official`` or ``corrected``; see the module.
        dependency: ``none``, ``dsg`` or ``official``.
        allow_partial: State gaps in the score instead of refusing them.

    Raises:
        FormatError: The table is malformed.
        MismatchError: Answers are missing, or no prompt can be scored.
    """
    malformed = table.problems(rows)
    refused = {kind: malformed[kind] for kind in REFUSED[compat] if kind in malformed}
    refuse_gaps(refused, questions_path, allow_partial, "correct the table", FormatError)
    every = by_item(rows)
    items = {"official": by_item_official(rows), "corrected": every}[compat]
    whole, gaps = complete_images(answers, items)
    if compat == "official":
        # A prompt whose only row is skipped has images but no question: it is dropped, not missing.
        for item in (item for item in every if item not in items):
            if item in answers:
                whole[item] = answers[item]
            else:
                gaps.setdefault("items without an answer", []).append(item)
    if unknown := unknown_ids(answers, every):
        gaps["answers to no question of the table"] = unknown
    refuse_gaps(gaps, questions_path, allow_partial, "answer every question of every image")
    counts = tally(items, whole, compat, dependency)
    if not counts.images:
        reasons = [f"{kind}: {table.listed(names)}" for kind, names in gaps.items()]
        reasons += [f"{item}: {why}" for item, why in list(counts.dropped.items())[:1]]
        raise MismatchError(
            f"no prompt could be scored ({'; '.join(reasons)})",
            path=questions_path,
            hint="answer every question of an image",
        )
    texts = [text for images in answers.values() for g in images.values() for text in g.values()]
    return {
        "metric": "dpg",
        "compat": compat,
        "dependency": dependency,
        **summarise(counts, items),
        "compat_values": _both(rows, answers, compat, dependency),
        "partial": {kind: table.counted(names) for kind, names in gaps.items()},
        "table_problems": {kind: table.counted(names) for kind, names in malformed.items()},
        # Said yes in another way, which does not count.
        "n_near_yes": sum(t != YES and t.strip().strip(".").lower() == YES for t in texts),
    }


def _both(
    rows: list[Question], answers: Answers, compat: str, dependency: str
) -> dict[str, float | None]:
    """The overall under each compat, from whatever is answered in whole."""
    values: dict[str, float | None] = {}
    for name, items in (("official", by_item_official(rows)), ("corrected", by_item(rows))):
        rule = dependency if name == compat else OWN_DEPENDENCY[name]
        whole, _ = complete_images(answers, items)
        images = tally(items, whole, name, rule).images
        means = [sum(scores) / len(scores) for scores in images.values()]
        values[name] = PERCENT * float(np.mean(means)) if means else None
    return values
