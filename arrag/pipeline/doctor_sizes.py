"""How large what a configuration names is: images, codes, parameters, prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arrag.config.root import Config
from arrag.pipeline.doctor_rates import known

USUAL_LEVELS = (1,) * 5  # of a tokenizer, each half as large as the one before


def codes_of(config: Config, method: str) -> int:
    """Codes of a method's image."""
    settings = config.generator_of(method)[1]
    if (sizes := sizes_of(settings.checkpoint)) is not None:
        return sizes[0]
    return int(known()["tokens"].get(settings.kind, 576))


def pixels_of(config: Config, method: str) -> int:
    """Pixels of a method's image."""
    settings = config.generator_of(method)[1]
    if (sizes := sizes_of(settings.checkpoint)) is not None:
        return sizes[1] ** 2
    usual = known()["pixels"].get(settings.kind, 512)
    return int(getattr(settings, "size", None) or usual) ** 2


def parameters_of(config: Config, method: str) -> float:
    """Parameters of a generator: of its weights' bytes, else as the paper prints them."""
    settings = config.generator_of(method)[1]
    if settings.checkpoint.is_dir():
        width = {"bfloat16": 2, "float16": 2}.get(settings.dtype, 4)
        return sum(f.stat().st_size for f in settings.checkpoint.glob("*.safetensors")) / width
    return printed_parameters(config.methods[method].paper_key) or 1e9


def printed_parameters(key: str | None) -> float | None:
    """How many parameters the paper's tables print for a row: 1e9 for ``1.0B``; None if none."""
    from arrag.config.paper import paper_tables

    for table in paper_tables().values():
        row = table.get("rows", {}).get(key) if isinstance(table, dict) else None
        if row and row.get("params"):
            return float(row["params"].removesuffix("B")) * 1e9
    return None


def images_of(config: Config, method: str) -> int:
    """Images of a method's database; of one without a stated number, 0."""
    samples = config.resolved(method).database.samples.values()
    return sum(sample.images or 0 for sample in samples)


def sizes_of(checkpoint: Path) -> tuple[int, int] | None:
    """Codes of an image and its side in pixels, from a checkpoint's settings; None if not there."""
    raw = _settings(checkpoint)
    if codes := raw.get("num_vq_tokens"):
        from arrag.tokenizers.magvit2 import FOLDER

        levels = _settings(checkpoint / FOLDER).get("encoder_multipliers", USUAL_LEVELS)
        return int(codes), 2 ** (len(levels) - 1) * round(codes**0.5)
    size = raw.get("vision_config", {}).get("image_size")
    if size is None:
        return None
    levels = raw.get("vq_config", {}).get("channel_multiplier", USUAL_LEVELS)
    return (size // 2 ** (len(levels) - 1)) ** 2, size


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def prompts_in(config: Config, benchmark: str) -> int:
    """Prompts of a benchmark; as many as it is known to have when its file is not there yet."""
    from arrag.data.prompts import load_prompt_set

    drawn = config.benchmarks[benchmark]
    if drawn.prompts.is_file():
        return len(load_prompt_set(drawn))
    usual = {"geneval": 553, "dpg": 1065, "distribution": 30_000}[drawn.kind]
    made = config.assets.get(str(drawn.prompts))
    return -(-usual // made.every) if made is not None and made.kind == "subset" else usual
