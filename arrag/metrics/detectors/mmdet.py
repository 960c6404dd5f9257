"""mmdetection as a detector (the extra ``detect``), imported only when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.metrics.detectors.mask2former_convert import read_checkpoint
from arrag.metrics.types import GENEVAL_NAMES, Detection
from arrag.utils.checkpoint import loading
from arrag.utils.device import default_device
from arrag.utils.errors import MissingError
from arrag.utils.hashing import sha256_file


class MMDetDetector:
    """A model of mmdetection 3.x from its configuration and a checkpoint (2.x or 3.x).

    GenEval ran mmdetection 2.x; 3.x pads with black after normalisation where 2.x pads with grey
    before it, which moves scores a little unless both sides of an image divide by 32.
    """

    def __init__(self, config: str | Path, checkpoint: str | Path) -> None:
        try:
            from mmdet.apis import inference_detector, init_detector
        except (ImportError, AssertionError) as error:  # mmdet asserts mmcv's version
            raise MissingError(
                f"mmdetection cannot be imported ({error})",
                field=f"mmdet:{config}:{checkpoint}",
                hint="install the extra `detect`, or convert the checkpoint with `arrag convert "
                "mask2former`",
            ) from None
        state = read_checkpoint(checkpoint)
        options = {"palette": "coco", "cfg_options": {"model.backbone.init_cfg": None}}
        hint = "give the configuration that belongs to the checkpoint"
        with loading(checkpoint, f"weights of {config}", hint):
            model = init_detector(str(config), None, device=default_device(), **options)
            model.load_state_dict(state)
        self._model, self._infer = model, inference_detector
        names = model.dataset_meta["classes"]
        self.classes = [GENEVAL_NAMES.get(name, name) for name in names]
        self.name = f"mmdet:{Path(checkpoint).stem}"
        self.digest = sha256_file(checkpoint)

    @classmethod
    def load(cls, spec: str) -> MMDetDetector:
        """Load ``mmdet:CONFIG:CHECKPOINT``."""
        _, config, checkpoint = f"{spec}::".split(":", 2)
        return cls(config, checkpoint.removesuffix("::"))

    @torch.inference_mode()
    def detect(self, images: list[np.ndarray]) -> list[list[Detection]]:
        """Detections of uint8 RGB images [H, W, 3], one image at a time."""
        # mmdetection reads files as BGR, and takes arrays to be so too.
        return [
            self._convert(self._infer(self._model, np.ascontiguousarray(image[..., ::-1])))
            for image in images
        ]

    def _convert(self, result: Any) -> list[Detection]:
        found = result.pred_instances.cpu().numpy()
        return [
            Detection(self.classes[label], float(score), tuple(map(float, box)), mask)
            for label, score, box, mask in zip(
                found.labels, found.scores, found.bboxes, found.masks.astype(bool), strict=True
            )
            if mask.any()
        ]
