"""``arrag train``: adapters of a generator, and what they are trained on.

``--gpus N`` trains with N processes of ``accelerate launch``, which a person can call too, for
several machines: ``accelerate launch -m arrag.cli.main train faid ...``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.cli.common import command, config_option, count, group, one_part
from arrag.pipeline.layout import MICRO, MICRO_ASSETS
from arrag.pipeline.records import write_record
from arrag.utils.device import acquire_gpus

if TYPE_CHECKING:
    from arrag.config.root import Config
    from arrag.pipeline.layout import Layout

KINDS = {
    "finetune": "fine-tune without retrieval, the control of the others",
    "faid": "train FAiD, which blends retrieved patches into hidden states",
    "racm3": "train the replica of RA-CM3, which sees a retrieved image before the prompt",
}
HELP = {
    "pairs": "images with captions, from `train pairs`",
    "codes": "store of the database",
    "index": "index of patches over that store",
    "neighbours": "from `train retrieve`",
    "image_index": "index of whole images, from `index images`",
    "references": "from `train references`",
}


def add(commands: Any) -> None:
    """Add the commands about training."""
    inner = group(
        commands,
        "train",
        "train adapters; `snakemake train_adapters` runs all of it",
        "arrag train faid --config config/micro.yaml",
    )
    pairs = command(
        inner,
        "pairs",
        "sample and encode the images with captions that adapters are trained on; goes on after "
        "a kill",
        "arrag train pairs --config config/micro.yaml",
        run_pairs,
    )
    pairs.add_argument("--assets", type=Path, default=MICRO_ASSETS, help="%(default)s")
    pairs.add_argument("--exclude", type=Path, help="folder of test images, left out")
    pairs.add_argument("--workers", type=count, default=1, help="processes that read images")
    retrieve = command(
        inner,
        "retrieve",
        "write what every position of the pairs retrieves, without the image itself; goes on "
        "after a kill",
        "arrag train retrieve --config config/micro.yaml",
        run_retrieve,
    )
    retrieve.add_argument("-k", type=count, help="patches a position; the configuration's if not")
    retrieve.add_argument(
        "--part", type=one_part, metavar="I/N", help="search for the I-th of N parts only"
    )
    _paths(retrieve, "pairs", "codes", "index")
    references = command(
        inner,
        "references",
        "write the image that each caption retrieves, never the pair's own; goes on after a kill",
        "arrag train references --config config/micro.yaml",
        run_references,
    )
    _paths(references, "pairs", "codes", "image_index")
    parsers = [pairs, retrieve, references, *(_add_kind(inner, *item) for item in KINDS.items())]
    for parser in parsers:
        config_option(parser)
        parser.add_argument("--method", help="whose adapter it is for (the first that fits)")
        parser.add_argument("--out", type=Path, help="folder; else where the workflow has it")
    compare = command(
        inner,
        "compare",
        "held-out losses of two adapters, and their difference, with 95 percent intervals",
        "arrag train compare checkpoints/micro-faid checkpoints/micro-finetune",
        run_compare,
    )
    compare.add_argument("first", type=Path, help="folder of an adapter")
    compare.add_argument("second", type=Path, help="folder of another")


def _add_kind(inner: Any, kind: str, help: str) -> argparse.ArgumentParser:
    train = command(
        inner,
        kind,
        f"{help}; goes on after a kill",
        f"arrag train {kind} --config config/micro.yaml",
        run_kind,
    )
    train.set_defaults(kind=kind)
    needs = {
        "finetune": ("pairs",),
        "faid": ("pairs", "codes", "index", "neighbours"),
        "racm3": ("pairs", "codes", "image_index", "references"),
    }
    _paths(train, *needs[kind])
    train.add_argument("--work-dir", type=Path, help="running state and log (OUT.work)")
    train.add_argument("--batch-size", type=count, help="images a process takes at a time")
    train.set_defaults(batch_field="train_batch_size")
    train.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    train.add_argument("--gpus", type=int, default=1, help="more than 1: a process for each")
    return train


def _paths(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=Path, help=f"{HELP[name]}; else the workflow's")


def run_pairs(args: argparse.Namespace) -> dict[str, Any]:
    """Make the pairs of the configuration."""
    from arrag.training.pairs import make_pairs

    config, layout, method = _load(args, *KINDS)
    resolved = config.resolved(method)
    training = resolved.training
    out = args.out or layout.pairs(method)
    about = make_pairs(
        "micro:database" if training.source == MICRO else training.source,
        resolved.generator.checkpoint,
        out,
        count=training.pairs,
        held_out=training.held_out,
        seed=config.seed,
        first_held_out=resolved.first_held_out,
        assets=args.assets,
        exclude=args.exclude,
        batch_size=config.resources.encode_batch_size,
        workers=args.workers - 1,
    )
    write_record(out, made_of={"tokenizer": resolved.generator.checkpoint})
    return about


def run_retrieve(args: argparse.Namespace) -> dict[str, Any]:
    """Search for every position of the pairs."""
    from arrag.training.neighbours import retrieve_neighbours
    from arrag.training.pairs import Pairs

    config, layout, method = _load(args, "faid")
    out = args.out or layout.neighbours(method)
    pairs = Pairs.open(args.pairs or layout.pairs(method))
    k = args.k or config.resolved(method).training.faid.k
    index = _index(args, layout, method)
    manifest = retrieve_neighbours(pairs, index, out, k, part=args.part)
    if not args.part:
        sources = {"index": args.index or layout.index(method), "codes": index.store.path}
        write_record(out, made_of={"pairs": pairs.path, **sources})
    return {"neighbours": out, **{k: v for k, v in manifest.items() if k != "shards"}}


def run_references(args: argparse.Namespace) -> dict[str, Any]:
    """Search an image for every caption of the pairs."""
    from arrag.training.pairs import Pairs
    from arrag.training.references import retrieve_references

    config, layout, method = _load(args, "racm3")
    out = args.out or layout.references(method)
    model, index = _image_index(args, config, layout, method)
    pairs = Pairs.open(args.pairs or layout.pairs(method))
    manifest = retrieve_references(pairs, index, model, out)
    write_record(out, made_of={"pairs": pairs.path, "image_index": index.path})
    return {"references": out, **{k: v for k, v in manifest.items() if k != "shards"}}


def run_kind(args: argparse.Namespace) -> dict[str, Any]:
    """Train an adapter."""
    if not args.cpu:
        take_gpus(args.gpus)
    from arrag.training.adapt import train_adapter
    from arrag.training.pairs import Pairs

    config, layout, method = _load(args, args.kind)
    resolved = config.resolved(method)
    out = args.out or layout.trained_adapter(method)
    pairs = Pairs.open(args.pairs or layout.pairs(method))
    about = train_adapter(
        args.kind,
        resolved.generator,
        resolved.training,
        _data(args, config, layout, method, pairs),
        out,
        args.work_dir or out.with_name(out.name + ".work"),
        seed=config.seed,
        batch_size=args.batch_size or config.resources.train_batch_size,
        save_minutes=config.resources.save_minutes,
        cpu=args.cpu,
    )
    held_out = about.pop("held_out", None)
    if held_out:  # of several processes the first writes
        backbone = (resolved.generator.checkpoint, about["training"]["backbone"])
        write_record(out, made_of={"backbone": backbone, "pairs": pairs.path})
    return {"adapter": out, "held_out": held_out and held_out["mean"], **about}


def take_gpus(count: int) -> None:
    """Take GPUs to train on; more than one: become ``accelerate launch`` of this very command."""
    acquire_gpus(max(1, count))
    if count <= 1 or "LOCAL_RANK" in os.environ:  # alone, or already launched
        return
    options = {"num_processes": count, "num_machines": 1, "mixed_precision": "no"}
    options |= {"dynamo_backend": "no", "main_process_port": 0}  # any free one
    words = [f"--{name}={value}" for name, value in options.items()]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words]
    os.execv(sys.executable, [*launcher, "-m", "arrag.cli.main", *sys.argv[1:]])


def run_compare(args: argparse.Namespace) -> dict[str, Any]:
    """Compare two adapters on the held-out images."""
    from arrag.training.adapt import compare_adapters

    found = compare_adapters(args.first, args.second)
    return {"first_adapter": args.first, "second_adapter": args.second} | found


def _load(args: argparse.Namespace, *kinds: str) -> tuple[Config, Layout, str]:
    """The configuration, its layout, and the method of one of ``kinds`` that is trained for."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.utils.errors import ArragError

    config = load_config(args.config)
    fits = lambda of: of.augment is not None and of.augment.kind in kinds  # noqa: E731
    fitting = [name for name, of in config.methods.items() if fits(of)]
    method = args.method or next(iter(fitting), None)
    if method is None or not fits(config.method(method)):  # points of grids are methods too
        found = f"--method: '{method}' is not" if method else f"{args.config}: methods: none is"
        among = f" (known: {', '.join(fitting)})" if fitting else ""
        raise ArragError(f"{found} of kind {' or '.join(kinds)}; name or add one{among}")
    if config.resolved(method).training is None:
        raise ArragError(f"{args.config}: training: missing; add that block to train adapters")
    return config, Layout(config), method


