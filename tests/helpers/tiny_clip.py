"""A tiny open_clip model of random weights, in the folder form that arrag reads."""

import json

import open_clip
import torch
from safetensors.torch import save_file

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16,
            "layers": 1,
            "width": 16,
            "patch_size": 8,
            "head_width": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def write_tiny_clip(path):
    """Write the model to a new folder, and return its path."""
    path.mkdir()
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**CONFIG["model_cfg"])
    with torch.no_grad():  # untrained inputs all look alike: spread them
        model.token_embedding.weight.mul_(60)
        model.visual.conv1.weight.mul_(20)
        model.visual.class_embedding.zero_()
    save_file(model.state_dict(), path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    return path
