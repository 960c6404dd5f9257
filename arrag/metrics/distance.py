"""Distances between a set of generated images and a reference set: the shared part of a metric.

A set is a folder or tar of images, or a file of statistics or features. Images become features
(``arrag.metrics.features``), a metric turns the features of both sets into one number, and
resampling the generated images gives the interval of that number.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from arrag import __version__
from arrag.config.base import Model
from arrag.data import mjhq
from arrag.data.sample_dir import read_run
from arrag.metrics.base import DEFAULTS, Metric, Score, ScoreOptions, library_versions
from arrag.metrics.bootstrap import IMAGE_RESAMPLES, image_bootstrap, image_weights
from arrag.metrics.extractors import CLIP_FOLDER, INCEPTION, open_extractor
from arrag.metrics.features import extract
from arrag.metrics.image_set import (
    ImageList,
    ImageSet,
    check_same_judge,
    count_shared,
    normalize_rows,
    stored_image_set,
)
from arrag.metrics.reference_stats import is_reference_file, read_reference, write_arrays
from arrag.metrics.types import Extractor

OFFICIAL = {source.file.partition(".")[0] for source in INCEPTION.values()} | {CLIP_FOLDER}
LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "transformers", "open-clip-torch")


class Measurement(NamedTuple):
    """A distance, its values for resamples of the images, and further fields of the score.

    ``resample`` maps weights [R, n], how often each generated image is drawn, to R distances; None
    leaves no interval.
    """

    value: float
    resample: Callable[[np.ndarray], np.ndarray] | None
    details: dict[str, Any]


class DistanceMetric(Metric):
    """Distance of generated images from reference images; lower is closer.

    A subclass names its ``Settings`` and defines ``measure``.

    Attributes:
        Settings: The pydantic model of the settings, as in a configuration.
        normalize: Whether features are scaled to unit length.
        floor: Smallest possible value.
    """

    Settings: ClassVar[type[Model]]
    normalize: ClassVar[bool] = False
    floor: ClassVar[float] = 0.0

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @abstractmethod
    def measure(self, images: ImageSet, reference: ImageSet, options: ScoreOptions) -> Measurement:
        """The distance of ``images`` from ``reference``."""

    @property
    def compat(self) -> str:
        """The published protocol that is followed."""
        return "official"

    def label(self, judge: dict[str, Any]) -> str:
        """A table's column: the plain name only where the extractor is the official one."""
        name = judge["extractor"]
        return self.name.upper() if name in OFFICIAL else f"{self.name.upper()}-{name}"

    def open_extractor(self) -> Extractor:
        """The feature extractor that the settings name."""
        return open_extractor(self.settings.extractor, getattr(self.settings, "mode", "clean"))

    def judge(self, extractor: Extractor) -> dict[str, Any]:
        """What makes two sets of features comparable."""
        return extractor.identity | {"normalised": self.normalize}

    def score(
        self, images: str | Path, target: str | Path, options: ScoreOptions = DEFAULTS
    ) -> Score:
        """Score ``images`` against reference images: each a folder, a tar or a file of statistics.

        Beside the common fields the score has both sets' counts and digests, and the ``bootstrap``
        values that pair it with others (``arrag.metrics.bootstrap.paired_difference``).

        Raises:
            ArragError: The sets cannot be compared, or are incomplete.
        """
        with ExitStack() as stack:
            sets = self.open_sets((images, target), options, stack)
            check_same_judge(*sets)
            score = self._finish(*sets, options, self.measure(*sets, options))
        score.write(options.out)
        return score

    def open_sets(
        self, paths: tuple[str | Path, ...], options: ScoreOptions, stack: ExitStack
    ) -> list[ImageSet]:
        """Open the sets; temporary files live as long as ``stack``.

        The extractor is opened only where there are images, or where the settings name one.
        """
        extractor = None
        named = "extractor" in self.settings.model_fields_set
        if named or not all(map(is_reference_file, paths)):
            extractor = self.open_extractor()
        return [self._open_set(path, extractor, options) for path in paths]

    def _open_set(
        self, path: str | Path, extractor: Extractor | None, options: ScoreOptions
    ) -> ImageSet:
        judge = None if extractor is None else self.judge(extractor)
        if is_reference_file(path):
            stored = stored_image_set(read_reference(path))
            if judge is not None:
                check_same_judge(ImageSet({"path": "the settings"}, judge), stored)
            return stored
        found, features = self._extract(path, extractor, options)
        return ImageSet(found.report(), judge, features, images=found)

    def _extract(
        self, path: str | Path, extractor: Extractor, options: ScoreOptions
    ) -> tuple[ImageList, np.ndarray]:
        found, features = extract(path, extractor, options)
        return found, normalize_rows(features) if self.normalize else features

    def _finish(
        self, images: ImageSet, reference: ImageSet, options: ScoreOptions, found: Measurement
    ) -> Score:
        unstated = {"extractor": "not stated", "extractor_digest": None}
        judge = images.judge or reference.judge or unstated
        n = images.report["n"]
        run = read_run(images.path) if Path(images.path).is_dir() else None
        resamples = IMAGE_RESAMPLES if options.resamples is None else options.resamples
        bootstrap = None
        if found.resample is not None and resamples and n > 1:
            values = found.resample(image_weights(n, resamples))
            names = images.report.get("names_sha256")
            bootstrap = image_bootstrap(found.value, values, names, self.floor)
        shared = count_shared(images, reference)
        warnings = _warnings(images, reference, shared, found.details)
        for text in warnings:
            print(f"arrag: warning: {text}", file=sys.stderr)
        return Score(
            metric=self.name,
            label=self.label(judge),
            compat=self.compat,
            value=found.value,
            interval=bootstrap.pop("interval") if bootstrap else None,
            lower_is_better=True,
            n=n,
            n_images=n,
            n_reference=reference.report["n"],
            images=images.report,
            reference=reference.report,
            shared_images=shared,
            judge=judge,
            bootstrap=bootstrap,
            prompt_set_sha256=(run or {}).get("prompt_set_sha256"),
            run=run,
            versions=library_versions(*LIBRARIES),
            warnings=warnings,
            **found.details,
        )

    def write_statistics(
        self, source: str | Path, out: str | Path, options: ScoreOptions = DEFAULTS
    ) -> dict[str, Any]:
        """Write a file ``out`` (.npz) that replaces the images of ``source`` in a comparison.

        Returns:
            What the file states about itself.
        """
        extractor = self.open_extractor()
        found = self._open_set(source, extractor, options)
        meta = self.statistics_meta(self.judge(extractor), found.report)
        self.store(out, found.features, meta)
        return meta

    def write_mjhq_statistics(
        self, root: str | Path, meta: str | Path, out: str | Path, options: ScoreOptions
    ) -> dict[str, int]:
        """Write ``out``/all.npz and ``out``/CATEGORY.npz of MJHQ-30K's images.

        Every image passes the network once.

        Args:
            root: Folder of the images, ``CATEGORY/HASH.jpg``.
            meta: MJHQ-30K's meta_data.json.
            out: Folder of the files.
            options: How to compute the features.

        Returns:
            {file: number of images}.
        """
        entries = mjhq.load_mjhq(meta)
        missing = mjhq.check_images(root, entries, options.allow_partial)
        extractor = self.open_extractor()
        found, features = self._extract(root, extractor, options)
        found = replace(found, missing=missing)
        judge = self.judge(extractor)
        labels = np.array([Path(name).parts[0] for name in found.names])
        parts = {mjhq.OVERALL: (found, np.arange(len(found)))}
        for name in mjhq.categories(entries):
            rows = np.flatnonzero(labels == name)
            parts[name] = found.take(rows), rows
        written = {}
        for name, (images, rows) in parts.items():
            if len(rows) > 1:
                path = Path(out) / f"{name}.npz"
                meta = self.statistics_meta(judge, images.report())
                self.store(path, features[rows], meta)
                written[str(path)] = len(rows)
        return written

    def statistics_meta(self, judge: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        """What a file of statistics states about itself."""
        versions = {"arrag": __version__}
        return {"metric": self.name, "judge": judge, "images": report, "versions": versions}

    def store(self, out: str | Path, features: np.ndarray, meta: dict[str, Any]) -> None:
        """Write what the metric needs of reference features [n, d]: the features themselves."""
        write_arrays(out, meta, feats=features)


def _warnings(
    images: ImageSet, reference: ImageSet, shared: int | None, details: dict[str, Any]
) -> list[str]:
    """What a reader of the value must know, as sentences."""
    found = []
    for side in (images.report, reference.report):
        if side.get("unreadable") or side.get("missing"):
            found.append(
                f"{side['path']}: {len(side['unreadable'])} images are damaged and "
                f"{side['missing']} missing; the value is of the other {side['n']}"
            )
        if side.get("mixed_sizes"):
            found.append(f"{side['path']}: images of {len(side['sizes'])} sizes: {side['sizes']}")
        if side.get("stated") is False:
            found.append(f"{side['path']}: nothing says which extractor made these statistics")
    n = images.report["n"]
    if details.get("rank_deficient"):
        found.append(
            f"no more images than dimensions ({n} and {reference.report['n']} images, "
            f"{details['dimensions']} dimensions): the covariance is singular"
        )
    if shared:
        found.append(f"{shared} of {n} images are in the reference too")
    return found
