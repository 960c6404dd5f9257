"""``arrag generate`` and ``sample``: a few images for a person, a whole benchmark for a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.cli.common import command, config_option, count, one_part, seed
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.pipeline.records import write_record

if TYPE_CHECKING:
    from arrag.config.root import Config
    from arrag.methods.registry import ArtifactPaths


def add(commands: Any) -> None:
    """Add ``generate`` and ``sample``."""
    generate = command(
        commands,
        "generate",
        "draw images for prompts",
        'arrag generate "a photo of a dog" --method daid --seed 0 --out x.png',
        run_generate,
    )
    generate.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw")
    generate.add_argument("--out", type=Path, required=True, help="a .png; numbered if several")
    generate.add_argument("--seed", type=seed, default=0, help="random seed (%(default)s)")
    generate.add_argument("--images", type=count, default=1, help="images a prompt (%(default)s)")
    sample = command(
        commands,
        "sample",
        "draw one method's images for a whole benchmark; goes on after a kill, image by image",
        "arrag sample --method daid --benchmark dpg --config config/micro.yaml",
        run_sample,
    )
    sample.add_argument("--benchmark", help="a benchmark of the configuration (the one of Table 1)")
    sample.add_argument("--out", type=Path, help="folder; by default where the workflow has it")
    sample.add_argument(
        "--assets", type=Path, default=MICRO_ASSETS, help="for `real`, `reconstructions`"
    )
    jobs = sample.add_mutually_exclusive_group()
    jobs.add_argument("--part", type=one_part, metavar="I/N", help="draw the I-th of N parts only")
    jobs.add_argument("--join", action="store_true", help="complete what all parts have drawn")
    for parser in (generate, sample):
        config_option(parser)
        also = "; also real or reconstructions" if parser is sample else ""
        parser.add_argument("--method", required=True, help=f"a method of the configuration{also}")
        parser.add_argument("--codes", type=Path, help="store, if not where the workflow has it")
        parser.add_argument("--index", type=Path, help="index, if not where the workflow has it")
        parser.add_argument("--image-index", type=Path, help="of whole images, likewise")
        parser.add_argument("--adapter", type=Path, help="folder, if not the method's own")
        parser.add_argument("--batch-size", type=count, help="images at a time")
        parser.set_defaults(batch_field="batch_size")


def run_generate(args: argparse.Namespace) -> dict[str, Any]:
    """Draw and save; the files appear whole or not at all."""
    from arrag.config.root import load_config
    from arrag.methods.runner import generate_images
    from arrag.utils.errors import ArragError

    if args.out.suffix.lower() != ".png":
        raise ArragError(f"--out: found {args.out}; wanted a name that ends in .png")
    if blank := [text for text in args.prompts if not text.strip()]:
        raise ArragError(f"PROMPT: found {blank[0]!r}; write what the image should show")
    config = load_config(args.config)
    images = generate_images(
        config,
        args.method,
        args.prompts,
        seed=args.seed,
        samples_per_prompt=args.images,
        paths=paths_of(config, args),
        batch_size=args.batch_size or config.resources.batch_size,
    )
    return {"images": [str(path) for path in _save(images, args.out)]}


def _save(images: list, out: Path) -> list[Path]:
    from PIL import Image

    from arrag.utils.outputs import atomic_path

    numbers = [""] if len(images) == 1 else [f"-{i:04d}" for i in range(len(images))]
    paths = [out.with_name(f"{out.stem}{number}{out.suffix}") for number in numbers]
    for path, image in zip(paths, images, strict=True):
        with atomic_path(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
    return paths


def run_sample(args: argparse.Namespace) -> dict[str, Any]:
    """The workflow's sampling stage; ``run.json`` is written last."""
    from arrag.config.methods import CEILING_LABELS
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout
    from arrag.pipeline.provenance import sample_inputs, with_known_digests
    from arrag.utils.errors import ArragError

    config = load_config(args.config)
    layout = Layout(config)
    out = args.out or layout.samples(args.method, args.benchmark)
    if args.method in CEILING_LABELS:
        if args.part:
            raise ArragError(f"--part: '{args.method}' is made by one job; leave it out")
        from arrag.methods import ceiling

        write = {
            "real": ceiling.write_real,
            "reconstructions": ceiling.write_reconstructions,
        }[args.method]
        run = write(config, out, args.assets, args.benchmark)
        parts = sample_inputs(layout, args.method, args.benchmark, {"assets": args.assets})
        write_record(out, made_of=with_known_digests(parts, run))
        return {"samples": out, **run}
    from arrag.methods.runner import merge_parts, sample_benchmark

    paths = paths_of(config, args)
    run = args.join and merge_parts(config, args.method, out, args.benchmark)
    run = run or sample_benchmark(
        config,
        args.method,
        out,
        benchmark=args.benchmark,
        paths=paths,
        batch_size=args.batch_size or config.resources.batch_size,
        part=args.part,
    )
    if args.part:
        return {"samples": out, **run}
    given = {
        "codes": paths.store,
        "index": paths.index,
        "image_index": paths.image_index,
        "adapter": paths.adapter,
    }
    parts = sample_inputs(layout, args.method, args.benchmark, given)
    write_record(out, made_of=with_known_digests(parts, run))
    return {"samples": out, **run}


def paths_of(config: Config, args: argparse.Namespace) -> ArtifactPaths:
    """The folders that a method needs, where the workflow has them or where ``args`` says.

    Raises ArragError with the command that makes them when they are not there.
    """
    from arrag.methods.registry import ArtifactPaths
    from arrag.pipeline.layout import INFERENCE_INPUTS, SENTINEL_FILES, Layout
    from arrag.utils.errors import MissingError

    retriever = config.resolved(args.method).retrieval_settings
    layout, found = Layout(config), {}
    given = {"codes": args.codes, "index": args.index, "image_index": args.image_index}
    wanted = {
        part: lambda part=part: getattr(layout, part)(args.method)
        for part in INFERENCE_INPUTS.get(getattr(retriever, "kind", None), ())
    }
    if hasattr(retriever, "adapter"):
        given["trained_adapter"] = args.adapter
        wanted["trained_adapter"] = lambda: layout.adapter(args.method)
    for part, usual in wanted.items():
        found[part] = path = given[part] or usual()
        if not (path / SENTINEL_FILES[part]).is_file():
            target = usual() / SENTINEL_FILES[part]
            option = {"trained_adapter": "adapter"}.get(part, part).replace("_", "-")
            raise MissingError(
                f"method '{args.method}' needs it and it is not there",
                path=path / SENTINEL_FILES[part],
                hint=f"make it with `snakemake --cores all {target} --configfile {args.config}`, "
                f"or name another with --{option}",
            )
    return ArtifactPaths(
        store=found.get("codes"),
        index=found.get("index"),
        image_index=found.get("image_index"),
        adapter=found.get("trained_adapter"),
    )
