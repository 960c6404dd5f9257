"""Images, and the files of sources that hold them."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(seed, size=(60, 50)):
    """A PNG of noise, blurred so that it survives JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(path, files):
    """A folder of {name: bytes}."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path, files, mode="w"):
    """A tar of {name: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_tars(folder, groups):
    """One tar for each group of names, its images in the order given; the pattern of all."""
    for i, names in enumerate(groups):
        write_tar(folder / f"{i:02d}.tar", {name: picture(int(name[:5])) for name in names})
    return f"{folder}/{{00..{len(groups) - 1:02d}}}.tar"
