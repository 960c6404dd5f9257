"""Made-up score files and timings for the tests of reports, and readers of what reports hold."""

import csv
import itertools
import re
from pathlib import Path

import numpy as np

from arrag.data.prompts import TASKS
from arrag.data.questions import Question
from arrag.metrics.bootstrap import image_bootstrap, image_weights
from arrag.metrics.dpg.questions import score_answers
from arrag.report.model import GridPoint, GridReport, Table, TableRow
from arrag.report.render import write_report
from arrag.report.tables import make_table


def make_score(rates, run=None, prompts=10, **fields):
    """A score file in which the first `rate` share of each task's prompts is right."""
    rows, tasks = [], {}
    for tag, rate in zip(TASKS, rates, strict=True):
        right = round(rate * prompts)
        rows += [{"tag": tag, "mean": 1.0, "verdicts": "11"}] * right
        rows += [{"tag": tag, "mean": 0.0, "verdicts": "00"}] * (prompts - right)
        tasks[tag] = {"value": rate, "interval": [rate - 0.05, rate + 0.05], "n": prompts}
    overall = sum(rates) / len(rates)
    return {
        "metric": "geneval",
        "compat": "official",
        "value": overall,
        "interval": [overall - 0.02, overall + 0.02],
        "tasks": tasks,
        "n_prompts": len(rows),
        "n_images": 2 * len(rows),
        "per_prompt": rows,
        "prompt_set_sha256": "ab" * 32,
        "judge": {
            "detector": "mask2former:swin_s",
            "detector_digest": "cd" * 32,
            "color": "ViT-L-14:openai",
            "color_digest": "ef" * 32,
        },
        "run": run,
        "versions": {"arrag": "0.1.0", "torch": "2.13.0"},
    } | fields


RUN = {
    "config_hash": "12" * 32,
    "seed": 3,
    "parameters": 1_040_000_000,
    "weights": {"lm": "34" * 32},
    "index": "56" * 32,
    "versions": {"torch": "2.13.0"},
}
ROWS = [
    TableRow("vanilla", "Janus-Pro-1B", "janus-pro-1b"),
    TableRow("daid", "Janus-Pro-1B + DAiD", "janus-pro-1b+daid", baseline="vanilla"),
    TableRow("real", "real images", kind="ceiling"),
    TableRow("recon", "reconstructions", kind="ceiling"),
]
SCORES = {
    "vanilla": make_score([1.0, 0.8, 0.5, 0.8, 0.6, 0.5], RUN),
    "daid": make_score([1.0, 0.9, 0.5, 0.8, 0.5, 1.0], RUN | {"seed": 4}),
    "real": make_score([1.0] * 6),
    "recon": make_score([0.9] * 6),
}


def write_tables(folder, kind, scale, rows, scores, not_run=None):
    """Write a table and return its text in each form, by suffix."""
    frame, page = make_table(Table(kind, rows, scores, scale, not_run or {}))
    write_report(folder / "table", frame, page)
    return {suffix: (folder / f"table.{suffix}").read_text() for suffix in ("md", "csv", "tex")}


def wrap(scores):
    """GenEval scores as score files by row and metric."""
    return {key: {"geneval": score} for key, score in scores.items()}


def blocks_of(text):
    """{heading: [cells of each table row]} of a Markdown page."""
    blocks = {}
    for part in text.split("\n## ")[1:]:
        heading, *lines = part.splitlines()
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
        blocks[heading] = [[cell.strip() for cell in row] for row in rows]
    return blocks


def read_rows(path_or_text, **fields):
    """The rows of a CSV (a path or its text) that have the given fields."""
    text = path_or_text.read_text() if isinstance(path_or_text, Path) else path_or_text
    rows = csv.DictReader(text.splitlines())
    return [row for row in rows if all(row[k] == v for k, v in fields.items())]


# -- DPG-Bench

KINDS = ("entity - whole (dog)", "attribute - color (dog, red)", "other - count (dog, ==2)")
PARENTS = ((), (1,), (1,))
PROMPTS, IMAGES = 12, 2
# Half of the prompts ask for a number too.
ASKED = {f"p{i:02d}": KINDS if i % 2 else KINDS[:2] for i in range(PROMPTS)}


def questions():
    return [
        Question(item, n, PARENTS[n - 1], kind, "?", item)
        for item, kinds in ASKED.items()
        for n, kind in enumerate(kinds, 1)
    ]


def answers(seed, share):
    rng = np.random.default_rng(seed)
    return {
        item: {
            image: {n: "yes" if rng.random() < share else "no" for n in range(1, len(kinds) + 1)}
            for image in range(IMAGES)
        }
        for item, kinds in ASKED.items()
    }


