"""Train one model of the synthetic dataset; ``snakemake train_micro train_showo`` runs all of it.

    python workflow/scripts/micro/train.py codebook --out results/train/codebook.safetensors

Each training resumes after a kill from its working folder.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from arrag.pipeline.layout import MICRO_ASSETS as ASSETS
from arrag.pipeline.records import write_record

app = App(name="train.py", help="Train one model of the synthetic dataset.", version_flags=())
Steps = Annotated[int, Parameter(validator=validators.Number(gte=1))]


def _work_dir(out: Path, given: Path | None) -> Path:
    return given or out.with_name(out.name + ".work")


@app.command
def codebook(*, out: Path, assets: Path = ASSETS) -> None:
    """Fit the codebook of Janus' tokenizer."""
    from train_decoder import make_codebook

    make_codebook(assets, out)
    write_record(out)


@app.command
def signs(*, out: Path, assets: Path = ASSETS) -> None:
    """Fit the bits of Show-o's tokenizer."""
    from fit_signs import make_signs

    make_signs(assets, out)
    write_record(out)


@app.command
def part(
    name: Literal["decoder", "lm", "showo-decoder", "showo-lm"],
    /,
    *,
    codes: Path,
    steps: Steps,
    out: Path,
    work_dir: Path | None = None,
    assets: Path = ASSETS,
) -> None:
    """Train a decoder or a language model.

    Args:
        name: decoder or lm (Janus), showo-decoder or showo-lm.
        codes: File of the codebook, or of the bits for Show-o.
        steps: Batches to train on.
        out: File of the weights.
        work_dir: Running state and log.
        assets: Pictures of the synthetic dataset.
    """
    parts = {
        "decoder": ("train_decoder", "train_decoder"),
        "lm": ("train_lm", "train"),
        "showo-decoder": ("fit_signs", "train_decoder"),
        "showo-lm": ("train_masked_lm", "train"),
    }
    module, function = parts[name]
    run = getattr(importlib.import_module(module), function)
    run(assets, codes, out, _work_dir(out, work_dir), steps)
    write_record(out)


@app.command
def assemble(name: Literal["janus", "showo"], /, *, decoder: Path, lm: Path, out: Path) -> None:
    """Join a decoder and a language model as one checkpoint.

    Args:
        name: janus or showo.
        decoder: File of the trained decoder.
        lm: File of the trained language model.
        out: Folder of the checkpoint.
    """
    module = {"janus": "train_lm", "showo": "train_masked_lm"}[name]
    importlib.import_module(module).assemble(lm, decoder, out)
    write_record(out)


@app.command
def judge(
    name: Literal["detector", "clip"],
    /,
    *,
    tokenizer: Path,
    steps: Steps,
    out: Path,
    work_dir: Path | None = None,
    assets: Path = ASSETS,
) -> None:
    """Train the detector or the colour classifier, also on reconstructions.

    Args:
        name: detector or clip.
        tokenizer: Folder of the checkpoint whose tokenizer makes the reconstructions.
        steps: Batches to train on.
        out: Folder of the model.
        work_dir: Running state and log.
        assets: Pictures of the synthetic dataset.
    """
    from arrag.tokenizers.base import load_tokenizer

    train = importlib.import_module(f"train_{name}").train
    train(assets, load_tokenizer(tokenizer), out, _work_dir(out, work_dir), steps)
    write_record(out)


@app.command
def retriever(
    *, steps: Steps, out: Path, work_dir: Path | None = None, assets: Path = ASSETS
) -> None:
    """Train the model that retrieves the image of a caption."""
    from train_retriever import train

    train(assets, out, _work_dir(out, work_dir), steps)
    write_record(out)


if __name__ == "__main__":
    app()
