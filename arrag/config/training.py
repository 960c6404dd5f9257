"""The block of a configuration about how adapters are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from arrag.config.base import Model, Place


class LoraSettings(Model):
    """Low-rank changes of the query and value projections."""

    r: int = Field(default=128, ge=1, description="rank, >= 1 (paper: 128)")
    alpha: float = Field(default=256.0, gt=0, description="scale, > 0 (paper: 256)")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="in [0, 1) (paper: 0.05)")


class FaidTraining(Model):
    """What a FAiD adapter is."""

    k: int = Field(default=10, ge=1, description="patches blended at a position, >= 1 (paper: 10)")
    hops: list[int] = Field(default=[1, 2], min_length=1, description="windows h (paper: 1 and 2)")
    modules: int = Field(default=2, ge=1, description="modules B, a divisor of the layers; >= 1")
    init_gain: float = Field(
        default=1.0, ge=0, description="scale of the initial second convolutions; 0 = bare model"
    )


class Training(Model):
    """How adapters are trained; the defaults are the paper's."""

    source: Place = Field(description="`micro`, or images with captions: a folder, or tars")
    pairs: int = Field(default=50_000, ge=1, description="images with captions trained on")
    held_out: int = Field(default=500, ge=1, description="further ones the loss is measured on")
    epochs: float = Field(default=1.0, gt=0, description="times each pair is seen, > 0")
    global_batch: int = Field(default=256, ge=1, description="images in a step, >= 1")
    learning_rate: float = Field(default=2e-4, gt=0, description="after the warm-up, > 0")
    warmup: float = Field(default=0.1, ge=0, le=1, description="share of the steps, in [0, 1]")
    drop_prompt: float = Field(
        default=0.1, ge=0, lt=1, description="share trained without prompt, for guidance"
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        default="bf16", description="arithmetic of the forward; weights are kept in float32"
    )
    lora: LoraSettings | None = Field(default=LoraSettings(), description="null = no LoRA")
    head: bool = Field(default=True, description="train the generation head too")
    faid: FaidTraining = Field(default=FaidTraining(), description="what a FAiD adapter is")
