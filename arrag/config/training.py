"""The block of a configuration about how adapters are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from arrag.config.base import Model, Place


class LoraSettings(Model):
    """Low-rank changes of the query and value projections."""

    r: int = Field(default=128, ge=1, description="rank, >= 1 (paper: 128)")
    alpha: float = Field(default=256.0, gt=0, description="scale, > 0 (paper: 256)")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="in [0, 1) (paper: 0.05)")


def _ascending(hops: tuple[int, ...]) -> tuple[int, ...]:
    if list(hops) != sorted(set(hops)) or hops[0] < 1:
        raise ValueError(f"found {list(hops)}; use whole numbers from 1 in ascending order")
    return hops


class FaidShape(Model):
    """What the checkpoint of a FAiD adapter is shaped by."""

    hops: Annotated[tuple[int, ...], AfterValidator(_ascending)] = Field(
        default=(1, 2), min_length=1, strict=False, description="windows h (paper: 1 and 2)"
    )
    modules: int = Field(default=2, ge=1, description="modules B, a divisor of the layers; >= 1")
    k: int = Field(default=10, ge=1, description="patches blended at a position, >= 1 (paper: 10)")


class FaidTraining(FaidShape):
    """What a FAiD adapter is, and how it starts."""

    init_gain: float = Field(
        default=1.0, ge=0, description="scale of the initial second convolutions; 0 = bare model"
    )


class FaidSettings(FaidShape):
    """What a FAiD adapter computes; the defaults are the authors' code or, for ``absent``, ours.

    The only declaration of these parameters: ``arrag.methods.faid`` takes this model, and the
    adapter's file holds its ``model_dump()``.
    """

    context: Literal["causal", "full"] = Field(
        default="causal", description="neighbours in a window: those decoded before, or all"
    )
    merge: Literal["softmax", "sum", "mean"] = Field(
        default="softmax",
        description="of the scales: softmax of learned weights, plain learned weights, or the mean",
    )
    pool: Literal["mean", "sum"] = Field(default="mean", description="over the patches")
    score: Literal["mlp", "linear"] = Field(
        default="mlp",
        description="of a patch: two layers and a sigmoid, or one unbounded product (the paper's "
        "words)",
    )
    site: Literal["post_attention", "post_layer"] = Field(
        default="post_attention", description="where in a decoder layer the patches are added"
    )
    absent: Literal["skip", "zero", "compat_infer"] = Field(
        default="skip",
        description="a slot without a patch: skip: not in the mean; zero: a zero centre in every "
        "module (the authors' training); compat_infer: in the first module alone (their inference)",
    )
    eps: float = Field(default=1e-6, gt=0, description="of the RMS norm")


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
