"""Images of one size, read block by block many times in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.resource_errors import disk_space

IN_MEMORY = 64 << 20  # bytes of images kept in memory before they go to a temporary file
BLOCK_BYTES = 3 << 20  # bytes of images in a block: small enough for a cache


class PixelBuffer:
    """Images of one size as bytes in a temporary file, and their exact mean; a context manager.

    Attributes:
        n: Number of images so far.
        shape: (H, W) of the images.
    """

    def __init__(self) -> None:
        self.n = 0
        self.shape: tuple[int, int] | None = None
        self._total: np.ndarray | None = None
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115

    def __enter__(self) -> PixelBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, image: np.ndarray) -> None:
        """Append uint8 RGB [H, W, 3]. Raises MismatchError unless it has the size of the others."""
        if self.shape is None:
            self.shape, self._total = image.shape[:2], np.zeros(image.shape, np.int64)
        elif image.shape[:2] != self.shape:
            (h, w), (height, width) = image.shape[:2], self.shape
            raise MismatchError(
                f"{w} x {h} pixels, the images before it {width} x {height}",
                path=name,
                hint="FWD needs one size: give --size, or images of one size",
            )
        with disk_space(Path(tempfile.gettempdir())):
            self._file.write(np.ascontiguousarray(image).tobytes())
        self._total += image
        self.n += 1

    @property
    def mean(self) -> np.ndarray:
        """Mean image, 0 to 255: float64 [H, W, 3]."""
        return self._total / self.n

    def blocks(self) -> Iterator[np.ndarray]:
        """The images in order, uint8 [b, H, W, 3]."""
        size = self._total.size
        self._file.seek(0)
        for start in range(0, self.n, count := max(1, BLOCK_BYTES // size)):
            take = min(count, self.n - start)
            raw = np.frombuffer(self._file.read(take * size), np.uint8)
            yield raw.reshape(take, *self._total.shape)


class PixelArray:
    """Images that are an array already, float [n, H, W, 3] in [0, 1]; as ``PixelBuffer``."""

    def __init__(self, images: np.ndarray) -> None:
        if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise FormatError(f"images of shape {images.shape}, expected [n, H, W, 3]")
        if not (images.min() >= 0 and images.max() <= 1):
            raise FormatError("images hold numbers outside [0, 1]", hint="scale them to it")
        self.images, self.n, self.shape = images, len(images), images.shape[1:3]

    @property
    def mean(self) -> np.ndarray:
        """Mean image, 0 to 255: float64 [H, W, 3]."""
        return 255 * self.images.mean(0, dtype=np.float64)

    def blocks(self) -> Iterator[np.ndarray]:
        """The images in order, float64 [b, H, W, 3], 0 to 255."""
        count = max(1, BLOCK_BYTES // (8 * self.images[0].size))
        for start in range(0, self.n, count):
            yield 255 * np.asarray(self.images[start : start + count], np.float64)
