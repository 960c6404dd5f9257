"""A small finished run for the tests of the page: two methods, three prompts, made of noise."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from report_data import LAM as LAMS
from report_data import TAU as TAUS
from report_data import make_score

from arrag.config.root import Config, load_config
from arrag.data.sample_dir import codes_chunk
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.pipeline.layout import Layout
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.files import write_json, write_text

EVIL = '<script>alert(1)</script> & "quoted" </script><img src=x onerror=alert(2)>'
PROMPTS = [
    {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a red dog"},
    {"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "a photo of two cups"},
    {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": EVIL},
]
WHY = "expected dog>=1, found 0 <b>&"
K, LAM, TAU = 8, 0.25, 0.3


@dataclass
class Project:
    """Where the run is, and what it was made of. codes: of DAiD's samples, int64 [H, W]."""

    path: Path
    config: Config
    layout: Layout
    tokenizer: ImageTokenizer
    index: PatchIndex
    codes: dict[tuple[int, int], np.ndarray]


def make_project(path: Path, root: Path, checkpoint: Path) -> Project:
    """Everything in ``path``, which must be the working directory: digests hold relative names."""
    write_text(path / "prompts.jsonl", "".join(json.dumps(p) + "\n" for p in PROMPTS))
    config = load_config(_configuration(path, root, checkpoint))
    layout, tokenizer = Layout(config), load_tokenizer(checkpoint)
    index = _database(layout, tokenizer)
    rng = np.random.default_rng(5)
    codes = {}
    for name in config.methods:
        folder = layout.samples(name)
        for p, prompt in enumerate(PROMPTS):
            write_text(folder / f"{p:05d}/metadata.jsonl", json.dumps(prompt) + "\n")
            (folder / f"{p:05d}/samples").mkdir()
            for s in range(2):
                grid = rng.integers(0, 30, tokenizer.grid)
                image = Image.fromarray(tokenizer.decode(torch.from_numpy(grid)[None])[0])
                image.save(
                    folder / f"{p:05d}/samples/{s:04d}.png",
                    pnginfo=codes_chunk(grid) if name == "daid" else None,
                )
                if name == "daid":
                    codes[p, s] = grid
        _scored(layout, name)
        write_json(folder / "run.json", {"versions": {"torch": "2.13.0"}})
    for name in ("real", "reconstructions"):
        _scored(layout, name)
    return Project(path, config, layout, tokenizer, index, codes)


def _configuration(path: Path, root: Path, checkpoint: Path) -> Path:
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
    document["generators"]["janus"]["checkpoint"] = str(checkpoint)
    document["benchmarks"]["geneval"]["prompts"] = str(path / "prompts.jsonl")
    for name in ("questions", "prompts"):
        for block in ("dpg", "mjhq"):
            if name in document["benchmarks"][block]:
                found = document["benchmarks"][block][name]
                document["benchmarks"][block][name] = str(root / found)
    for metric in document["benchmarks"]["mjhq"]["metrics"].values():
        if metric.get("extractor", "").startswith("checkpoints/"):
            metric["extractor"] = str(root / metric["extractor"])
    document["scorers"] = {key: str(root / value) for key, value in document["scorers"].items()}
    document["methods"] = {
        "vanilla": {"label": "Janus <i>"},
        "daid": {
            "label": "+ DAiD",
            "augment": {"kind": "daid", "k": K, "lam": LAM, "tau": TAU},
            "baseline": "vanilla",
        },
    }
    grid = {"method": "daid", "title": "a title"}
    grid["values"] = {"augment.lam": LAMS, "augment.tau": TAUS}
    document |= {"grids": {"one": grid}, "figures": {}}
    write_text(path / "config.yaml", yaml.safe_dump(document, sort_keys=False))
    return path / "config.yaml"


def _database(layout: Layout, tokenizer: ImageTokenizer) -> PatchIndex:
    with StoreWriter(
        layout.codes("daid"),
        tokenizer_digest=tokenizer.digest,
        grid=tokenizer.grid,
        codebook=tokenizer.codebook,
        source="random",
        shard_size=100,
    ) as writer:
        names = [f"scene <{i}>" for i in range(12)]
        writer.add(names, np.random.default_rng(3).integers(0, 30, (12, *tokenizer.grid)))
    store = TokenStore.open(layout.codes("daid"))
    path = layout.index("daid")
    build_index(store, path, neighborhood=Neighborhood("causal"), progress=False)
    return open_index(path, store)


def _scored(layout: Layout, name: str) -> None:
    score = layout.scores(name)["geneval"]
    rate = {"vanilla": 0.8, "daid": 0.5}.get(name, 1.0)
    write_json(score, make_score([rate] * 6))
    if name in layout.config.methods:
        records = [
            {
                "filename": f"{p:05d}/samples/{s:04d}.png",
                "tag": prompt["tag"],
                "prompt": prompt["prompt"],
                "correct": (right := is_right(name, p, s)),
                "reason": "" if right else WHY,
                "metadata": json.dumps(prompt),
                "details": "{}",
            }
            for p, prompt in enumerate(PROMPTS)
            for s in range(2)
        ]
        write_text(score.with_suffix(".jsonl"), "".join(json.dumps(r) + "\n" for r in records))


def is_right(method: str, prompt: int, sample: int) -> bool:
    """The made-up verdicts: DAiD is right with every second image, the model with its first."""
    return sample == 1 if method == "daid" else (prompt, sample) == (0, 0)
