"""Feature networks: Inception, MobileNetV2, CLIP, any TorchScript file.

The name and the digest of an extractor are known before its weights are loaded, so a score whose
features are all cached never imports torch. The preprocessing (``arrag.metrics.preprocess``) is
part of an extractor's identity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arrag.metrics import mobilenet
from arrag.metrics.preprocess import ClipSquare, Resize299
from arrag.metrics.types import Extractor, Network
from arrag.utils.device import default_device
from arrag.utils.errors import FormatError, MissingError, UnknownNameError
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_file, tree_digest
from arrag.utils.registry import Registry

WEIGHTS = Path("data/weights")  # of the extractors that are known by name
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
CLIP_SOURCE = (
    "https://huggingface.co/openai/clip-vit-large-patch14-336 (config.json, "
    "preprocessor_config.json, model.safetensors)"
)


EXTRACTORS: Registry[Callable[[str, str], Extractor]] = Registry("feature extractor")
"""Functions of (text after the colon of ``name:text``, resizing mode)."""


@EXTRACTORS.register("inception")
def _inception(_: str, mode: str) -> Extractor:
    source = INCEPTION[mode]
    return _open_download(source.file, f"{source.url} (SHA-256 {source.sha256})", mode)


@EXTRACTORS.register("clip")
def _clip(_: str, mode: str) -> Extractor:
    return _open_download(CLIP_FOLDER, CLIP_SOURCE, mode)


def _open_download(name: str, source: str, mode: str) -> Extractor:
    path = WEIGHTS / name
    if not path.exists():
        hint = f"download {source} and put it there, or give its path as --extractor"
        raise MissingError("the weights are missing", path=path, hint=hint)
    return open_extractor(path, mode)


@EXTRACTORS.register(mobilenet.NAME)
def _mobilenet(width: str, mode: str, folder: Path = mobilenet.FOLDER) -> Extractor:
    width = width or mobilenet.DEFAULT_WIDTH
    weights = mobilenet.weights_file(folder, width)
    load = partial(mobilenet.load, weights, width)
    return Extractor(f"MobileNetV2-{width}", sha256_file(weights), Resize299(mode), load)


def open_extractor(spec: str | Path, mode: str = "clean") -> Extractor:
    """Open an extractor by name or path; its weights are read later.

    Args:
        spec: A name: ``inception`` (FID's network: the TorchScript file for mode clean,
            pytorch-fid's weights for legacy_pytorch), ``mobilenetv2:WIDTH`` (24 to 1280 features;
            320 without a width), ``clip`` (ViT-L/14@336). Or a path: a TorchScript file (.pt;
            called with pixels 0 to 255), pytorch-fid's weights (.pth), a folder of an open_clip
            or transformers CLIP.
        mode: How images are resized for Inception, MobileNetV2 and TorchScript files.

    Raises:
        ArragError: There is no such extractor, or its weights are missing.
    """
    name = str(spec)
    head, _, argument = name.partition(":")
    if head in EXTRACTORS:
        return EXTRACTORS.get(head)(argument, mode)
    if Path(head).name == mobilenet.NAME:
        return _mobilenet(argument, mode, Path(head))
    path = Path(name)
    if path.suffix in (".pt", ".pth") and path.is_file():
        load = _load_torchscript if path.suffix == ".pt" else _load_pytorch_inception
        digest = sha256_file(path)
        # The published bytes have the published name, whatever their file is called here.
        known = (Path(s.file) for s in INCEPTION.values() if digest.startswith(s.sha256))
        name = next(known, path).stem
        return Extractor(name, digest, Resize299(mode), partial(load, path))
    if (path / "open_clip_config.json").is_file():
        return _open_clip(path)
    if (path / "config.json").is_file():
        return _transformers_clip(path)
    raise UnknownNameError(
        f"no extractor {name!r}",
        field="extractor",
        hint="give inception, clip, mobilenetv2:WIDTH, a TorchScript file (.pt), pytorch-fid's "
        "weights (.pth), or the folder of a CLIP",
    )


def _load_torchscript(path: Path) -> Network:
    """Any TorchScript network; clean-fid's Inception is fed through its layers, as clean-fid does.

    TorchScript archives hold tensors and their own code, no Python pickles.
    """
    import torch

    from arrag.utils.checkpoint import loading

    with loading(path, "TorchScript", "fetch it again"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(path, map_location=default_device()).eval()
    if not hasattr(module, "layers"):
        return module
    return lambda pixels: module.layers((pixels - 128) / 128)


def _load_pytorch_inception(path: Path) -> Network:
    """pytorch-fid's Inception (clean-fid's ``legacy_pytorch``) up to its last pooling.

    clean-fid's own constructor downloads; this builds the same network from clean-fid's blocks.
    Maps pixels 0 to 255, [B, 3, 299, 299], to [B, 2048].
    """
    import torch
    import torchvision
    from cleanfid import inception_pytorch as blocks

    from arrag.utils.checkpoint import loading

    model = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    model.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
    model.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
    model.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(model, f"Mixed_{name}", blocks.FIDInceptionC(768, channels_7x7=width))
    model.Mixed_7b = blocks.FIDInceptionE_1(1280)
    model.Mixed_7c = blocks.FIDInceptionE_2(2048)
    with loading(path, "pytorch-fid's Inception weights", "fetch the file again"):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.fc = torch.nn.Identity()
    model.dropout = torch.nn.Identity()
    model.transform_input = False
    model = model.eval().to(default_device())
    return lambda pixels: model(2 * (pixels / 255) - 1)


def _open_clip(folder: Path) -> Extractor:
    """An open_clip folder; images are preprocessed as by CMMD, not by open_clip's transform."""
    file = folder / "open_clip_config.json"
    config = read_json(file)
    try:
        size = config["model_cfg"]["vision_cfg"]["image_size"]
        means = config.get("preprocess_cfg", {})
        mean, std = means.get("mean", OPENAI_MEAN), means.get("std", OPENAI_STD)
        preprocess = ClipSquare(int(size), tuple(mean), tuple(std))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"field {error} is missing or malformed", path=file) from None

    def load() -> Network:
        from arrag.data.clip import OpenClip

        return OpenClip(folder).model.encode_image

    return Extractor(folder.name, tree_digest(folder), preprocess, load)


def _transformers_clip(folder: Path) -> Extractor:
    """A transformers CLIP folder: its image tower and projection."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise FormatError(
            f"is {kind!r}, expected clip",
            path=folder / "config.json",
            field="model_type",
            hint="give the folder of a CLIP",
        )
    size = (config.get("vision_config") or config).get("image_size", 224)
    file = folder / "preprocessor_config.json"
    means: dict[str, Any] = read_json(file) if file.is_file() else {}
    mean, std = means.get("image_mean", OPENAI_MEAN), means.get("image_std", OPENAI_STD)

    def load() -> Network:
        import torch
        from transformers import CLIPModel, CLIPVisionModelWithProjection

        from arrag.utils.checkpoint import loading

        model_class = CLIPModel if kind == "clip" else CLIPVisionModelWithProjection
        with loading(folder, "a CLIP of transformers"):
            model = model_class.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        model = model.eval().to(default_device())
        tower, project = model.vision_model, model.visual_projection
        return lambda pixels: project(tower(pixel_values=pixels).pooler_output)

    preprocess = ClipSquare(int(size), tuple(mean), tuple(std))
    return Extractor(folder.name, tree_digest(folder), preprocess, load)
