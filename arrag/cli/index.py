"""``arrag index``: build, search, describe, verify and extend indexes of patches."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arrag.cli.common import command, count, group, seed
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.pipeline.records import write_record


def add(commands: Any) -> None:
    """Add the commands about indexes."""
    inner = group(
        commands,
        "index",
        "build, search, describe, verify and extend indexes of patches",
        "arrag index info results/index/ivf-causal-0123456789",
    )
    _add_build(inner)
    _add_search(inner)
    _add_verify(inner)
    _add_merge(inner)
    _add_images(inner)
    info = command(
        inner,
        "info",
        "say what an index holds",
        "arrag index info results/index/ivf-causal-0123456789 --json",
        run_info,
    )
    info.add_argument("index", type=Path, help="folder of an index")


def _add_build(inner: Any) -> None:
    build = command(
        inner,
        "build",
        "index the patches of a store",
        "arrag index build --codes results/codes/mine --out results/index/mine --mode ivf",
        run_build,
    )
    build.add_argument("--codes", type=Path, required=True, help="folder of a store")
    build.add_argument("--out", type=Path, required=True, help="folder of the index")
    build.add_argument(
        "--mode",
        default="ivf",
        help="exact, ivf, faiss:FACTORY_STRING or official (%(default)s)",
    )
    build.add_argument(
        "--published", type=Path, help="for mode official: folder of the authors' two files"
    )
    build.add_argument("--context", choices=["causal", "full"], default="causal", help="key")
    build.add_argument(
        "--key-hop",
        type=count,
        nargs="+",
        default=[1],
        metavar="H",
        help="radius of the key's window; the keys of several are joined",
    )
    build.add_argument("--border", choices=["skip", "zero"], default="skip", help="edge patches")
    build.add_argument(
        "--masked-distance",
        action="store_true",
        help="only the known neighbours of a query contribute to a distance",
    )
    build.add_argument("--nlist", type=count, help="inverted lists; chosen by size if not given")
    build.add_argument("--nprobe", type=count, default=32, help="lists visited (%(default)s)")
    build.add_argument("--seed", type=seed, default=0, help="of the clustering (%(default)s)")


def _add_search(inner: Any) -> None:
    search = command(
        inner,
        "search",
        "show the patches whose surroundings are nearest to those of one patch of the store",
        "arrag index search results/index/mine --codes results/codes/mine --image 7 --row 5 "
        "--col 6",
        run_search,
    )
    search.add_argument("index", type=Path, help="folder of an index")
    search.add_argument("--codes", type=Path, required=True, help="folder of its store")
    search.add_argument("--image", type=int, default=0, help="number of the image in the store")
    search.add_argument("--row", type=int, required=True, help="row of the patch, from 0")
    search.add_argument("--col", type=int, required=True, help="column of the patch, from 0")
    search.add_argument("-k", type=count, default=10, help="patches to show (%(default)s)")
    search.add_argument("--nprobe", type=count, help="lists visited; the index's own if not given")


def _add_verify(inner: Any) -> None:
    verify = command(
        inner,
        "verify",
        "check every file of an index and its store, and the recall against an exact scan",
        "arrag index verify results/index/mine --codes results/codes/mine",
        run_verify,
    )
    verify.add_argument("index", type=Path, help="folder of an index")
    verify.add_argument("--codes", type=Path, required=True, help="folder of its store")
    verify.add_argument("--queries", type=count, default=64, help="random patches (%(default)s)")
    verify.add_argument("-k", type=count, default=50, help="recall at k (%(default)s)")
    verify.add_argument("--nprobe", type=count, help="lists visited; the index's own if not given")
    verify.add_argument(
        "--known", type=float, default=1.0, help="share of its neighbours a query knows (all)"
    )
    verify.add_argument("--seed", type=seed, default=0, help="of the sample (%(default)s)")


def _add_merge(inner: Any) -> None:
    merge = command(
        inner,
        "merge",
        "extend an index by the images of more stores; its lists are not trained anew",
        "arrag index merge results/index/old --codes results/codes/old results/codes/new "
        "--out-codes results/codes/both --out results/index/both",
        run_merge,
    )
    merge.add_argument("index", type=Path, help="folder of an index")
    merge.add_argument(
        "--codes",
        type=Path,
        nargs="+",
        required=True,
        metavar="STORE",
        help="folder of its store, then those of the stores to add",
    )
    merge.add_argument("--out-codes", type=Path, required=True, help="folder of the joint store")
    merge.add_argument("--out", type=Path, required=True, help="folder of the joint index")


def _add_images(inner: Any) -> None:
    images = command(
        inner,
        "images",
        "index the whole images of a store by their CLIP features (RA-CM3, ImageRAG, RDM)",
        "arrag index images my_images --codes results/codes/mine --clip models/clip "
        "--out results/index/images",
        run_images,
    )
    images.add_argument(
        "source", nargs="+", help="what the store was encoded from, as for `arrag encode`"
    )
    images.add_argument("--codes", type=Path, required=True, help="folder of the store")
    images.add_argument("--clip", required=True, help="folder or name of an open_clip model")
    images.add_argument("--pretrained", help="tag or file of the weights of a model named by name")
    images.add_argument("--out", type=Path, required=True, help="folder of the index")
    images.add_argument("--images", type=count, help="take only the first N of the source")
    images.add_argument("--batch-size", type=count, default=64, help="images at a time")
    images.set_defaults(batch_field="encode_batch_size")
    images.add_argument(
        "--workers", type=count, default=0, help="further processes that decode images (none)"
    )
    images.add_argument(
        "--assets", type=Path, default=MICRO_ASSETS, help="for micro sources (%(default)s)"
    )


def run_build(args: argparse.Namespace) -> dict[str, Any]:
    """Build an index."""
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import build_index
    from arrag.retrieval.neighborhood import Neighborhood

    meta = build_index(
        TokenStore.open(args.codes, verify=True),  # all of it is read anyway
        args.out,
        neighborhood=Neighborhood(
            args.context, args.key_hop, args.border, masked_distance=args.masked_distance
        ),
        mode=args.mode,
        nlist=args.nlist,
        nprobe=args.nprobe,
        seed=args.seed,
        published=args.published,
    )
    write_record(args.out, made_of={"codes": args.codes})
    return meta


def run_search(args: argparse.Namespace) -> dict[str, Any]:
    """Search with the surroundings of a stored patch; finds that patch at distance 0."""
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import open_index

    store = TokenStore.open(args.codes)
    index = open_index(args.index, store, nprobe=args.nprobe)
    rows, columns = store.grid
    for name, value, size in (
        ("--image", args.image, len(store)),
        ("--row", args.row, rows),
        ("--col", args.col, columns),
    ):
        _in_range(name, value, size)
    return {"key": store.keys(args.image), **_nearest(store, index, args)}


def _nearest(store: Any, index: Any, args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch

    from arrag.retrieval.verify import border_share

    rows, columns = store.grid
    codes = torch.from_numpy(store.grids(np.array([args.image])).astype(np.int64))  # [1, H, W]
    position = torch.tensor([args.row * columns + args.col])  # [P=1]
    hits = index.search(codes, torch.ones_like(codes, dtype=torch.bool), position, args.k)
    nearest = []
    for distance, code, entry in zip(
        *(part[0, 0].tolist() for part in (hits.distances, hits.codes, hits.entries)),
        strict=True,
    ):
        if entry < 0:  # fewer than k were found
            break
        found = {"distance": round(distance, 6), "code": code, "entry": entry}
        if index.meta.mode != "official":  # whose entries are of nobody knows which image
            image, flat = divmod(entry, rows * columns)
            _in_range("the number of an image in the index", image, len(store))
            found |= {"key": store.keys(image), "row": flat // columns, "col": flat % columns}
        nearest.append(found)
    if index.meta.mode == "official":
        return {"nearest": nearest}
    return {"border_share": border_share(index, hits.entries.numpy()), "nearest": nearest}


def _in_range(name: str, value: int, size: int) -> None:
    from arrag.utils.errors import ArragError

    if not 0 <= value < size:
        raise ArragError(f"{name}: found {value}; wanted 0 to {size - 1}")


def run_info(args: argparse.Namespace) -> dict[str, Any]:
    """The index's own description."""
    from arrag.utils.files import read_model

    return read_model(args.index / "meta.json", dict[str, Any])