def dpg_score(given, **fields):
    score = score_answers("questions.csv", questions(), given, "corrected", "dsg")
    return score | {
        "prompt_set_sha256": "ab" * 32,
        "judge": {"name": "rules", "digest": "cd" * 32},
        "run": RUN | {"images_per_prompt": 2},
        "versions": {"arrag": "0.1.0"},
        **fields,
    }


GIVEN = {"vanilla": answers(0, 0.5), "daid": answers(1, 0.9)}
DPG = {key: {"dpg": dpg_score(given)} for key, given in GIVEN.items()}


def category_share(given, number, prompts):
    """Percent of the answers to question ``number`` that count, over all images of ``prompts``."""
    scores = [
        image[number] == "yes" and (number == 1 or image[1] == "yes")
        for item in prompts
        for image in given[item].values()
        if number in image
    ]
    return 100 * sum(scores) / len(scores)


# -- distances

WEIGHTS = image_weights(50, 200)


def distance(metric, label, value, pull, **fields):
    """A score whose resampled values come from 50 images, each pulling the value its way."""
    values = value + 0.1 + WEIGHTS @ pull / 50
    boot = image_bootstrap(value, values, "ef" * 32)
    return {
        "metric": metric,
        "label": label,
        "compat": "clean",
        "value": value,
        "interval": boot.pop("interval"),
        "n": 50,
        "n_images": 50,
        "n_reference": 60,
        "reference": {"sha256": "aa" * 32},
        "judge": {"extractor": "MobileNetV2-24", "extractor_digest": "cd" * 32},
        "bootstrap": boot,
        "dimensions": 24,
        "prompt_set_sha256": "ab" * 32,
        "run": RUN | {"images_per_prompt": 2},
        "versions": {"arrag": "0.1.0"},
        "warnings": [],
    } | fields


PULL = np.random.default_rng(5).normal(size=(2, 50))
DISTANCES = {
    "vanilla": {
        "cmmd": distance("cmmd", "CMMD-micro-clip", 0.5, PULL[0]),
        "fid": distance("fid", "FID-MobileNetV2-24", 12.0, PULL[0]),
    },
    "daid": {
        "cmmd": distance("cmmd", "CMMD-micro-clip", 0.45, PULL[1]),
        "fid": distance("fid", "FID-MobileNetV2-24", 9.2, PULL[0] + 0.01 * PULL[1]),
    },
}


# -- timings

SECONDS = {"vanilla": [4.0, 8.0, 4.4], "daid": [4.4, 8.8, 4.84], "faid": [5.0, 11.0, 6.0]}


def timing_row(key, paper_key=None, bare="vanilla", **runs):
    runs = runs or {
        "one": {"batch": 1, "images": 4, "seconds": SECONDS[key]},
        "best": {
            "batch": 8,
            "images": 8,
            "seconds": [s / 4 for s in SECONDS[key]],
            "end": "16 is no faster",
        },
    }
    about = {"label": f"row {key}", "paper_key": paper_key, "bare": bare, "dtype": "float32"}
    return about | {"runs": runs}


def a_timing(**changed):
    timing = {
        "kind": "timing", "scale": "micro", "weights": "trained", "benchmark": "geneval",
        "rounds": 3, "prompts_sha256": "ab" * 32, "not_run": {},
        "machine": {"device": "cpu", "name": "a CPU", "threads": 2, "cores": 2, "load": 0.5},
        "versions": {"torch": "2.13.0"},
        "rows": {
            "faid": timing_row("faid", "janus-pro-1b+faid"),
            "vanilla": timing_row("vanilla", "janus-pro-1b"),
            "upstream": timing_row("u", one={"batch": 1, "images": 4, "seconds": [8.0] * 3}),
            "daid": timing_row("daid", "janus-pro-1b+daid"),
            "pipeline": timing_row(
                "p", bare=None, one={"batch": 1, "images": 4, "seconds": [40.0]}
            ),
        },
    }  # fmt: skip
    order = ["vanilla", "upstream", "faid", "daid", "pipeline"]  # as they were timed
    return timing | {"order": order} | changed


# -- ablations

LAM, TAU = [0.0, 0.1, 0.9], [0.05, 1.0]
BASE = make_score([0.5] * 6)


def rates(lam, tau):
    """Shares of right prompts that tell every point from the others."""
    return [0.5 + 0.1 * LAM.index(lam) + 0.2 * TAU.index(tau)] * 5 + [0.5]


def a_map(**changed):
    points = [
        GridPoint(
            f"lam {lam}, tau {tau}",
            {"augment.lam": lam, "augment.tau": tau},
            {"geneval": make_score(rates(lam, tau))},
        )
        for lam, tau in itertools.product(LAM, TAU)
    ]
    fields = {
        "name": "daid",
        "title": "λ and τ",
        "kind": "geneval",
        "scale": "micro",
        "axes": {"augment.lam": LAM, "augment.tau": TAU},
        "points": points,
        "baseline": ("Janus", {"geneval": BASE}),
    }
    return GridReport(**(fields | changed))
