"""``arrag train``: adapters of a generator, and what they are trained on.

``--gpus N`` trains with N processes of ``accelerate launch``; for several machines, call
it yourself: ``accelerate launch -m arrag train adapter faid ...``.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from arrag.cli.common import DEFAULT_CONFIG, Count, PartOf, Whole, group
from arrag.pipeline.layout import MICRO, MICRO_ASSETS
from arrag.pipeline.records import write_record
from arrag.utils.errors import ConfigError, UsageError
from arrag.utils.locks import output_lock

if TYPE_CHECKING:
    from arrag.config.root import Config
    from arrag.pipeline.layout import Layout

app = group("train", "Train adapters; `snakemake train_adapters` runs all of it.")
KINDS = ("finetune", "faid", "racm3")


@Parameter(name="*")
@dataclass
class Inputs:
    """Inputs of a training; each defaults to where the workflow has it."""

    pairs: Path | None = None
    "Captioned pairs, from 'train pairs'."
    codes: Path | None = None
    "Token store of the database."
    index: Path | None = None
    "Patch index of that store."
    image_index: Path | None = None
    "Image index of that store."
    neighbours: Path | None = None
    "From 'train neighbours'."
    references: Path | None = None
    "From 'train references'."


@app.command
def pairs(
    *,
    config: Path = DEFAULT_CONFIG,
    method: str | None = None,
    out: Path | None = None,
    exclude: Path | None = None,
    workers: Count = 1,
    assets: Path = MICRO_ASSETS,
) -> dict[str, Any]:
    """Sample and encode the captioned images that adapters are trained on; resumes after a kill.

    Example: arrag train pairs --config config/micro.yaml

    Args:
        config: Configuration file.
        method: Whose adapter it is for; the first that fits.
        out: Folder; by default where the workflow has it.
        exclude: Folder of test images, left out.
        workers: Processes that read images.
        assets: Pictures of the synthetic dataset.
    """
    from arrag.training.pairs import make_pairs

    settings, layout, method = _load(config, method, *KINDS)
    resolved = settings.resolved(method)
    training = resolved.training
    out = _output(out, layout.pairs(method), exclude=exclude)
    with _locked(out):
        about = make_pairs(
            "micro:database" if training.source == MICRO else training.source,
            resolved.generator.checkpoint,
            out,
            count=training.pairs,
            held_out=training.held_out,
            seed=settings.seed,
            first_held_out=resolved.first_held_out,
            assets=assets,
            exclude=exclude,
            batch_size=settings.resources.encode_batch_size,
            workers=workers - 1,
        )
    write_record(out, made_of={"tokenizer": resolved.generator.checkpoint})
    return about


@app.command
def neighbours(
    *,
    config: Path = DEFAULT_CONFIG,
    method: str | None = None,
    out: Path | None = None,
    k: Annotated[Count | None, Parameter(name=["--k", "-k"])] = None,
    part: PartOf = None,
    inputs: Inputs | None = None,
) -> dict[str, Any]:
    """Write what each position of the pairs retrieves, without the image itself; resumes.

    Example: arrag train neighbours --config config/micro.yaml

    Args:
        config: Configuration file.
        method: Whose adapter it is for; the first that fits.
        out: Folder; by default where the workflow has it.
        k: Patches per position; the configuration's if not given.
        part: Search for the I-th of N parts only.
    """
    from arrag.training.neighbours import retrieve_neighbours
    from arrag.training.pairs import Pairs

    inputs = inputs or Inputs()
    settings, layout, method = _load(config, method, "faid")
    out = _output(out, layout.neighbours(method), k=k, **vars(inputs))
    found = Pairs.open(inputs.pairs or layout.pairs(method))
    index = _index(inputs, layout, method)
    k = k or settings.resolved(method).training.faid.k
    with nullcontext() if part else _locked(out):
        manifest = retrieve_neighbours(found, index, out, k, part=part)
    if not part:
        sources = {"index": inputs.index or layout.index(method), "codes": index.store.path}
        write_record(out, made_of={"pairs": found.path, **sources})
    return {"neighbours": out, **{k: v for k, v in manifest.items() if k != "shards"}}


@app.command
def references(
    *,
    config: Path = DEFAULT_CONFIG,
    method: str | None = None,
    out: Path | None = None,
    inputs: Inputs | None = None,
) -> dict[str, Any]:
    """Write the image that each caption retrieves, never the pair's own; resumes after a kill.

    Example: arrag train references --config config/micro.yaml

    Args:
        config: Configuration file.
        method: Whose adapter it is for; the first that fits.
        out: Folder; by default where the workflow has it.
    """
    from arrag.training.pairs import Pairs
    from arrag.training.references import retrieve_references

    inputs = inputs or Inputs()
    settings, layout, method = _load(config, method, "racm3")
    out = _output(out, layout.references(method), **vars(inputs))
    model, index = _image_index(inputs, settings, layout, method)
    found = Pairs.open(inputs.pairs or layout.pairs(method))
    with _locked(out):
        manifest = retrieve_references(found, index, model, out)
    write_record(out, made_of={"pairs": found.path, "image_index": index.path})
    return {"references": out, **{k: v for k, v in manifest.items() if k != "shards"}}


@app.command
def adapter(
    kind: Literal["finetune", "faid", "racm3"],
    /,
    *,
    config: Path = DEFAULT_CONFIG,
    method: str | None = None,
    out: Path | None = None,
    inputs: Inputs | None = None,
    work_dir: Path | None = None,
    batch_size: Count | None = None,
    cpu: bool = False,
    gpus: Whole = 1,
) -> dict[str, Any]:
    """Train an adapter; resumes after a kill.

    Example: arrag train adapter faid --config config/micro.yaml

    Args:
        kind: finetune: no retrieval, the control; faid: retrieved patches blended into hidden
            states; racm3: a retrieved image before the prompt.
        config: Configuration file.
        method: Whose adapter it is; the first that fits.
        out: Folder; by default where the workflow has it.
        work_dir: Running state and log; by default OUT.work.
        batch_size: Images that a process takes at a time.
        cpu: Train on the CPU even if there is a GPU.
        gpus: GPUs to train on, each with a process; with 0 or 1 this process trains alone.
    """
    if not cpu:
        take_gpus(gpus)
    from arrag.training.adapt import train_adapter
    from arrag.training.pairs import Pairs

    inputs = inputs or Inputs()
    settings, layout, method = _load(config, method, kind)
    resolved = settings.resolved(method)
    out = _output(out, layout.trained_adapter(method), **vars(inputs))
    found = Pairs.open(inputs.pairs or layout.pairs(method))
    with _locked(out):
        about = train_adapter(
            kind,
            resolved.generator,
            resolved.training,
            _data(kind, inputs, settings, layout, method, found),
            out,
            work_dir or out.with_name(out.name + ".work"),
            seed=settings.seed,
            batch_size=batch_size or settings.resources.train_batch_size,
            save_minutes=settings.resources.save_minutes,
            cpu=cpu,
        )
    held_out = about.pop("held_out", None)
    if held_out:  # of several processes the first writes
        backbone = (resolved.generator.checkpoint, about["training"]["backbone"])
        write_record(out, made_of={"backbone": backbone, "pairs": found.path})
    return {"adapter": out, "held_out": held_out and held_out["mean"], **about}


@app.command
def compare(first: Path, second: Path, /) -> dict[str, Any]:
    """Compare the held-out losses of two adapters, with 95 % intervals.

    Example: arrag train compare checkpoints/micro-faid checkpoints/micro-finetune

    Args:
        first: Folder of an adapter.
        second: Folder of another.
    """
    from arrag.training.adapt import compare_adapters

    return {"first_adapter": first, "second_adapter": second} | compare_adapters(first, second)


def take_gpus(count: int) -> None:
    """Reserve GPUs for training; for several, become ``accelerate launch`` of this command."""
    from arrag.utils.device import acquire_gpus

    acquire_gpus(max(1, count))
    if count <= 1 or "LOCAL_RANK" in os.environ:  # alone, or already launched
        return
    options = {"num_processes": count, "num_machines": 1, "mixed_precision": "no"}
    options |= {"dynamo_backend": "no", "main_process_port": 0}  # any free one
    words = [f"--{name}={value}" for name, value in options.items()]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words]
    os.execv(sys.executable, [*launcher, "-m", "arrag", *sys.argv[1:]])


def _output(out: Path | None, usual: Path, **changed: Any) -> Path:
    """Return the output; results of other inputs must not replace those of the workflow."""
    if out is None and (given := [name for name, value in changed.items() if value is not None]):
        option = "--" + given[0].replace("_", "-")
        raise UsageError("missing", field="--out", hint=f"with {option} name another folder")
    return out or usual


def _locked(out: Path) -> AbstractContextManager[None]:
    """Be the only writer of a result; of the processes of a training, the first one is."""
    return output_lock(out) if os.environ.get("RANK", "0") == "0" else nullcontext()


def _load(path: Path, method: str | None, *kinds: str) -> tuple[Config, Layout, str]:
    """Return the configuration, its layout, and the method of one of ``kinds`` to train for."""
    from arrag.config.root import load_config
    from arrag.pipeline.layout import Layout

    config = load_config(path)

    def fits(name: str) -> bool:
        augment = config.method(name).augment
        return augment is not None and augment.kind in kinds

    fitting = [name for name in config.methods if fits(name)]
    method = method or next(iter(fitting), None)
    if method is None or not fits(method):  # points of grids are methods too
        raise ConfigError(
            f"{f'{method!r} is' if method else 'no method is'} of kind {' or '.join(kinds)}",
            path=path,
            field="methods",
            hint=f"known: {', '.join(fitting)}" if fitting else "add one",
        )
    if config.resolved(method).training is None:
        raise ConfigError("missing", path=path, field="training", hint="add it to train adapters")
    return config, Layout(config), method


def _data(
    kind: str, inputs: Inputs, config: Config, layout: Layout, method: str, pairs: Any
) -> Any:
    from arrag.training.adapt import Data
    from arrag.training.neighbours import Neighbours
    from arrag.training.references import References

    if kind == "faid":
        digest = _index(inputs, layout, method).digest
        path = inputs.neighbours or layout.neighbours(method)
        k = config.resolved(method).training.faid.k
        return Data(pairs, neighbours=Neighbours(path, pairs, k, digest))
    if kind == "racm3":
        index = _image_index(inputs, config, layout, method)[1]
        path = inputs.references or layout.references(method)
        return Data(pairs, references=References(path, pairs, index))
    return Data(pairs)


def _index(inputs: Inputs, layout: Layout, method: str) -> Any:
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.index import open_index

    store = TokenStore.open(inputs.codes or layout.codes(method))
    return open_index(inputs.index or layout.index(method), store)


def _image_index(inputs: Inputs, config: Config, layout: Layout, method: str) -> tuple[Any, Any]:
    from arrag.data.clip import OpenClip
    from arrag.data.token_store import TokenStore
    from arrag.retrieval.image_index import ImageIndex

    model = OpenClip(config.method(method).augment.clip)
    store = TokenStore.open(inputs.codes or layout.codes(method))
    path = inputs.image_index or layout.image_index(method)
    return model, ImageIndex(path, store, model.digest)