def run_verify(args: argparse.Namespace) -> dict[str, Any]:
    """Check an index."""
    from arrag.retrieval.verify import verify_index

    return verify_index(
        args.index,
        args.codes,
        queries=args.queries,
        k=args.k,
        nprobe=args.nprobe,
        known=args.known,
        seed=args.seed,
    )


def run_merge(args: argparse.Namespace) -> dict[str, Any]:
    """Join stores and extend the first one's index."""
    from arrag.data.merge import merge_stores
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import extend_index

    parts = [TokenStore.open(path) for path in args.codes]
    meta = extend_index(args.index, parts[0], merge_stores(parts, args.out_codes), args.out)
    write_record(args.out_codes)
    write_record(args.out, made_of={"codes": args.out_codes})
    return meta


def run_images(args: argparse.Namespace) -> dict[str, Any]:
    """Index whole images."""
    from arrag.data.clip import OpenClip
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.image_index import build_image_index

    clip = OpenClip(args.clip, args.pretrained)
    meta = build_image_index(
        TokenStore.open(args.codes),
        args.source,
        clip,
        args.out,
        limit=args.images,
        assets=args.assets,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    model = None if args.pretrained else (args.clip, clip.digest)
    write_record(args.out, made_of={"codes": args.codes, "clip": model})
    return meta
