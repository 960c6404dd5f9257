"""Samples that several jobs drew into one folder, made complete by one more."""

from __future__ import annotations

from pathlib import Path

from arrag.config.root import Config
from arrag.data.prompts import load_prompt_set
from arrag.methods.retrieved_images import join_records
from arrag.methods.runner import expected_run, finish, image_path, is_whole, prepare
from arrag.utils.files import read_json


def complete(config: Config, method: str, out: str | Path, benchmark: str | None) -> dict | None:
    """Write run.json of a folder whose parts are drawn, as one job would; returns its contents.

    The method is not loaded: each part checked that it drew with the weights that begun.json names.
    None, with nothing written, if an image is missing or the folder is of other settings, as far as
    they are known without loading; ``sample_benchmark`` then does what is to be done.
    """
    out = Path(out)
    drawn = config.benchmark(benchmark)
    prompts = load_prompt_set(drawn)
    if not (out / "begun.json").is_file():
        return None
    run = read_json(out / "begun.json")
    known = expected_run(config, method, benchmark, prompts)
    if known != {field: run.get(field) for field in known}:
        return None
    samples = range(drawn.images_per_prompt)
    if not all(is_whole(image_path(out, i, k)) for i in range(len(prompts)) for k in samples):
        return None
    prepare(out, run, prompts)
    join_records(out)
    return finish(out, run)
