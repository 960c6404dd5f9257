"""The blocks of a configuration that say what is drawn and how it is scored.

``FidSettings`` (FID and KID), ``CmmdSettings`` and ``FwdSettings`` are the only declaration of
these metrics' parameters: the metric takes such a model, the command line builds its options from
it (``arrag.cli.common.options_of``), and records hold its ``model_dump()``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from arrag.config.base import FilePath, Model, Place

KINDS = ("geneval", "dpg", "distribution")  # of Tables 1, 2, 3
MPLUG = "mplug"  # the judge of DPG-Bench's published numbers, which modelscope downloads
METRICS = ("cmmd", "fid", "fwd", "kid")  # in the order of Table 3


class GenEval(Model):
    """Prompts judged by GenEval's rules (Table 1)."""

    kind: Literal["geneval"]
    prompts: FilePath = Field(description="JSON lines in GenEval's metadata format")
    images_per_prompt: int = Field(default=4, ge=1, description="images drawn for a prompt, >= 1")


class Dpg(Model):
    """Prompts with a table of yes-or-no questions (Table 2)."""

    kind: Literal["dpg"]
    questions: FilePath = Field(description="question table with the columns of dpg_bench.csv")
    images_per_prompt: int = Field(default=4, ge=1, description="images drawn for a prompt, >= 1")
    dependency: Literal["official", "dsg", "none"] | None = Field(
        default=None, description="how a failed question zeroes its children; null = as compat does"
    )
    compat: Literal["official", "corrected"] = Field(
        default="official",
        description="which figure the table shows: with the published code's defects, or without",
    )

    @property
    def rules(self) -> dict[str, str | None]:
        """How answers become a score."""
        return {"compat": self.compat, "dependency": self.dependency}

    @property
    def prompts(self) -> Path:
        """The file that holds the prompts: the question table."""
        return self.questions


class CmmdSettings(Model):
    """CLIP maximum mean discrepancy."""

    extractor: Place = Field(default="clip", description="`clip`, or the folder of a CLIP")


class FidSettings(Model):
    """Fréchet distance of features (FID), or the kernel distance of the same features (KID)."""

    extractor: Place = Field(
        default="inception",
        description="inception, clip, mobilenetv2:WIDTH, a TorchScript file (.pt), pytorch-fid's "
        "weights (.pth), or the folder of a CLIP",
    )
    mode: Literal["clean", "legacy_pytorch"] = Field(
        default="clean", description="how images are resized for the network"
    )
    allow_rank_deficient: bool = Field(
        default=False, description="go on when images are no more than features; the table says so"
    )


class FwdSettings(Model):
    """Fréchet distance of wavelet packets."""

    wavelet: str = Field(default="haar", min_length=1, description="name of the wavelet")
    level: int = Field(default=4, ge=1, description="depth of the packet tree, >= 1")
    size: int | None = Field(
        default=None, ge=1, description="resize to this many pixels a side; null = as they are"
    )
    allow_rank_deficient: bool = Field(
        default=False, description="go on when images are no more than features; the table says so"
    )


MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class OwnMetric(Model):
    """A distance that another module defines; its further keys are the metric's settings."""

    model_config = ConfigDict(extra="allow")

    module: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
        description="dotted name of the module that registers the metric",
    )

    @property
    def options(self) -> dict[str, str]:
        """The options of ``arrag score distance``."""
        settings = json.dumps(self.__pydantic_extra__, sort_keys=True)
        return {"module": self.module, "settings": settings}


class Metrics(Model):
    """Which distances are measured; each is a column.

    A key of another name is a metric of your own: see docs/how-to/own-metric.md.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[MetricName, OwnMetric]

    cmmd: CmmdSettings | None = Field(default=None, description="CMMD; null = not measured")
    fid: FidSettings | None = Field(default=None, description="FID; null = not measured")
    fwd: FwdSettings | None = Field(default=None, description="FWD; null = not measured")
    kid: FidSettings | None = Field(
        default=None, description="KID, beside FID; null = not measured"
    )

    @property
    def wanted(self) -> dict[str, CmmdSettings | FidSettings | FwdSettings | OwnMetric]:
        """The measured ones by name, in the table's order; one's own come last."""
        known = {name: getattr(self, name) for name in METRICS}
        return {name: metric for name, metric in known.items() if metric} | self.__pydantic_extra__


class Distribution(Model):
    """Images compared as a set with a set of reference images (Table 3)."""

    kind: Literal["distribution"]
    prompts: FilePath = Field(description="JSON lines with `prompt`, or MJHQ-30K's meta_data.json")
    reference: Place = Field(
        description="folder of images, or `micro:reference`: the prompts' own scenes"
    )
    images_per_prompt: int = Field(default=1, ge=1, description="images drawn for a prompt, >= 1")
    metrics: Metrics = Field(description="the distances")

    @model_validator(mode="after")
    def _something_is_measured(self) -> Distribution:
        if not self.metrics.wanted:
            raise ValueError(f"metrics: none is chosen; add one of {', '.join(METRICS)}")
        return self


Benchmark = GenEval | Dpg | Distribution


class Scorers(Model):
    """The models that look at the images."""

    detector: FilePath = Field(description="folder of the object detector")
    color: FilePath = Field(description="folder of the open_clip model that names colours")
    vqa: Place | None = Field(
        default=None,
        description="what answers DPG's questions: a model's folder, `mplug` (the official one), "
        "or null = rules over detector and colours, for the micro world's questions",
    )

    @property
    def question_models(self) -> list[Path]:
        """The folders that answering DPG's questions needs."""
        if self.vqa is None:
            return [self.detector, self.color]
        return [] if self.vqa == MPLUG else [Path(self.vqa)]

    @property
    def question_options(self) -> dict[str, Path | str]:
        """Who answers, as options of ``arrag score dpg``."""
        if self.vqa is None:
            return {"judge": "rules", "detector": self.detector, "color": self.color}
        return {"judge": self.vqa}
