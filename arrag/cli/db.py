"""``arrag db``: token stores from images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrag.cli.common import Count, Seed, Whole, group
from arrag.pipeline.layout import MICRO_ASSETS
from arrag.pipeline.records import write_record

app = group("db", "Encode images as token stores; sample and join corpora.")


@app.command
def encode(
    source: str,
    /,
    *,
    tokenizer: Path,
    out: Path,
    images: Count | None = None,
    subsample: Path | None = None,
    exclude: list[str] | None = None,
    shard_size: Count = 1000,
    batch_size: Count = 64,
    workers: Whole = 0,
    assets: Path = MICRO_ASSETS,
) -> dict[str, Any]:
    """Encode images as a store of token grids; resumes after a kill.

    Example: arrag db encode my_images --tokenizer checkpoints/micro-janus --out results/codes/mine

    Args:
        source: Folder of images, tar files ('data-{000..099}.tar'), folder of Hugging Face
            datasets, Parquet files, or 'micro:database'.
        tokenizer: Folder of a checkpoint.
        out: Folder of the store.
        images: Take only the first N.
        subsample: Take only a sample, as 'arrag db subsample' drew it.
        exclude: Test images: a source as above, or fingerprints of one ('arrag db fingerprint');
            images like one of them are left out. May be repeated.
        shard_size: Images per shard file.
        batch_size: Images at a time.
        workers: Further processes that decode images.
        assets: Pictures of the synthetic dataset.
    """
    from arrag.data.encode import encode_source
    from arrag.data.subsample import SubsampleSpec

    counts = encode_source(
        source,
        tokenizer,
        out,
        batch_size=batch_size,
        shard_size=shard_size,
        limit=images,
        assets=assets,
        exclude=exclude or [],
        workers=workers,
        subsample=SubsampleSpec.read(subsample) if subsample else None,
    )
    write_record(out, made_of={"tokenizer": tokenizer, "choice": subsample})
    return counts


@app.command
def scan(source: str, /, *, out: Path, seed: Seed = 0) -> dict[str, Any]:
    """List the images of a source without reading them, for 'subsample'.

    Example: arrag db scan 'cc12m/{000..099}.tar' --out lists/cc12m.npz --seed 0

    Args:
        source: As for 'encode'; several patterns joined by '::'.
        out: An .npz file.
        seed: Seed of the sample.
    """
    from arrag.data.subsample import list_images

    about = list_images(source, out, seed)
    write_record(out)
    return {"list": out, **about}


@app.command
def subsample(
    lists: list[Path], /, *, out: Path, images: Count | None = None, seed: Seed = 0
) -> dict[str, Any]:
    """Draw a sample of scanned images; fails at once if there are fewer than asked for.

    Example: arrag db subsample lists/cc12m.npz --images 5700000 --seed 0 --out sample.json

    Args:
        lists: What 'scan' wrote for all parts of the corpus.
        out: JSON file for 'encode --subsample'.
        images: Images in the sample; all if not given.
        seed: Seed of the sample.
    """
    from arrag.data.subsample import subsample_corpus

    spec = subsample_corpus(lists, out, images, seed)
    write_record(out)
    return {"subsample": out, **spec.model_dump(exclude={"format"})}


@app.command
def fingerprint(sources: list[str], /, *, out: Path) -> dict[str, Any]:
    """Hash test images once, for 'encode --exclude' of many jobs.

    Example: arrag db fingerprint mjhq30k_imgs --out tests.prints.npz

    Args:
        sources: Sources of test images, as for 'encode'.
        out: A file named *.prints.npz.
    """
    from arrag.data.decontamination import Decontaminator

    tests = Decontaminator.load(sources)
    tests.save(out)
    write_record(out)
    return {"prints": out, "images": len(tests.names), "digest": tests.digest}


@app.command
def concat(stores: list[Path], /, *, out: Path) -> dict[str, Any]:
    """Join stores in the order given; shards are linked, not copied.

    Example: arrag db concat parts/0 parts/1 --out results/codes/all

    Args:
        stores: Folders of stores.
        out: Folder of the joint store.
    """
    from arrag.data.merge import join_stores

    about = join_stores(stores, out)
    write_record(out)
    return {"store": out, **about}
