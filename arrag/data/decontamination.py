"""Keep copies of test images out of a database, by their pixels and by a perceptual hash.

A perceptual hash survives another file format, JPEG compression and resizing; test images are
hashed mirrored as well. It does not survive cropping, rotation or a picture in the picture: such
copies are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps
from tqdm import tqdm

from arrag.data.images import Fingerprint, fingerprint, open_rgb, perceptual_hash
from arrag.data.sources import open_source
from arrag.utils.errors import FormatError, MissingError, UsageError
from arrag.utils.hashing import sha256_json
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import UNREADABLE, read_npz, short_message
from arrag.utils.resource_errors import disk_space

NEAR = 6
"""Bits of 64 in which the perceptual hashes of copies may differ; of other images, about 32 do."""
PRINTS = ".prints.npz"
"""Suffix of a file of fingerprints, given in place of test images so that they are hashed once."""
KINDS = {"names": "U", "sha256": "U", "look": "u", "mirrored": "u"}  # NumPy kinds of its arrays


class Decontaminator:
    """Fingerprints of named test images, and perceptual hashes of their mirror images."""

    def __init__(self, names: list[str], prints: list[Fingerprint], mirrored: list[int]) -> None:
        self.names, self._prints = names, prints
        self._exact = {p.sha256: i for i, p in reversed(list(enumerate(prints)))}
        self._hashes = np.array([p.phash for p in prints] + mirrored, np.uint64)  # [2 M]
        self.digest = sha256_json([sorted(self._exact), NEAR])

    @classmethod
    def load(cls, sources: Sequence[str | Path]) -> Decontaminator:
        """Read the test images of some sources (see ``open_source``), or what ``save`` wrote.

        Raises:
            MissingError: A source is missing or empty.
            FormatError: An image cannot be read: its copies would not be found.
        """
        names, prints, mirrored = [], [], []
        for source in sources:
            if str(source).endswith(PRINTS):
                held = _read_prints(source)
                names += held["names"]
                prints += map(Fingerprint, held["sha256"], held["look"])
                mirrored += held["mirrored"]
                continue
            before = len(names)
            items = open_source(str(source), None, None)
            for key, load in tqdm(items, desc=f"test images {source}", unit="image"):
                try:
                    image = open_rgb(load())
                except UNREADABLE as error:
                    raise FormatError(
                        f"{key} cannot be read ({short_message(error)}), so its copies could not "
                        "be excluded",
                        path=source,
                        hint="restore or remove it",
                    ) from None
                alone = len(sources) == 1 or Path(source).name == key
                names.append(key if alone else f"{source}/{key}")
                prints.append(fingerprint(image))
                mirrored.append(perceptual_hash(ImageOps.mirror(image)))
            if len(names) == before:
                raise MissingError("no images to exclude", path=source, hint="name test images")
        return cls(names, prints, mirrored)

    def save(self, path: str | Path) -> None:
        """Write the fingerprints, to be a source of ``load``; the name must end in .prints.npz."""
        if not str(path).endswith(PRINTS):
            raise UsageError(f"the name of fingerprints must end in {PRINTS}", path=path)
        with disk_space(path), atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                names=np.array(self.names, dtype=str),
                sha256=np.array([p.sha256 for p in self._prints], dtype=str),
                look=self._hashes[: len(self.names)],
                mirrored=self._hashes[len(self.names) :],
            )

    def match(self, found: Fingerprint) -> dict[str, Any] | None:
        """Compare an image with the test images.

        Returns:
            Why the image must be left out: ``test_image``, ``reason`` and the ``bits`` that differ;
            None if it is no copy.
        """
        if found.sha256 in self._exact:
            name = self.names[self._exact[found.sha256]]
            return {"test_image": name, "reason": "same pixels", "bits": 0}
        differing = np.bitwise_count(self._hashes ^ np.uint64(found.phash))
        nearest = int(differing.argmin())
        if (bits := int(differing[nearest])) > NEAR:
            return None
        mirror, number = divmod(nearest, len(self.names))
        reason = "looks like its mirror image" if mirror else "looks like it"
        return {"test_image": self.names[number], "reason": reason, "bits": bits}


def _read_prints(path: str | Path) -> dict[str, list]:
    again = "make the fingerprints again"
    held = read_npz(path, again, KINDS)
    count = held["names"].shape
    found = {name: (array.dtype.kind, array.shape) for name, array in held.items()}
    if len(count) != 1 or found != {name: (kind, count) for name, kind in KINDS.items()}:
        raise FormatError("holds no fingerprints", path=path, hint=again)
    return {name: array.tolist() for name, array in held.items()}
