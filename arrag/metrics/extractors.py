"""Networks that turn images into feature vectors: Inception, MobileNetV2, CLIP, any TorchScript.

An extractor is known by its name and its weights' digest before anything is loaded, so a score
whose features are all cached never imports torch. What an image goes through before the network
(``arrag.metrics.preprocess``) is part of its identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arrag.metrics import mobilenet
from arrag.metrics.preprocess import ClipSquare, Preparation, Resize299
from arrag.utils.device import default_device
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_file, sha256_json, tree_digest

if TYPE_CHECKING:
    import torch

WEIGHTS = Path("data/weights")  # where extractors known by name lie
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Download:
    """A weights file that the user fetches: its name, address and SHA-256 (or its beginning)."""

    file: str
    url: str
    sha256: str


INCEPTION = {
    "clean": Download(
        "inception-2015-12-05.pt",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
        "inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    ),
    "legacy_pytorch": Download(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
}
CLIP_FOLDER = "clip-vit-large-patch14-336"
CLIP_SOURCE = "https://huggingface.co/openai/clip-vit-large-patch14-336"

Network = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass
class Extractor:
    """name and digest of the weights, what images go through first, and how to load the network.

    The network maps a prepared batch, float32 [B, 3, S, S], to features [B, d].
    """

    name: str
    digest: str
    preparation: Preparation
    load: Callable[[], Network] = field(repr=False)
    _network: Network | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        """What a score says of the extractor; features are cached under its digest."""
        return {
            "extractor": self.name,
            "extractor_digest": self.digest,
            "preparation": self.preparation.identity,
        }

    @property
    def key(self) -> str:
        """Hex digest of ``identity``."""
        return sha256_json(self.identity)

    def __call__(self, prepared: list[np.ndarray]) -> np.ndarray:
        """Features float32 [B, d] of prepared images [3, S, S]."""
        import torch

        if self._network is None:
            self._network = self.load()
        device = torch.device(default_device())
        with torch.inference_mode():
            features = self._network(torch.from_numpy(np.stack(prepared)).to(device))
            return features.flatten(1).float().cpu().numpy()


def open_extractor(spec: str | Path, mode: str = "clean") -> Extractor:
    """An extractor by name or path, its weights read later.

    ``inception``: FID's network, the TorchScript file for mode clean, pytorch-fid's weights for
    legacy_pytorch; ``mobilenetv2:WIDTH`` (24 to 1280 features; 320 without a width); ``clip``:
    ViT-L/14@336. Or a path: a TorchScript file (.pt; called with pixels 0 to 255), pytorch-fid's
    weights (.pth), a folder of an open_clip or transformers CLIP. Raises ArragError when it is not
    there.
    """
    name = str(spec)
    if name == "inception":
        path = WEIGHTS / INCEPTION[mode].file
        if not path.is_file():
            raise _missing_inception(path, mode)
        return open_extractor(path, mode)
    if name == "clip":
        path = WEIGHTS / CLIP_FOLDER
        if not path.is_dir():
            raise ArragError(
                f"{path}: no such folder; download {CLIP_SOURCE} (config.json, "
                "preprocessor_config.json, model.safetensors) and put it there, or give the "
                "folder as --extractor"
            )
        return open_extractor(path, mode)
    head, _, width = name.partition(":")
    if Path(head).name == mobilenet.NAME:
        width = width or mobilenet.DEFAULT_WIDTH
        folder = mobilenet.FOLDER if head == mobilenet.NAME else Path(head)
        weights = mobilenet.weights_file(folder, width)
        load = partial(mobilenet.load, weights, width)
        return Extractor(f"MobileNetV2-{width}", sha256_file(weights), Resize299(mode), load)
    path = Path(name)
    if path.suffix == ".pt" and path.is_file():
        return _torchscript(path, mode)
    if path.suffix == ".pth" and path.is_file():
        return _pytorch_inception(path, mode)
    if (path / "open_clip_config.json").is_file():
        return _open_clip(path)
    if (path / "config.json").is_file():
        return _transformers_clip(path)
    raise ArragError(
        f"{name}: no such extractor; give inception, clip, mobilenetv2:WIDTH, a TorchScript file "
        "(.pt), pytorch-fid's weights (.pth), or the folder of a CLIP"
    )


def _missing_inception(path: Path, mode: str) -> ArragError:
    source = INCEPTION[mode]
    return ArragError(
        f"{path}: FID's Inception weights for mode {mode} are not there; download {source.url} "
        f"(SHA-256 {source.sha256}{'...' if len(source.sha256) < 64 else ''}) and put it there, "
        "or give the file as --extractor"
    )


def _official(path: Path, digest: str) -> str:
    """The file's published name when its bytes are the published ones, else what it is called."""
    for source in INCEPTION.values():
        if digest.startswith(source.sha256):
            return source.file.partition(".")[0]
    return path.stem


