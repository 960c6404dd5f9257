"""Wavelet packets of sets of images, streamed, and their mean Fréchet distance.

Each packet of a wavelet packet transform is a Gaussian over images (Veeramacheneni et al. 2025;
BonnBytes/PyTorch-FWD). Upstream holds every coefficient of every image (1.5 MB an image of 256 px).
Here images are buffered as bytes and the packets are computed one row of the packet grid at a time,
so memory grows with neither images nor packets.

Two facts make that short. The transform is linear, so the mean of a packet is the packet of the
mean image, and subtracting it first makes one pass as exact as two. And a packet of an image X is
A X Bᵀ, where A and B are the one-dimensional transforms along columns and rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from tqdm import tqdm

from arrag.metrics.frechet import (
    Gaussian,
    factor,
    frechet_distance,
    gaussian_of_moments,
    resampled_distances,
)
from arrag.metrics.pixel_buffer import PixelArray, PixelBuffer
from arrag.utils.errors import FormatError, MismatchError, UnknownNameError, UsageError

GATHER_BYTES = 24 << 20  # coefficients that are multiplied at a time: large enough to be worth it
KEPT_BYTES = 512 << 20  # largest row of packets whose features are kept for resampling
ROWS_OF, COLUMNS_OF = {"a": 0, "h": 1, "v": 0, "d": 1}, {"a": 0, "h": 0, "v": 1, "d": 1}


@dataclass(frozen=True)
class PacketTransform:
    """The transform: a pywt wavelet's name, the depth of the tree, images' height and width.

    Raises:
        UnknownNameError: There is no such wavelet.
        UsageError: The tree is too deep for the images.
    """

    wavelet: str
    level: int
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check the wavelet and the depth."""
        path_matrices(self.wavelet, self.level, self.height)
        path_matrices(self.wavelet, self.level, self.width)

    @property
    def rows(self) -> np.ndarray:
        """[2^level, h, height]: the transforms along columns, one a row of packets."""
        return path_matrices(self.wavelet, self.level, self.height)

    @property
    def columns(self) -> np.ndarray:
        """[2^level, w, width]: the transforms along rows."""
        return path_matrices(self.wavelet, self.level, self.width)

    @property
    def dim(self) -> int:
        """Coefficients of a packet: 3 channels x h x w."""
        return 3 * self.rows.shape[1] * self.columns.shape[1]

    def row_of(self, images: np.ndarray, row: int) -> np.ndarray:
        """Packets of one row of the grid: [b, H, W, 3] of any dtype -> float64 [2^level, b, dim].

        A packet's coefficients are ordered by channel, then by row, as upstream's.
        """
        b, _, width, c = images.shape
        n, w, _ = self.columns.shape
        lines = _apply_rows(self.rows[row], images)  # [b, h, W, 3]
        h = lines.shape[1]
        lines = lines.transpose(0, 3, 1, 2).reshape(-1, width)
        packets = lines @ self.columns.reshape(n * w, width).T
        grid = packets.reshape(b, c, h, n, w).transpose(3, 0, 1, 2, 4)  # [n, b, 3, h, w]
        return np.ascontiguousarray(grid).reshape(n, b, c * h * w)


def natural_order(level: int) -> list[tuple[int, int]]:
    """(row, column) of every packet in upstream's order: a h v d, the last letter fastest."""
    places = []
    for node in product("ahvd", repeat=level):
        row = column = 0
        for letter in node:
            row, column = 2 * row + ROWS_OF[letter], 2 * column + COLUMNS_OF[letter]
        places.append((row, column))
    return places


@cache
def path_matrices(wavelet: str, level: int, size: int) -> np.ndarray:
    """The one-dimensional packet transform of ``size`` samples as matrices [2^level, h, size].

    Boundary mode reflect, as upstream; paths in the order aa.., ..ad, .., dd. The columns are the
    upstream transform of the unit vectors.
    """
    import pywt

    if wavelet not in pywt.wavelist(kind="discrete"):
        hint = "take a discrete wavelet of PyWavelets, such as haar"
        raise UnknownNameError(f"unknown wavelet {wavelet!r}", field="wavelet", hint=hint)
    if size < 2**level:
        message = f"{level} is too deep for {size} pixels"
        raise UsageError(message, field="level", hint="choose a smaller one")
    tree = pywt.WaveletPacket(np.eye(size), wavelet, mode="reflect", maxlevel=level, axis=0)
    paths = ["".join(path) for path in product("ad", repeat=level)]
    return np.stack([tree[path].data for path in paths])


