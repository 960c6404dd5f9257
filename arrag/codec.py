"""Images to codes to vectors and back: the tokenizer of a Janus checkpoint.

The quantiser is the original one (FoundationVision/LlamaGen): encoder output and codebook rows
are L2-normalised before the nearest row is taken. transformers' ``JanusVQVAE.encode`` leaves the
normalisation out, which gives other codes wherever the codebook's rows differ in norm.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from transformers import JanusConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from arrag.errors import ArragError
from arrag.files import read_json

PREFIX = "model.vqmodel."


class Codec:
    """A VQ tokenizer in evaluation mode, float32.

    image_size: pixels a side; grid: (H, W) codes; codebook: float32 [V, d], unit rows;
    digest: SHA-256 of the tokenizer's weights, whatever language model they came with.
    """

    def __init__(self, vqmodel: JanusVQVAE, image_size: int, digest: str):
        self.vqmodel = vqmodel.eval().requires_grad_(False)
        self.image_size = image_size
        side = vqmodel.quantize.quant_state_dims[0]
        self.grid = (side, side)
        self.codebook = F.normalize(vqmodel.quantize.embedding.weight.detach().float(), dim=1)
        self.digest = digest

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 images [B, S, S, 3] -> int64 codes [B, H, W].

        Raises ArragError for images of another size: resizing is the caller's decision.
        """
        if images.shape[1:] != (self.image_size, self.image_size, 3):
            raise ArragError(
                f"encode: images are {images.shape[1:]}, the tokenizer takes "
                f"({self.image_size}, {self.image_size}, 3); resize and crop them first"
            )
        device = self.codebook.device
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self._in_chunks(self._encode, pixels)

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor) -> np.ndarray:
        """int64 codes [B, H, W] -> uint8 images [B, S, S, 3]."""
        codes = codes.to(self.codebook.device).flatten(1)
        pixels = self._in_chunks(self.vqmodel.decode, codes)  # [B, 3, S, S]
        pixels = (pixels.clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latent = self.vqmodel.quant_conv(self.vqmodel.encoder(pixels))  # [B, d, H, W]
        unit = F.normalize(latent, dim=1).permute(0, 2, 3, 1)  # [B, H, W, d]
        # Among unit vectors the nearest in L2 is the one of largest inner product.
        return (unit @ self.codebook.T).argmax(-1)

    def _in_chunks(self, function, batch: torch.Tensor) -> torch.Tensor:
        """Apply ``function`` to a batch; on a CPU to one image at a time.

        The library's convolutions round differently for another batch size, enough to move a
        pixel by one; alone, an image is what it is, and on one core no time is lost.
        """
        size = 1 if batch.device.type == "cpu" else len(batch)
        return torch.cat([function(part) for part in batch.split(size)])


def load_codec(checkpoint: str | Path, device: str = "cpu") -> Codec:
    """Load only the tokenizer of a Janus checkpoint directory (config.json, *.safetensors).

    Raises ArragError for a missing or truncated checkpoint, naming the file.
    """
    checkpoint = Path(checkpoint)
    raw = read_json(checkpoint / "config.json")
    if raw.get("model_type") != "janus":
        raise ArragError(
            f"{checkpoint / 'config.json'}: model_type is {raw.get('model_type')!r}, expected "
            "'janus'; give the folder of a Janus checkpoint in transformers' format"
        )
    config = JanusConfig.from_dict(raw)
    state = read_tensors(checkpoint, PREFIX)
    vqmodel = JanusVQVAE(config.vq_config)
    try:
        vqmodel.load_state_dict({k: v.float() for k, v in state.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ArragError(
            f"{checkpoint}: the weights do not fit its config.json ({first}); fetch both again"
        ) from None
    return Codec(vqmodel.to(device), config.vision_config.image_size, digest_tensors(state))


def read_tensors(checkpoint: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a directory's safetensors files whose name starts with ``prefix``, without it."""
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise ArragError(f"{checkpoint}: holds no .safetensors file; fetch the checkpoint again")
    tensors = {}
    for file in files:
        try:
            with safe_open(file, "pt") as handle:
                names = [name for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118
                tensors |= {name[len(prefix) :]: handle.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise ArragError(
                f"{file}: truncated or damaged ({error}); restore it and run again"
            ) from None
    return tensors


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Hex SHA-256 of names, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
