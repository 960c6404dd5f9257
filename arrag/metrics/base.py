"""The interface of a metric, its result, and the registries of metrics, detectors and judges.

A metric compares generated images with a target (prompts, a question table, reference images) and
returns a ``Score``. To add one, subclass ``Metric`` (or ``arrag.metrics.distance.DistanceMetric``)
in a module of its own and decorate the class with ``register_metric``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from arrag import __version__
from arrag.metrics.types import Detector
from arrag.utils.errors import FormatError
from arrag.utils.files import read_json, write_json
from arrag.utils.registry import Registry, import_registering


class Score(BaseModel):
    """The result of a metric, as its JSON file holds it.

    Further fields are the metric's own: ``tasks`` of GenEval, ``bootstrap`` of a distance.

    Attributes:
        compat: Which published protocol the number follows.
        value: The number that a table shows.
        interval: 95 % confidence interval, or None where none was computed.
        judge: Names and digests of the models that judged the images.
        n_images: Number of generated images that the value covers; None if a file does not say.
        partial: What was left out: ``{kind: {"count": n, "first": [names]}}``.
        prompt_set_sha256: Digest of the prompts.
        run: Contents of ``run.json`` of the samples.
        versions: Versions of the libraries that shape the value.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    metric: str
    compat: str
    value: float
    interval: list[float] | None
    judge: dict[str, Any]
    n_images: int | None
    partial: dict[str, Any] = {}
    prompt_set_sha256: str | None
    run: dict[str, Any] | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The contents of the score's JSON file."""
        return self.model_dump(exclude_unset=True)

    def write(self, path: str | Path | None) -> None:
        """Write the JSON file, atomically; None writes nothing."""
        if path is not None:
            write_json(path, self.to_json())

    @property
    def left_out(self) -> dict[str, int]:
        """Number of missing or damaged items of each kind that the value does not cover."""
        counts = {kind: gap["count"] for kind, gap in self.partial.items()}
        for side in ("images", "reference"):
            report = getattr(self, side, None) or {}
            counts[f"damaged {side}"] = len(report.get("unreadable", ()))
            counts[f"missing {side}"] = report.get("missing", 0)
        return {kind: count for kind, count in counts.items() if count}


@dataclass(frozen=True)
class ScoreOptions:
    """How a score is computed, as opposed to what is measured (the metric's settings).

    Attributes:
        out: JSON file of the score, written before intermediate results are removed.
        records: File of the per-image results: JSON lines of GenEval, CSV of DPG-Bench.
        cache: Folder of cached features; None keeps them in memory.
        batch_size: Images at a time; None chooses by the device.
        workers: Threads that decode images.
        expect: Number of images that each set must have.
        allow_partial: Leave out missing and damaged images, and state them in the score.
        resamples: Bootstrap resamples of a distance; None is the metric's default, 0 is none.
        backends: Also compute the value with other libraries.
    """

    out: Path | None = None
    records: Path | None = None
    cache: str | Path | None = None
    batch_size: int | None = None
    workers: int = 0
    expect: int | None = None
    allow_partial: bool = False
    resamples: int | None = None
    backends: bool = False


DEFAULTS = ScoreOptions()


class Metric(ABC):
    """A score of generated images. The constructor takes the settings of the metric."""

    name: ClassVar[str]

    @abstractmethod
    def score(self, images: str | Path, target: Any, options: ScoreOptions = DEFAULTS) -> Score:
        """Score a folder of generated images.

        Args:
            images: Folder of the generated images.
            target: What they are compared with: a file of prompts, a question table, or reference
                images.
            options: How to compute the score and where to write it.

        Raises:
            ArragError: The images or the target are incomplete, damaged or do not fit together.
        """


METRICS: Registry[type[Metric]] = Registry(
    "metric",
    {
        "geneval": "arrag.metrics.geneval.score:GenEval",
        "dpg": "arrag.metrics.dpg.score:DPGBench",
        "fid": "arrag.metrics.fid:FID",
        "kid": "arrag.metrics.kid:KID",
        "cmmd": "arrag.metrics.cmmd:CMMD",
        "fwd": "arrag.metrics.fwd:FWD",
    },
)
M = TypeVar("M", bound=type[Metric])


def register_metric(name: str) -> Callable[[M], M]:
    """Decorate a subclass of ``Metric`` to add it to the registry under ``name``."""

    def add(metric: M) -> M:
        metric.name = name
        return METRICS.register(name)(metric)

    return add


def get_metric(name: str, module: str | None = None) -> type[Metric]:
    """Return the metric called ``name``; ``module`` is the module that registers it, if not arrag.

    Raises:
        UnknownNameError: No such metric; the hint gives the nearest names.
        UsageError: The module cannot be imported.
    """
    if module is not None:
        import_registering(module)
    return METRICS.get(name)


DETECTORS: Registry[Any] = Registry(  # classes of Detector with a class method load(path)
    "detector",
    {
        "mask2former": "arrag.metrics.detectors.mask2former:Mask2FormerDetector",
        "maskrcnn": "arrag.metrics.detectors.micro:MicroDetector",
        "mmdet": "arrag.metrics.detectors.mmdet:MMDetDetector",
    },
)


def load_detector(path: str | Path) -> Detector:
    """Load the detector in a folder; ``model_type`` of its config.json chooses the class.

    Args:
        path: The folder, or ``mmdet:CONFIG:CHECKPOINT`` for a model of mmdetection.

    Raises:
        ArragError: The folder, its config or its weights are missing, damaged or of another type.
    """
    if str(path).startswith("mmdet:"):
        return DETECTORS.get("mmdet").load(str(path))
    config_path = Path(path) / "config.json"
    config = read_json(config_path)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str) or model_type not in DETECTORS:
        raise FormatError(
            f"is {model_type!r}, which is no detector",
            path=config_path,
            field="model_type",
            hint=f"give a detector whose model_type is one of {', '.join(DETECTORS)}",
        )
    return DETECTORS.get(model_type).load(path)


def library_versions(*names: str) -> dict[str, str]:
    """Installed versions of arrag and of the named distributions."""
    return {"arrag": __version__} | {name: version(name) for name in names}
