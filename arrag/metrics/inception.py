"""pytorch-fid's Inception (clean-fid's ``legacy_pytorch``), from a local file of its weights.

clean-fid's own constructor downloads; this one builds the same network from clean-fid's blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arrag.utils.device import default_device
from arrag.utils.errors import ArragError

if TYPE_CHECKING:
    from arrag.metrics.extractors import Network


def load_pytorch_inception(path: str | Path) -> Network:
    """The network up to its last pooling: pixels 0 to 255, [B, 3, 299, 299] -> [B, 2048].

    Raises ArragError when the file is not pytorch-fid's state dict.
    """
    import pickle

    import torch
    import torchvision
    from cleanfid import inception_pytorch as blocks

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
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        raise ArragError(
            f"{path}: not pytorch-fid's Inception weights ({str(error).splitlines()[0]}); "
            "fetch the file again"
        ) from None
    model.fc = torch.nn.Identity()
    model.dropout = torch.nn.Identity()
    model.transform_input = False
    device = default_device()
    model = model.eval().to(device)
    return lambda pixels: model(2 * (pixels / 255) - 1)