def _data(args: argparse.Namespace, config: Config, layout: Layout, method: str, pairs: Any) -> Any:
    from arrag.training.neighbours import Neighbours
    from arrag.training.references import References
    from arrag.training.trainer import Data

    if args.kind == "faid":
        digest = _index(args, layout, method).digest
        path = args.neighbours or layout.neighbours(method)
        k = config.resolved(method).training.faid.k
        return Data(pairs, neighbours=Neighbours(path, pairs, k, digest))
    if args.kind == "racm3":
        index = _image_index(args, config, layout, method)[1]
        path = args.references or layout.references(method)
        return Data(pairs, references=References(path, pairs, index))
    return Data(pairs)


def _index(args: argparse.Namespace, layout: Layout, method: str) -> Any:
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import open_index

    store = TokenStore.open(args.codes or layout.codes(method))
    return open_index(args.index or layout.index(method), store)


def _image_index(
    args: argparse.Namespace, config: Config, layout: Layout, method: str
) -> tuple[Any, Any]:
    from arrag.data.clip import OpenClip
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.image_index import ImageIndex

    model = OpenClip(config.method(method).augment.clip)
    store = TokenStore.open(args.codes or layout.codes(method))
    return model, ImageIndex(args.image_index or layout.image_index(method), store, model.digest)
