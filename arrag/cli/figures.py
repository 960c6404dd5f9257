"""``arrag report figure4`` to ``figure7``, and the page that shows them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.cli.common import Run, command, config_option
from arrag.pipeline.records import write_record
from arrag.pipeline.reports import (
    figure4_methods,
    figure5_methods,
    figure7_grids,
    find_method,
    lacking_for,
)

if TYPE_CHECKING:
    import numpy as np

    from arrag.config.root import Config
    from arrag.methods.generator import TokenGenerator
    from arrag.pipeline.layout import Layout

CAPTIONS = {
    "figure4": "Samples of the same prompts, method by method.",
    "figure5": "What is copied from a retrieved image: the share of the drawn patches whose 3 x 3 "
    "codes stand in it, and the cosine of the nearest window, beside another image of the "
    "database. The same reference for every method: the one that image-level retrieval shows.",
    "figure6": "Squared distance from the code of the k-th retrieved patch to the true code, for "
    "the positions of held-out images, beside codes drawn at random.",
    "figure7": "Grids of two settings as maps; * where the baseline can be told apart.",
}
FILES = {"figure5": ("figure5-images", "figure5")}


def add_figures(reports: Any) -> None:
    """Add ``report figure4`` to ``figure7`` and ``report figures``."""
    runs = {"figure4": run_figure4, "figure5": run_figure5}
    runs |= {"figure6": run_figure6, "figure7": run_figure7}
    for name, run in runs.items():
        parser = command(
            reports,
            name,
            f"{name[:-1]} {name[-1]} as PNG, PDF and CSV",
            f"arrag report {name} --config config/micro.yaml --out results/figures/{name}.png",
            partial(_recorded, run),
        )
        out = Path(f"results/figures/{name}.png")
        parser.add_argument("--out", type=Path, default=out, help="%(default)s")
        if name == "figure7":
            there = {"type": Path, "default": Path("reports"), "metavar": "DIR"}
            parser.add_argument("--reports", **there, help="of the grids (%(default)s)")
        config_option(parser)
    page = command(
        reports,
        "figures",
        "a folder of the figures, with a page that shows them",
        "arrag report figures --config config/micro.yaml --out reports/figures",
        run_page,
    )
    drawn = Path("results/figures")
    page.add_argument("--drawn", type=Path, default=drawn, help="where they are (%(default)s)")
    page.add_argument("--out", type=Path, default=Path("reports/figures"), help="%(default)s")
    config_option(page)


def _recorded(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """Draw, and write the record of all files of the figure."""
    about = run(args)
    write_record(args.out, *sorted(args.out.parent.glob(f"{args.out.stem}[-.][!r]*")))
    return about


def _loaded(args: argparse.Namespace, figure: str) -> tuple[Config, Layout]:
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.utils.errors import ArragError

    config = load_config(args.config)
    if lacks := lacking_for(config, figure):
        raise ArragError(f"{args.config}: {figure}: {lacks}")
    return config, Layout(config)


def run_figure4(args: argparse.Namespace) -> dict[str, Any]:
    """Samples of the first prompts of each task."""
    from arrag.data.prompts import first_of_each_task, load_prompt_set
    from arrag.report.figures.samples import figure4

    config, layout = _loaded(args, "figure4")
    prompts = first_of_each_task(load_prompt_set(config.benchmark()), config.figures.prompts)
    each = min(config.figures.images, config.benchmark().images_per_prompt)
    columns = {config.method(m).label: layout.samples(m) for m in figure4_methods(config)}
    figure4(columns, prompts, args.out.with_suffix(""), each)
    return {"figure": args.out, "prompts": prompts}


def run_figure5(args: argparse.Namespace) -> dict[str, Any]:
    """Draw one image a prompt with each method, as codes, and measure them.

    The samples of a benchmark hold pixels, and encoding those again gives other codes than were
    drawn: hence they are drawn here, which gives the same images.
    """
    import torch

    from arrag.cli.timing import opened
    from arrag.data.prompts import first_of_each_task, load_prompt_set
    from arrag.report.figures.copying import figure5, measure

    config, layout = _loaded(args, "figure5")
    methods = figure5_methods(config)
    listed = load_prompt_set(config.benchmark())
    numbers = first_of_each_task(listed, config.figures.copying_prompts)
    prompts = [listed[i]["prompt"] for i in numbers]
    references, others, store = _references(config, layout, methods[0], prompts)
    grids = store.grids([*references, *others])
    drawn: dict[str, np.ndarray] = {}
    pictures: dict[str, np.ndarray] = {}
    for name in methods:
        sampler = opened(config, name, args.config)
        label = config.method(name).label
        codes = _codes(sampler, prompts, config)
        drawn[label], pictures[label] = codes.numpy(), sampler.image_tokenizer.decode(codes)
        if name == methods[0]:
            shown = torch.from_numpy(grids[: len(prompts)].astype("int64"))
            pictures = {"reference": sampler.image_tokenizer.decode(shown), **pictures}
    found = measure(drawn, prompts, grids, references, others, store.codebook)
    figure5(found, pictures, args.out.with_suffix(""))
    means = {f"{a} {b} {c}": e.value for (a, b, c), e in found.estimates().items() if b == "share"}
    return {"figure": args.out, "prompts": len(prompts), "shares": means}


def _references(config: Config, layout: Layout, method: str, prompts: list[str]) -> tuple:
    """The database's images that the prompts retrieve, others at random, and the store."""
    import torch

    from arrag.data.clip import OpenClip
    from arrag.data.token_store import TokenStore
    from arrag.metrics.memorization import other_images
    from arrag.retrieval.image_index import ImageIndex

    store = TokenStore.open(layout.codes(method))
    clip = OpenClip(config.method(method).augment.clip)
    images = ImageIndex(layout.image_index(method), store, clip.digest)
    texts = torch.cat([clip.encode_texts([prompt]) for prompt in prompts])  # as decoding does
    references = images.search(texts, 1)[1][:, 0].numpy()
    return references, other_images(references, len(store), config.seed), store


