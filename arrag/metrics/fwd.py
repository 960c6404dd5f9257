"""FWD: the Fréchet wavelet distance (Veeramacheneni et al. 2025; BonnBytes/PyTorch-FWD).

The plain mean over the packets of a wavelet packet transform of their Fréchet distances. No network
is needed. Sets are folders, tars, arrays of images, or stored moments.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from arrag.config.benchmarks import FwdSettings
from arrag.metrics.base import DEFAULTS, ScoreOptions
from arrag.metrics.bootstrap import image_weights
from arrag.metrics.distance import DistanceMetric, Measurement
from arrag.metrics.image_set import ImageList, ImageSet, list_images, open_image, read_images
from arrag.metrics.pixel_buffer import PixelArray, PixelBuffer
from arrag.metrics.preprocess import center_square
from arrag.metrics.reference_stats import (
    ReferenceFile,
    is_reference_file,
    read_reference,
    write_packet_moments,
)
from arrag.metrics.wavelet_packets import (
    ImagePackets,
    PacketSource,
    PacketTransform,
    StoredPackets,
    fwd,
    natural_order,
)
from arrag.utils.errors import MismatchError, UsageError
from arrag.utils.hashing import sha256_json
from arrag.utils.readers import UNREADABLE

CHEAP_DIM = 128  # up to so many coefficients a packet, resampling takes seconds
RESAMPLES = 100


@dataclass
class PacketSet(ImageSet):
    """A set by its wavelet packets."""

    packets: PacketSource | None = None


class FWD(DistanceMetric):
    """Fréchet wavelet distance.

    Images are used at their own size, which must be one, unless the settings give another. Without
    a number of resamples there is an interval only where it is cheap (small images).
    """

    name = "fwd"
    Settings = FwdSettings

    @property
    def wavelet(self) -> str:
        """PyWavelets' name."""
        return self.settings.wavelet.lower()

    def label(self, judge: dict[str, Any]) -> str:
        """Plain for the published transform."""
        plain = (self.wavelet, self.settings.level) == ("haar", 4)
        return "FWD" if plain else f"FWD-{self.wavelet}-{self.settings.level}"

    def measure(self, images: ImageSet, reference: ImageSet, options: ScoreOptions) -> Measurement:
        """See ``DistanceMetric``."""
        ours, theirs = images.packets, reference.packets
        possible = isinstance(ours, ImagePackets) and ours.keeps_features()
        resamples = options.resamples
        if resamples is None:
            resamples = RESAMPLES if possible and ours.dim <= CHEAP_DIM else 0
        elif resamples and not possible:
            raise UsageError(
                "these packets cannot be resampled: there are only moments, or the features of one "
                "row of packets take more than 512 MiB",
                field="resamples",
                hint="pass --resamples 0",
            )
        weights = image_weights(ours.n, resamples) if resamples else None
        value, resampled = fwd(ours, theirs, weights)
        details = {
            "wavelet": self.wavelet,
            "level": ours.level,
            "packets": 4**ours.level,
            "dimensions": ours.dim,
            "rank_deficient": any(s.n is not None and s.n <= s.dim for s in (ours, theirs)),
        }
        return Measurement(value, None if resampled is None else lambda _: resampled, details)

    def open_sets(
        self, paths: tuple[str | Path, ...], options: ScoreOptions, stack: ExitStack
    ) -> list[ImageSet]:
        """Open the sets; temporary files live as long as ``stack``."""
        return [self.open_packets(path, options, stack) for path in paths]

    def open_packets(self, path: str | Path, options: ScoreOptions, stack: ExitStack) -> PacketSet:
        """Open one set."""
        found = None
        if is_reference_file(path):
            stored = read_reference(path)
            stack.callback(stored.close)
            if stored.features is None:
                return self._stored_packets(stored)
            pixels, report = PixelArray(stored.features), stored.report() | {"stated": True}
        else:
            found, pixels = self._buffer_images(path, options, stack)
            report = found.report()
        transform = PacketTransform(self.wavelet, self.settings.level, *pixels.shape)
        packets = ImagePackets(pixels, transform)
        return PacketSet(report, self._judge(pixels.shape), images=found, packets=packets)

    def _stored_packets(self, stored: ReferenceFile) -> PacketSet:
        packets = StoredPackets(stored.mu, stored.sigma, stored.n)
        judge = stored.meta.get("judge")
        stated = (judge or {}).get("wavelet")
        wanted = (("level", packets.level, self.settings.level), ("wavelet", stated, self.wavelet))
        for field, found, asked in wanted:
            if found not in (None, asked):
                raise MismatchError(
                    f"is {found!r}, but --{field} is {asked!r}",
                    path=stored.path,
                    field=field,
                    hint=f"give the same {field}, or use other statistics",
                )
        return PacketSet(stored.report(), judge, packets=packets)

    def _judge(self, shape: tuple[int, int]) -> dict[str, Any]:
        """What makes two sets of packets comparable."""
        transform = {
            "wavelet": self.wavelet,
            "level": self.settings.level,
            "boundary": "reflect",
            "pixels": list(shape),
            "resize": None if self.settings.size is None else "center-crop bicubic",
        }
        name = f"wavelet packets {self.wavelet} {self.settings.level}"
        return {"extractor": name, "extractor_digest": sha256_json(transform), **transform}

    def _buffer_images(
        self, source: str | Path, options: ScoreOptions, stack: ExitStack
    ) -> tuple[ImageList, PixelBuffer]:
        """Decode a folder's or tar's images. Raises MismatchError for mixed sizes."""
        pixels = stack.enter_context(PixelBuffer())
        named: list[tuple[str, str, tuple[int, int]]] = []
        unreadable = []
        for name, data in tqdm(read_images(source), desc=f"reading {source}", unit="image"):
            try:
                image = open_image(data)
            except UNREADABLE:
                unreadable.append(name)
                continue
            named.append((name, hashlib.sha256(data).hexdigest(), image.size))
            if self.settings.size is not None:
                size = (self.settings.size,) * 2
                image = center_square(image).resize(size, Image.Resampling.BICUBIC)
            pixels.add(f"{source}/{name}", np.asarray(image))
        return list_images(source, named, unreadable, options), pixels

    def write_statistics(
        self, source: str | Path, out: str | Path, options: ScoreOptions = DEFAULTS
    ) -> dict[str, Any]:
        """Write the moments of the packets, in upstream's order, for PyTorch-FWD too."""
        with ExitStack() as stack:
            found = self.open_packets(source, options, stack)
            packets, level = found.packets, self.settings.level
            meta = self.statistics_meta(found.judge, found.report)
            place = {at: i for i, at in enumerate(natural_order(level))}
            side = range(2**level)
            rows = (
                ([place[row, c] for c in side], packets.means(row), packets.covariances(row))
                for row in tqdm(side, desc="packets", unit="row")
            )
            write_packet_moments(out, rows, (4**level, packets.dim), packets.n, meta)
        return meta

    def write_mjhq_statistics(self, *args: Any, **kwargs: Any) -> dict[str, int]:
        """Refused: the files of all categories would take gigabytes each."""
        hint = "write the statistics of one folder"
        raise UsageError("not for fwd, whose file takes gigabytes", field="mjhq", hint=hint)