def _apply_rows(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    """matrix [h, H] along the height of images [b, H, W, 3]: float64 [b, h, W, 3]."""
    b, height, width, c = images.shape
    h, step = len(matrix), height // len(matrix)
    first = matrix[0, :step]
    flat = images.reshape(b, height, width * c)
    # Haar's matrix repeats one short row of equal sizes along its diagonal. Sums of bytes are then
    # exact in float32, and a level of 4 needs a sixteenth of the products.
    haar = np.array_equal(matrix, np.kron(np.eye(h), first)) and np.ptp(np.abs(first)) == 0
    if haar and images.dtype == np.uint8:
        blocks = flat.reshape(b * h, step, width * c).astype(np.float32)
        sums = np.sign(first).astype(np.float32)[None] @ blocks  # [b * h, 1, 3W]
        lines = sums.astype(np.float64) * abs(first[0])
    else:
        lines = matrix @ flat.astype(np.float64)
    return lines.reshape(b, h, width, c)


class ImagePackets:
    """Gaussians of the packets of images in [0, 1], computed a row of packets at a time."""

    def __init__(self, pixels: PixelBuffer | PixelArray, transform: PacketTransform) -> None:
        self.pixels, self.transform, self.n = pixels, transform, pixels.n
        self.level, self.dim = transform.level, transform.dim
        if self.n < 2:
            raise UsageError(f"FWD needs at least 2 images on each side, found {self.n}")

    def means(self, row: int) -> np.ndarray:
        """[2^level, dim]: the packets of the mean image."""
        return self.transform.row_of(self.pixels.mean[None], row)[:, 0] / 255

    def features(self, row: int) -> np.ndarray:
        """Centred coefficients of all images: float64 [2^level, n, dim]."""
        return next(self.centred(row, self.n))

    def centred(self, row: int, images: int) -> Iterator[np.ndarray]:
        """Coefficients less their mean, float64 [2^level, b, dim], b at most about ``images``.

        The next block overwrites the previous one.
        """
        means = self.means(row)[:, None]
        gathered = np.empty((2**self.level, images, self.dim))
        filled = 0
        for block in self.pixels.blocks():
            if filled + len(block) > images and filled:
                yield gathered[:, :filled]
                filled = 0
            if len(block) > images:
                gathered = np.empty((2**self.level, images := len(block), self.dim))
            place = gathered[:, filled : filled + len(block)]
            np.multiply(self.transform.row_of(block, row), 1 / 255, out=place)
            place -= means
            filled += len(block)
        if filled:
            yield gathered[:, :filled]

    def covariances(self, row: int) -> np.ndarray:
        """float64 [2^level, dim, dim], one half accumulated in place, block by block."""
        from scipy.linalg.blas import dsyrk

        dim, count = self.dim, 2**self.level
        total = np.zeros((count, dim, dim))
        for block in self.centred(row, max(1, GATHER_BYTES // (8 * count * dim))):
            for packet, x in zip(total, block, strict=True):
                dsyrk(1 / (self.n - 1), x.T, beta=1, c=packet.T, overwrite_c=True)
        upper = np.tri(dim, k=-1, dtype=bool).T  # BLAS filled the lower half and the diagonal
        for packet in total:
            packet[upper] = packet.T[upper]
        return total

    def gaussians(self, row: int) -> list[Gaussian]:
        """One a packet of the row."""
        if self.n <= self.dim:
            factors = self.features(row) / np.sqrt(self.n - 1)
        else:
            factors = (factor(c) for c in self.covariances(row))
        means = self.means(row)
        return [Gaussian(mean, f, self.n) for mean, f in zip(means, factors, strict=True)]

    def keeps_features(self) -> bool:
        """Whether a row's features fit the memory that resampling may take."""
        return 8 * 2**self.level * self.n * self.dim <= KEPT_BYTES


class StoredPackets:
    """Moments from a file: means [P, d] and covariances [P, d, d] in upstream's packet order.

    The covariances may be memory-mapped; one packet is read at a time.

    Raises:
        FormatError: The shapes are not those of a whole packet tree.
    """

    def __init__(self, means: np.ndarray, covariances: np.ndarray, n: int | None) -> None:
        count, self.dim = means.shape if means.ndim == 2 else (0, 0)
        self.level = (count.bit_length() - 1) // 2
        if not count or count != 4**self.level or covariances.shape != (count, self.dim, self.dim):
            raise FormatError(
                f"moments of shapes {means.shape} and {covariances.shape} are not those of 4^level "
                "packets: [P, d] and [P, d, d]"
            )
        self.means, self.covariances, self.n = means, covariances, n
        self.place = {place: i for i, place in enumerate(natural_order(self.level))}

    def gaussians(self, row: int) -> list[Gaussian]:
        """One a packet of the row of the packet grid."""
        indices = [self.place[row, column] for column in range(2**self.level)]
        return [gaussian_of_moments(self.means[i], self.covariances[i], self.n) for i in indices]


PacketSource = ImagePackets | StoredPackets


def fwd(
    images: PacketSource, reference: PacketSource, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray | None]:
    """Mean packet distance, and the same for every row of ``weights`` [R, n]: float64 [R].

    Peak memory is one row of packets of both sides. ``weights``, how often each generated image is
    drawn, need images, not moments.

    Raises:
        MismatchError: The two have other levels or sizes.
    """
    if (images.level, images.dim) != (reference.level, reference.dim):
        raise MismatchError(
            f"packets of level {images.level} with {images.dim} coefficients cannot be compared "
            f"with level {reference.level} and {reference.dim}",
            hint="use one transform and one size",
        )
    distances: list[float] = []
    resampled = None if weights is None else np.zeros(len(weights))
    for row in tqdm(range(2**images.level), desc="FWD", unit="row", leave=False):
        theirs = reference.gaussians(row)
        ours = images.gaussians(row)
        distances += [frechet_distance(a, b) for a, b in zip(ours, theirs, strict=True)]
        if resampled is not None:
            for mine, x, other in zip(ours, images.features(row), theirs, strict=True):
                resampled += resampled_distances(x + mine.mean, other, weights)
    if resampled is not None:
        resampled /= 4**images.level
    return float(np.mean(distances)), resampled