def _codes(sampler: TokenGenerator, prompts: list[str], config: Config) -> Any:
    import torch
    from tqdm import tqdm

    from arrag.utils.batching import in_batches

    draw = lambda some: sampler.generate_codes(some, [0] * len(some), config.seed).cpu()  # noqa: E731
    drawn = in_batches(draw, prompts, config.resources.batch_size)
    return torch.cat([codes for _, codes in tqdm(drawn, desc="codes", unit="batch")])


def run_figure6(args: argparse.Namespace) -> dict[str, Any]:
    """Encode held-out images and query the index with each position."""
    import numpy as np
    import torch

    from arrag.data.images import decode_all
    from arrag.data.sources import open_source
    from arrag.data.token_store import TokenStore
    from arrag.report.figures.distances import figure6, measure
    from arrag.retrieval.index import open_index
    from arrag.tokenizers.base import load_tokenizer
    from arrag.utils.errors import ArragError

    config, layout = _loaded(args, "figure6")
    method, benchmark = find_method(config, "daid"), config.benchmark_of_kind("distribution")
    folder = layout.reference(benchmark)
    items = list(open_source(str(folder), None, None))
    items = items[:: max(1, len(items) // config.figures.held_out)][: config.figures.held_out]
    tokenizer = load_tokenizer(config.generator_of(method)[1].checkpoint)
    images = [image.pixels for image in decode_all(iter(items), tokenizer.image_size)]
    images = [pixels for pixels in images if pixels is not None]
    if not images:
        raise ArragError(f"figure 6: {folder}: holds no readable image; make the reference first")
    codes = tokenizer.encode(np.stack(images)).cpu()
    store = TokenStore.open(layout.codes(method))
    index = open_index(layout.index(method), store, tokenizer.digest)
    found = measure(index, torch.as_tensor(codes), min(config.figures.k, index.meta["entries"]))
    about = f"{len(images)} held-out images, {len(store):,} stored"
    figure6(found, args.out.with_suffix(""), about)
    nearest = float(found.by_rank[:, 0].mean())
    return {"figure": args.out, "images": len(images), "nearest": nearest}


def run_figure7(args: argparse.Namespace) -> dict[str, Any]:
    """Maps from the CSV files of the grids' reports."""
    from arrag.report.figures.grids import figure7
    from arrag.report.measures import MEASURES

    config, _ = _loaded(args, "figure7")
    grids = {}
    for name in figure7_grids(config):
        grid = config.grids[name]
        measure = MEASURES[config.benchmark(grid.benchmark).kind]
        column = grid.metric or measure.overall or "fid"
        heading = measure.paper_columns.get(column, column)
        grids[name] = {
            "title": f"{config.method(grid.method).label}: {heading}",
            "csv": args.reports / f"ablation_{name}.csv",
            "axes": grid.values,
            "column": column,
            "digits": measure.digits,
            "lower_is_better": measure.lower_is_better,
        }
    figure7(grids, args.out.with_suffix(""))
    return {"figure": args.out, "grids": list(grids)}


def run_page(args: argparse.Namespace) -> dict[str, Any]:
    """Every figure that the configuration allows, in one folder with a page of them.

    The page says why one is missing. ArragError for one that has not been drawn.
    """
    import shutil

    from arrag.config.root import load_config
    from arrag.utils.errors import ArragError
    from arrag.utils.files import write_text
    from arrag.utils.outputs import atomic_path

    config = load_config(args.config)
    lines, files = ["# Figures", f"> {SCALES[config.scale]}"], []
    for name, caption in CAPTIONS.items():
        lines.append(f"## Figure {name[-1]}")
        if lacks := lacking_for(config, name):
            lines.append(f"Not made: {lacks}.")
            continue
        shown = FILES.get(name, (name,))
        files += [f"{file}.{kind}" for file in shown for kind in ("png", "pdf")] + [f"{name}.csv"]
        lines += [f"![{name}]({file}.png)" for file in shown]
        lines.append(f"{caption} [PDF]({name}.pdf), [numbers]({name}.csv).")
    if absent := [file for file in files if not (args.drawn / file).is_file()]:
        raise ArragError(
            f"{args.drawn / absent[0]}: not there; draw it with `arrag report "
            f"{absent[0][:7]}`, or make all with `snakemake --cores all reports/figures`"
        )
    with atomic_path(args.out) as partial:
        partial.mkdir()
        for file in files:
            shutil.copyfile(args.drawn / file, partial / file)
        write_text(partial / "README.md", "\n\n".join(lines) + "\n")
    write_record(args.out)
    return {"folder": args.out}


SCALES = {
    "micro": "Micro scale: the built-in micro world, whose pictures and numbers are its own and "
    "not the paper's.",
    "paper": "Paper scale.",
}
