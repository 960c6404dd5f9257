"""What a page is made of, found where the workflow has it: samples, verdicts, databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrag.config.root import Config
from arrag.data.token_store import TokenStore
from arrag.pipeline.layout import Layout
from arrag.report.origins import Blend
from arrag.report.page.gallery import Column, read_verdicts
from arrag.report.page.patches import Base, Followed, Redraw, followed_sample, sample_drawings
from arrag.retrieval.index import open_index
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer

FOLLOWED = ("daid", "faid")  # kinds of augment that retrieve patches
Redrawer = Callable[[str], Redraw]
"""Makes, of a method's name, what draws its samples again."""


@dataclass(frozen=True)
class Run:
    """A configuration and its results."""

    config: Config
    layout: Layout
    benchmark: str


def columns(run: Run) -> tuple[list[Column], list[str]]:
    """The methods with whole samples, then real images; and the labels of the others."""
    labels = run.config.row_labels(run.benchmark)
    labels.pop("reconstructions", None)  # hardly different from the real ones
    found, missing = [], []
    for key, label in labels.items():
        folder = run.layout.samples(key, run.benchmark)
        if not (folder / "run.json").is_file():
            missing.append(label)
            continue
        found.append(Column(key, label, folder, _verdicts(run, key)))
    return found, missing


def _verdicts(run: Run, key: str) -> dict:
    if run.config.benchmark(run.benchmark).kind != "geneval":
        return {}
    score = run.layout.scores(key, run.benchmark)["geneval"]
    path = score.with_suffix(".jsonl")
    return read_verdicts(path) if score.is_file() and path.is_file() else {}


def followed(
    run: Run,
    columns: list[Column],
    prompts: list[tuple[int, str]],
    images: int,
    shown: int,
    redrawer: Redrawer | None,
) -> dict[str, Any]:
    """All that the patch viewer reads, of the first ``images`` of some prompts (number, text)."""
    bases: list[Base] = []
    places: dict[tuple[Path, Path], int] = {}
    samples = []
    jobs = [(number, text, i) for number, text in prompts for i in range(images)]
    for column in columns:
        method = run.config.methods.get(column.key)
        if method is None or method.augment is None or method.augment.kind not in FOLLOWED:
            continue
        at = (run.layout.codes(column.key), run.layout.index(column.key))
        if at not in places:
            if not ((at[0] / "manifest.json").is_file() and (at[1] / "meta.json").is_file()):
                continue
            places[at] = len(bases)
            bases.append(_base(run, column.key, *at))
        base = bases[places[at]]
        augment = method.augment
        blend = Blend(augment.lam, augment.tau) if augment.kind == "daid" else None
        redraw = redrawer(column.key) if redrawer else None
        one = Followed(
            column.key, column.label, column.folder, places[at], augment.k, blend, redraw
        )
        drawings = sample_drawings(one, base, jobs)
        samples += [
            followed_sample(one, base, drawings[number, i], number, text, i, shown)
            for number, text, i in jobs
            if (number, i) in drawings
        ]
    return {"bases": [base.described() for base in bases], "samples": samples}


def _base(run: Run, method: str, store: Path, index: Path) -> Base:
    tokenizer: ImageTokenizer = load_tokenizer(run.config.generator_of(method)[1].checkpoint)
    return Base(open_index(index, TokenStore.open(store), tokenizer.digest), tokenizer)
