"""``arrag corpus``: a seeded sample of corpora in many files, drawn by jobs apart."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count, group, seed
from arrag.pipeline.records import write_record


def add(commands: Any) -> None:
    """Add ``corpus list``, ``choose``, ``prints`` and ``join``."""
    example = "arrag corpus list 'cc12m/{000..099}.tar' --out lists/cc12m.npz --seed 0"
    inner = group(commands, "corpus", "sample and join corpora for a large database", example)
    lister = command(
        inner,
        "list",
        "list the images of a source, without reading them: what a sample is drawn from",
        example,
        run_list,
    )
    lister.add_argument("source", help="as for `arrag encode`; several patterns joined by ::")
    lister.add_argument("--out", type=Path, required=True, help="an .npz")
    chooser = command(
        inner,
        "choose",
        "draw a sample of listed images; refuses at once if there are fewer than asked for",
        "arrag corpus choose lists/*.npz --images 5700000 --seed 0 --out choice.json",
        run_choose,
    )
    chooser.add_argument(
        "lists", nargs="+", type=Path, help="what `corpus list` wrote of all parts"
    )
    chooser.add_argument("--images", type=count, help="images in the sample (all)")
    chooser.add_argument("--out", type=Path, required=True, help="JSON, for `encode --choice`")
    for parser in (lister, chooser):
        parser.add_argument("--seed", type=seed, default=0, help="of the sample (%(default)s)")
    prints = command(
        inner,
        "prints",
        "hash test images once, for `encode --exclude` of many jobs",
        "arrag corpus prints mjhq30k_imgs --out tests.prints.npz",
        run_prints,
    )
    prints.add_argument("sources", nargs="+", help="sources of test images, as for `encode`")
    prints.add_argument("--out", type=Path, required=True, help="a file named *.prints.npz")
    join = command(
        inner,
        "join",
        "one store of the images of several, in the order given; shards are linked, not copied",
        "arrag corpus join parts/* --out results/codes/all",
        run_join,
    )
    join.add_argument("stores", nargs="+", type=Path, help="folders of stores")
    join.add_argument("--out", type=Path, required=True, help="folder of the joint store")


def run_list(args: argparse.Namespace) -> dict[str, Any]:
    """List a source."""
    from arrag.data.subsample import list_images

    about = list_images(args.source, args.out, args.seed)
    write_record(args.out)
    return {"list": args.out, **about}


def run_choose(args: argparse.Namespace) -> dict[str, Any]:
    """Draw the sample."""
    from arrag.data.subsample import subsample_corpus

    spec = subsample_corpus(args.lists, args.out, args.images, args.seed)
    write_record(args.out)
    return {"choice": args.out, **spec.model_dump(exclude={"format"})}


def run_prints(args: argparse.Namespace) -> dict[str, Any]:
    """Hash test images."""
    from arrag.data.decontamination import Decontaminator

    tests = Decontaminator.load(args.sources)
    tests.save(args.out)
    write_record(args.out)
    return {"prints": args.out, "images": len(tests.names), "digest": tests.digest}


def run_join(args: argparse.Namespace) -> dict[str, Any]:
    """Join stores."""
    from arrag.data.merge import join_stores

    about = join_stores(args.stores, args.out)
    write_record(args.out)
    return {"store": args.out, **about}
