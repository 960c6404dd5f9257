"""The micro detector: torchvision's Mask R-CNN with a small backbone, for 48-pixel scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from arrag.metrics.types import Detection
from arrag.utils.checkpoint import loading
from arrag.utils.files import read_json, write_json
from arrag.utils.hashing import tree_digest
from arrag.utils.outputs import atomic_path

WIDTH = 64
INPUT = 96  # scenes are scaled to this many pixels


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return torch.relu(x + self.body(x))


def _backbone() -> nn.Module:
    """3 -> 64 channels at a stride of 4."""
    layers = []
    for inputs, width, blocks in ((3, 32, 1), (32, WIDTH, 3)):
        layers += [nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [_Residual(width) for _ in range(blocks)]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = WIDTH
    return backbone


def build_detector(classes: int) -> MaskRCNN:
    """A freshly initialised network for ``classes`` classes (background not counted)."""
    regions = 7
    return MaskRCNN(
        _backbone(),
        rpn_anchor_generator=AnchorGenerator(((20, 36, 64),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], regions, 2),
        box_head=TwoMLPHead(WIDTH * regions**2, 256),
        box_predictor=FastRCNNPredictor(256, classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        mask_head=MaskRCNNHeads(WIDTH, (WIDTH,), 1),
        mask_predictor=MaskRCNNPredictor(WIDTH, 32, classes + 1),
        min_size=INPUT,
        max_size=INPUT,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        # Objects of a scene never overlap much; a stricter suppression stops double counts.
        box_nms_thresh=0.4,
        box_score_thresh=0.05,
        box_detections_per_img=32,
    )


class MicroDetector:
    """Detector of the micro world's classes."""

    def __init__(self, model: MaskRCNN, classes: list[str], name: str, digest: str):
        self.model, self.classes, self.name, self.digest = model.eval(), classes, name, digest

    @classmethod
    def load(cls, path: str | Path) -> MicroDetector:
        """Load a directory written by :func:`save_detector`."""
        path = Path(path)
        classes = read_json(path / "config.json")["classes"]
        model = build_detector(len(classes))
        weights = path / "model.safetensors"
        hint = "restore it from the repository, or train it with `snakemake train_micro`"
        with loading(weights, "this detector", hint):
            model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        return cls(model, classes, path.name, tree_digest(path))

    @torch.inference_mode()
    def detect(self, images: list[np.ndarray]) -> list[list[Detection]]:
        """uint8 images [H, W, 3] -> detections of each, best first, boxes in pixels."""
        found = []
        for start in range(0, len(images), 16):
            chunk = images[start : start + 16]
            tensors = [torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in chunk]
            for result in self.model(tensors):
                rows = (result[key].tolist() for key in ("labels", "scores", "boxes"))
                rows = zip(*rows, (result["masks"][:, 0] > 0.5).numpy(), strict=True)
                found.append(
                    [Detection(self.classes[c - 1], s, tuple(box), m) for c, s, box, m in rows]
                )
        return found


def save_detector(model: MaskRCNN, classes: list[str], out: str | Path) -> None:
    """Write config.json and half-precision model.safetensors to the directory ``out``."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    with atomic_path(out) as partial:
        partial.mkdir()
        config = {"model_type": "maskrcnn", "classes": classes, "input_size": INPUT}
        write_json(partial / "config.json", config)
        save_file({k: v.contiguous() for k, v in state.items()}, partial / "model.safetensors")
