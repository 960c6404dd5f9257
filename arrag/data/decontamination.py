"""Keep test images out of a database: by their pixels, and by what they look like.

A perceptual hash survives another file format, JPEG compression and resizing; test images are
hashed mirrored as well. It does not survive cropping, turning or a picture in the picture: such
copies are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps
from tqdm import tqdm

from arrag.data.fingerprint import Fingerprint, fingerprint, perceptual_hash
from arrag.data.images import open_rgb
from arrag.data.sources import open_source
from arrag.utils.errors import ArragError
from arrag.utils.hashing import sha256_json
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import UNREADABLE, read_npz
from arrag.utils.resource_errors import disk_space

NEAR = 6
"""Bits of 64 in which the perceptual hashes of copies may differ; strangers differ in about 32."""
PRINT_KINDS = {"names": "U", "sha256": "U", "look": "u", "mirrored": "u"}
PRINTS = ".prints.npz"
"""Fingerprints of test images, in the place of the images: many jobs then hash them only once."""


class TestImages:
    """Fingerprints of test images and of their mirror images."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    def __init__(self, names: list[str], prints: list[Fingerprint], mirrored: list[int]) -> None:
        self.names, self._prints, self._mirrored = names, prints, mirrored
        self._exact = {p.sha256: i for i, p in reversed(list(enumerate(prints)))}
        self._looks = np.array([p.phash for p in prints] + mirrored, np.uint64)  # [2 M]
        self.digest = sha256_json([sorted(self._exact), NEAR])

    @classmethod
    def load(cls, sources: Sequence[str | Path]) -> TestImages:
        """Read the test images of some sources (see ``open_source``), or what ``save`` wrote.

        Raises ArragError for a source that is missing or empty, and for an image that cannot be
        read: its copies would pass unseen.
        """
        names, prints, mirrored = [], [], []
        for source in sources:
            before = len(names)
            if str(source).endswith(PRINTS):
                names, prints, mirrored = _more(source, names, prints, mirrored)
                continue
            items = open_source(str(source), None, None)
            for key, load in tqdm(items, desc=f"test images {source}", unit="image"):
                try:
                    image = open_rgb(load())
                except UNREADABLE as error:
                    raise ArragError(
                        f"{source}: {key} cannot be read ({error}), so its copies could not be "
                        "excluded; restore or remove it"
                    ) from None
                alone = len(sources) == 1 or Path(source).name == key
                names.append(key if alone else f"{source}/{key}")
                prints.append(fingerprint(image))
                mirrored.append(perceptual_hash(ImageOps.mirror(image)))
            if len(names) == before:
                raise ArragError(f"{source}: no images there to exclude; name test images")
        return cls(names, prints, mirrored)

    def save(self, path: str | Path) -> None:
        """Write the fingerprints, to be a source of ``load``; the name must end in .prints.npz."""
        if not str(path).endswith(PRINTS):
            raise ArragError(
                f"{path}: fingerprints are known by their name; let it end in {PRINTS}"
            )
        with disk_space(path), atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                names=np.array(self.names, dtype=str),
                sha256=np.array([p.sha256 for p in self._prints], dtype=str),
                look=np.array([p.phash for p in self._prints], np.uint64),
                mirrored=np.array(self._mirrored, np.uint64),
            )

    def match(self, found: Fingerprint) -> dict[str, Any] | None:
        """Why an image is left out: the test image, the reason, the bits that differ; or None."""
        if found.sha256 in self._exact:
            name = self.names[self._exact[found.sha256]]
            return {"test_image": name, "reason": "same pixels", "bits": 0}
        differing = np.bitwise_count(self._looks ^ np.uint64(found.phash))
        nearest = int(differing.argmin())
        if differing[nearest] > NEAR:
            return None
        mirror, number = divmod(nearest, len(self.names))
        reason = "looks like its mirror image" if mirror else "looks like it"
        return {
            "test_image": self.names[number],
            "reason": reason,
            "bits": int(differing[nearest]),
        }


def _more(path, names: list, prints: list, mirrored: list) -> tuple[list, list, list]:
    """The lists and what ``save`` wrote to ``path``."""
    again = "make the fingerprints again"
    held = read_npz(path, again, ("names", "sha256", "look", "mirrored"))
    kinds = {name: (array.dtype.kind, array.shape) for name, array in held.items()}
    count = held["names"].shape
    if len(count) != 1 or kinds != {name: (kind, count) for name, kind in PRINT_KINDS.items()}:
        raise ArragError(f"{path}: holds no fingerprints; {again}")
    found = {name: array.tolist() for name, array in held.items()}
    pairs = zip(found["sha256"], found["look"], strict=True)
    return (
        names + found["names"],
        prints + [Fingerprint(*p) for p in pairs],
        mirrored + found["mirrored"],
    )
