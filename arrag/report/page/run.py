"""What the page shows of a run, found where the workflow has it: samples, verdicts, databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arrag.config.root import Config
from arrag.data.sample_dir import load_image, sample_path
from arrag.data.token_store import TokenStore
from arrag.metrics.geneval.results import NUMBERS, read_results
from arrag.pipeline.layout import Layout
from arrag.report.attribution import Blend
from arrag.report.page.patches import (
    PatchDatabase,
    TracedMethod,
    data_uri,
    read_sample_codes,
    trace_sample,
)
from arrag.report.replay import replay_samples
from arrag.retrieval.index import open_index
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.errors import FormatError

TRACED = ("daid", "faid")  # kinds of augmentation that retrieve patches
Verdicts = dict[tuple[int, int], tuple[bool, str]]  # (prompt, sample) -> correct, and why not


@dataclass(frozen=True)
class Run:
    """A configuration, its results, and the benchmark whose samples are shown."""

    config: Config
    layout: Layout
    benchmark: str


@dataclass(frozen=True)
class Column:
    """The samples of a method or ceiling: their folder in GenEval's layout, and the verdicts."""

    key: str
    label: str
    folder: Path
    verdicts: Verdicts = field(default_factory=dict)

    def image(self, prompt: int, sample: int) -> Path:
        """Path of an image."""
        return sample_path(self.folder, prompt, sample)


def columns(run: Run) -> tuple[list[Column], list[str]]:
    """The methods and real images whose samples are complete, and the labels of the others."""
    labels = run.config.row_labels(run.benchmark)
    labels.pop("reconstructions", None)  # hardly different from the real images
    found, missing = [], []
    for key, label in labels.items():
        folder = run.layout.samples(key, run.benchmark)
        if (folder / "run.json").is_file():
            found.append(Column(key, label, folder, _verdicts(run, key)))
        else:
            missing.append(label)
    return found, missing


def _verdicts(run: Run, key: str) -> Verdicts:
    if run.config.benchmark(run.benchmark).kind != "geneval":
        return {}
    score = run.layout.scores(key, run.benchmark)["geneval"]
    path, found = score.with_suffix(".jsonl"), {}
    if not (score.is_file() and path.is_file()):
        return {}
    for record in read_results(path):
        match = NUMBERS.search(record["filename"])
        if match is None:
            message = f"{record['filename']!r} is not the name of a sample"
            raise FormatError(message, path=path, field="filename", hint="score again")
        reason = "; ".join(filter(None, record.get("reason", "").split("\n")))
        found[int(match[1]), int(match[2])] = bool(record["correct"]), reason
    return found


def gallery_cards(
    shown: Sequence[Column],
    prompts: Sequence[dict[str, Any]],
    listed: Iterable[int],
    images: int,
    traced: set[tuple[str, int, int]],
) -> list[dict[str, Any]]:
    """The gallery's content: a card for each prompt, with the tiles of each method.

    Args:
        shown: The methods.
        prompts, listed: All prompts, and the indices of those shown.
        images: Images of each prompt.
        traced: (method, prompt, sample) of the samples whose patches the page traces.
    """
    return [
        {
            "prompt": i,
            "tag": prompts[i].get("tag", ""),
            "text": prompts[i]["prompt"],
            "methods": [
                (c.key, c.label, [_tile(c, i, s, (c.key, i, s) in traced) for s in range(images)])
                for c in shown
            ],
        }
        for i in listed
    ]


def _tile(column: Column, prompt: int, sample: int, traced: bool) -> dict[str, Any]:
    correct, reason = column.verdicts.get((prompt, sample), (None, ""))
    verdict = {None: None, True: "right", False: "wrong"}[correct]
    said = [f"{column.label}, sample {sample + 1}", {"right": "correct"}.get(verdict, verdict)]
    said.append("patches can be traced" if traced else None)
    return {
        "sample": sample,
        "source": data_uri(load_image(column.image(prompt, sample))),
        "classes": " ".join(filter(None, ("tile", verdict, traced and "traced"))),
        "said": ", ".join(filter(None, said)),
        "reason": reason,
    }


def traced_samples(
    run: Run,
    shown: Sequence[Column],
    jobs: Sequence[tuple[int, str, int]],
    neighbours: int,
    open_method: Callable[[str], Any] | None,
) -> dict[str, Any]:
    """The data of the patch viewer: databases, and what each patch of a sample retrieved.

    Args:
        run: The run.
        shown: The methods whose samples are there.
        jobs: (prompt, its text, sample) of the samples to trace.
        neighbours: Retrieved patches kept for each position.
        open_method: Loads a method, to generate samples again whose files hold no codes.
    """
    databases: dict[tuple[Path, Path], PatchDatabase] = {}
    samples = []
    for column in shown:
        method = run.config.methods.get(column.key)
        if method is None or method.augment is None or method.augment.kind not in TRACED:
            continue
        at = (run.layout.codes(column.key), run.layout.index(column.key))
        if not ((at[0] / "manifest.json").is_file() and (at[1] / "meta.json").is_file()):
            continue
        if at not in databases:
            checkpoint = run.config.generator_of(column.key)[1].checkpoint
            tokenizer: ImageTokenizer = load_tokenizer(checkpoint)
            index = open_index(at[1], TokenStore.open(at[0]), tokenizer.digest)
            databases[at] = PatchDatabase(len(databases), index, tokenizer)
        augment = method.augment
        blend = Blend(augment.lam, augment.tau) if augment.kind == "daid" else None
        replay = None
        if open_method is not None:
            replay = lambda pairs, name=column.key: replay_samples(  # noqa: E731
                open_method(name), pairs, run.config.seed, run.config.resources.batch_size
            )
        traced = TracedMethod(column.key, column.label, column.image, augment.k, blend, replay)
        codes = read_sample_codes(traced, databases[at], jobs)
        samples += [
            trace_sample(traced, databases[at], codes[prompt, i], (prompt, text, i), neighbours)
            for prompt, text, i in jobs
            if (prompt, i) in codes
        ]
    return {"bases": [found.described() for found in databases.values()], "samples": samples}
