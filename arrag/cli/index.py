"""``arrag index``: build, search, describe, verify and extend indexes of patches and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from arrag.cli.common import Count, Seed, Whole, group
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.pipeline.records import write_record

app = group("index", "Build, search and verify indexes of patches.")
K = Annotated[Count, Parameter(name=["--k", "-k"])]


@app.command
def build(
    *,
    codes: Path,
    out: Path,
    mode: str = "ivf",
    published: Path | None = None,
    context: Literal["causal", "full"] = "causal",
    key_hop: Annotated[list[Count] | None, Parameter(consume_multiple=True)] = None,
    border: Literal["skip", "zero"] = "skip",
    masked_distance: bool = False,
    nlist: Count | None = None,
    nprobe: Count = 32,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Index the patches of a token store.

    Example: arrag index build --codes results/codes/mine --out results/index/mine --mode ivf

    Args:
        codes: Folder of a token store.
        out: Folder of the index.
        mode: exact, ivf, faiss:FACTORY_STRING or official.
        published: For mode official: folder of the authors' two files.
        context: Neighbours in the key: those before a patch in raster order, or all.
        key_hop: Radius of the key's window (1); the keys of several are joined.
        border: Patches without a complete window are left out (skip), or padded with zeros.
        masked_distance: Only the known neighbours of a query contribute to a distance.
        nlist: Inverted lists; chosen by size if not given.
        nprobe: Lists visited by a search.
        seed: Seed of the clustering.
    """
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import build_index
    from arrag.retrieval.neighborhood import Neighborhood

    meta = build_index(
        TokenStore.open(codes, verify=True),  # all of it is read anyway
        out,
        neighborhood=Neighborhood(context, key_hop or [1], border, masked_distance=masked_distance),
        mode=mode,
        nlist=nlist,
        nprobe=nprobe,
        seed=seed,
        published=published,
    )
    write_record(out, made_of={"codes": codes})
    return meta


@app.command
def search(
    index: Path,
    /,
    *,
    codes: Path,
    row: Whole,
    col: Whole,
    image: Whole = 0,
    k: K = 10,
    nprobe: Count | None = None,
) -> dict[str, Any]:
    """Show the patches whose neighbourhoods are nearest to that of one patch of the store.

    Example: arrag index search results/index/mine --codes results/codes/mine --image 7
    --row 5 --col 6

    Args:
        index: Folder of an index.
        codes: Folder of its store.
        row: Row of the patch, from 0.
        col: Column of the patch, from 0.
        image: Number of the image in the store.
        k: Patches to show.
        nprobe: Lists visited; the index's own if not given.
    """
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import open_index
    from arrag.retrieval.verify import nearest_patches

    store = TokenStore.open(codes)
    found = nearest_patches(open_index(index, store, nprobe=nprobe), image, row, col, k)
    return {"key": store.keys(image), **found}


@app.command
def info(index: Path, /) -> dict[str, Any]:
    """Print the description of an index.

    Example: arrag index info results/index/mine

    Args:
        index: Folder of an index.
    """
    from arrag.utils.files import read_json

    return read_json(index / "meta.json")


@app.command
def verify(
    index: Path,
    /,
    *,
    codes: Path,
    queries: Count = 64,
    k: K = 50,
    nprobe: Count | None = None,
    known: float = 1.0,
    seed: Seed = 0,
) -> dict[str, Any]:
    """Check every file of an index and its store, and the recall against an exact scan.

    Example: arrag index verify results/index/mine --codes results/codes/mine

    Args:
        index: Folder of an index.
        codes: Folder of its store.
        queries: Random patches.
        k: Recall at k.
        nprobe: Lists visited; the index's own if not given.
        known: Share of its neighbours that a query knows.
        seed: Seed of the sample.
    """
    from arrag.retrieval.verify import verify_index

    return verify_index(index, codes, queries=queries, k=k, nprobe=nprobe, known=known, seed=seed)


@app.command
def merge(
    index: Path,
    /,
    *,
    codes: Annotated[list[Path], Parameter(consume_multiple=True)],
    out_codes: Path,
    out: Path,
) -> dict[str, Any]:
    """Extend an index by the images of more stores; its lists are not trained again.

    Example: arrag index merge results/index/old --codes results/codes/old results/codes/new
    --out-codes results/codes/both --out results/index/both

    Args:
        index: Folder of an index.
        codes: Folder of its store, then those of the stores to add.
        out_codes: Folder of the joint store.
        out: Folder of the joint index.
    """
    from arrag.data.merge import merge_stores
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import extend_index

    parts = [TokenStore.open(path) for path in codes]
    meta = extend_index(index, parts[0], merge_stores(parts, out_codes), out)
    write_record(out_codes)
    write_record(out, made_of={"codes": out_codes})
    return meta


@app.command
def images(
    source: list[str],
    /,
    *,
    codes: Path,
    clip: str,
    out: Path,
    pretrained: str | None = None,
    images: Count | None = None,
    batch_size: Count = 64,
    workers: Whole = 0,
    assets: Path = MICRO_ASSETS,
) -> dict[str, Any]:
    """Index whole images of a store by their CLIP features, for RA-CM3, ImageRAG and RDM.

    Example: arrag index images my_images --codes results/codes/mine --clip models/clip
    --out results/image-index/mine

    Args:
        source: What the store was encoded from, as for 'db encode'.
        codes: Folder of the store.
        clip: Folder or name of an open_clip model.
        out: Folder of the index.
        pretrained: Tag or file of the weights, for a model given by name.
        images: Take only the first N of the source.
        batch_size: Images at a time.
        workers: Further processes that decode images.
        assets: Pictures of the synthetic dataset.
    """
    from arrag.data.clip import OpenClip
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.image_index import build_image_index

    model = OpenClip(clip, pretrained)
    meta = build_image_index(
        TokenStore.open(codes),
        source,
        model,
        out,
        limit=images,
        assets=assets,
        batch_size=batch_size,
        workers=workers,
    )
    made_of = None if pretrained else (clip, model.digest)
    write_record(out, made_of={"codes": codes, "clip": made_of})
    return meta
