"""``arrag micro``: the built-in world's prompts and its own small models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count, group
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.pipeline.records import write_record

# What is trained, its help, and the options it needs; in the order of training.
MODELS = {
    "codebook": ("fit the tokenizer's codebook", ()),
    "decoder": ("train the tokenizer's decoder", ("codebook", "steps")),
    "lm": ("train the language model", ("codebook", "steps")),
    "janus": ("join decoder and language model into one checkpoint", ("decoder", "lm")),
    "detector": ("train the detector, also on reconstructions", ("tokenizer", "steps")),
    "clip": ("train the colour classifier, also on reconstructions", ("tokenizer", "steps")),
    "retriever": ("train the model that finds the image of a caption", ("steps",)),
    "signs": ("fit the bits of Show-o's tokenizer", ()),
    "showo-decoder": ("train Show-o's tokenizer's decoder", ("signs", "steps")),
    "showo-lm": ("train Show-o's language model", ("signs", "steps")),
    "showo": ("join Show-o's decoder and language model into one checkpoint", ("decoder", "lm")),
}
OPTIONS = {
    "codebook": "file of the codebook",
    "decoder": "file of the trained decoder",
    "lm": "file of the trained language model",
    "tokenizer": "folder of the joined checkpoint",
    "signs": "file of the tokenizer's bits",
}


def add(commands: Any) -> None:
    """Add ``micro prompts``, ``micro reference`` and ``micro train MODEL``."""
    inner = group(
        commands, "micro", "prompts and training of the built-in world", "arrag micro prompts"
    )
    prompts = command(
        inner,
        "prompts",
        "write a benchmark's prompts: GenEval's metadata, DPG's questions, or captions",
        "arrag micro prompts --dpg --out benchmarks/dpg_micro.csv",
        run_prompts,
    )
    kinds = prompts.add_mutually_exclusive_group()
    kinds.add_argument("--dpg", action="store_true", help="a question table like dpg_bench.csv")
    kinds.add_argument("--mjhq", action="store_true", help="captions of real scenes, as JSON lines")
    prompts.add_argument("--out", type=Path, help="by default benchmarks/KIND_micro")
    prompts.add_argument("--per-task", type=count, help="keep only the first N of each task")
    reference = command(
        inner,
        "reference",
        "render the scenes that captions of `micro prompts --mjhq` describe",
        "arrag micro reference --prompts benchmarks/mjhq_micro.jsonl --out reference",
        run_reference,
    )
    reference.add_argument("--prompts", type=Path, required=True, help="the captions")
    reference.add_argument("--out", type=Path, required=True, help="folder of PNG files to make")
    for parser in (prompts, reference):
        parser.add_argument("--assets", type=Path, default=MICRO_ASSETS, help="%(default)s")
    models = group(
        inner,
        "train",
        "train the micro models; `snakemake train_micro` runs all of it",
        "arrag micro train codebook --out results/train/codebook.safetensors",
    )
    for model, (help, needs) in MODELS.items():
        _add_model(models, model, help, needs)


def _add_model(models: Any, model: str, help: str, needs: tuple[str, ...]) -> None:
    steps = "steps" in needs
    values = "".join(f" --{name} {'1000' if name == 'steps' else name.upper()}" for name in needs)
    example = f"arrag micro train {model}{values} --out results/train/{model}"
    goes_on = "; goes on after a kill" if steps else ""
    train = command(models, model, help + goes_on, example, run_train)
    train.set_defaults(model=model, work_dir=None)
    for name in needs:
        if name != "steps":
            train.add_argument(f"--{name}", type=Path, required=True, help=OPTIONS[name])
    if steps:
        train.add_argument("--steps", type=count, required=True, help="batches to train on")
        train.add_argument("--work-dir", type=Path, help="running state and log (OUT.work)")
    train.add_argument("--out", type=Path, required=True, help="what is made")
    train.add_argument("--assets", type=Path, default=MICRO_ASSETS, help="%(default)s")


def run_prompts(args: argparse.Namespace) -> dict[str, Any]:
    """Write the prompt file, or the beginning of each of its tasks."""
    from arrag.utils.hashing import sha256_file

    name = "dpg_micro.csv" if args.dpg else f"{'mjhq' if args.mjhq else 'geneval'}_micro.jsonl"
    out = args.out or Path("benchmarks") / name
    if args.dpg:
        from arrag.data.micro.questions import write_questions

        write_questions(out, args.per_task)
    elif args.mjhq:
        from arrag.data.micro.prompts import write_captions

        write_captions(out, args.assets, args.per_task)
    else:
        from arrag.data.micro.prompts import write_prompts

        write_prompts(out)
        if args.per_task is not None:
            keep_first(out, args.per_task)
    return {"prompts": out, "sha256": sha256_file(out)}


def run_reference(args: argparse.Namespace) -> dict[str, Any]:
    """Render the reference images."""
    from arrag.methods.ceiling import write_reference

    count = write_reference(args.prompts, args.out, args.assets)
    write_record(args.out, made_of={"prompts": args.prompts, "assets": args.assets})
    return {"reference": args.out, "images": count}


def keep_first(path: Path, per_task: int) -> None:
    """Reduce a prompt file to the first ``per_task`` lines of each task, bytes unchanged."""
    import json

    from arrag.data.prompts import first_of_each_task
    from arrag.utils.files import write_text

    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = first_of_each_task([json.loads(line) for line in lines], per_task)
    write_text(path, "".join(lines[i] for i in kept))


def run_train(args: argparse.Namespace) -> dict[str, Any]:
    """Train one model, or join two."""
    if args.work_dir is None:
        args.work_dir = args.out.with_name(args.out.name + ".work")
    _TRAIN[args.model](args)
    write_record(args.out)
    return {args.model: args.out}


def _codebook(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.tokenizer import make_codebook

    make_codebook(args.assets, args.out)


def _decoder(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.tokenizer import train_decoder

    train_decoder(args.assets, args.codebook, args.out, args.work_dir, args.steps)


def _lm(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.lm import train

    train(args.assets, args.codebook, args.out, args.work_dir, args.steps)


def _janus(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.lm import assemble

    assemble(args.lm, args.decoder, args.out)


def _judge(args: argparse.Namespace) -> None:
    import importlib

    from arrag.tokenizers.base import load_tokenizer

    train = importlib.import_module(f"arrag.cli.micro_train.{args.model}").train
    train(args.assets, load_tokenizer(args.tokenizer), args.out, args.work_dir, args.steps)


def _retriever(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.retriever import train

    train(args.assets, args.out, args.work_dir, args.steps)


def _signs(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.signs import make_signs

    make_signs(args.assets, args.out)


def _showo_decoder(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.signs import train_decoder

    train_decoder(args.assets, args.signs, args.out, args.work_dir, args.steps)


def _showo_lm(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.masked_lm import train

    train(args.assets, args.signs, args.out, args.work_dir, args.steps)


def _showo(args: argparse.Namespace) -> None:
    from arrag.cli.micro_train.masked_lm import assemble

    assemble(args.lm, args.decoder, args.out)


_TRAIN = {
    "codebook": _codebook,
    "decoder": _decoder,
    "lm": _lm,
    "janus": _janus,
    "detector": _judge,
    "clip": _judge,
    "retriever": _retriever,
    "signs": _signs,
    "showo-decoder": _showo_decoder,
    "showo-lm": _showo_lm,
    "showo": _showo,
}