def _torchscript(path: Path, mode: str) -> Extractor:
    """Any TorchScript network; clean-fid's Inception is fed through its layers, as clean-fid does.

    TorchScript archives hold tensors and their own code, no Python pickles.
    """

    def load() -> Network:
        import warnings

        import torch

        device = default_device()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise ArragError(f"{path}: not a TorchScript file ({error}); fetch it again") from None
        if not hasattr(module, "layers"):
            return module
        return lambda pixels: module.layers((pixels - 128) / 128)

    digest = sha256_file(path)
    return Extractor(_official(path, digest), digest, Resize299(mode), load)


def _pytorch_inception(path: Path, mode: str) -> Extractor:
    def load() -> Network:
        from arrag.metrics.inception import load_pytorch_inception

        return load_pytorch_inception(path)

    digest = sha256_file(path)
    return Extractor(_official(path, digest), digest, Resize299(mode), load)


def _open_clip(folder: Path) -> Extractor:
    """An open_clip folder; images as CMMD prepares them, not by open_clip's own transform."""
    config = read_json(folder / "open_clip_config.json")
    try:
        size = config["model_cfg"]["vision_cfg"]["image_size"]
        means = config.get("preprocess_cfg", {})
        mean, std = means.get("mean", OPENAI_MEAN), means.get("std", OPENAI_STD)
        preparation = ClipSquare(int(size), tuple(mean), tuple(std))
    except (KeyError, TypeError, ValueError) as error:
        raise ArragError(
            f"{folder}/open_clip_config.json: field {error} is missing or malformed"
        ) from None

    def load() -> Network:
        from arrag.data.clip import OpenClip

        return OpenClip(folder).model.encode_image

    return Extractor(folder.name, tree_digest(folder), preparation, load)


def _transformers_clip(folder: Path) -> Extractor:
    """A transformers CLIP folder: its image tower and projection."""
    config = read_json(folder / "config.json")
    if config.get("model_type") not in ("clip", "clip_vision_model"):
        raise ArragError(
            f"{folder}/config.json: model_type is {config.get('model_type')!r}, expected clip; "
            "give the folder of a CLIP"
        )
    size = (config.get("vision_config") or config).get("image_size", 224)
    file = folder / "preprocessor_config.json"
    means = read_json(file) if file.is_file() else {}
    mean, std = means.get("image_mean", OPENAI_MEAN), means.get("image_std", OPENAI_STD)

    def load() -> Network:
        import torch
        from transformers import CLIPModel, CLIPVisionModelWithProjection

        kind = CLIPModel if config["model_type"] == "clip" else CLIPVisionModelWithProjection
        try:
            model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise ArragError(f"{folder}: the CLIP cannot be read ({error})") from None
        model = model.eval().to(default_device())
        tower, project = model.vision_model, model.visual_projection
        return lambda pixels: project(tower(pixel_values=pixels).pooler_output)

    preparation = ClipSquare(int(size), tuple(mean), tuple(std))
    return Extractor(folder.name, tree_digest(folder), preparation, load)
