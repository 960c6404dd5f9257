"""Train the micro open_clip model that ranks whole images by a caption.

The judge's model (micro-clip) sees cut-outs and colours only, and cannot tell which scene a caption
describes; RA-CM3 needs one that can. Contrastive, both ways, on scenes and captions of the
training and the database split.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
import training_data as data
from safetensors.torch import save_file

from arrag.data.micro.world import SIZE, World
from arrag.training import loop
from arrag.utils.outputs import atomic_path

BATCH = 96
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": SIZE, "layers": 4, "width": 96, "head_width": 32, "patch_size": 12,
        },
        # The vocabulary of open_clip's tokenizer is nearly all of the file: hence the width.
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic", "resize_mode": "squash",
    },
}  # fmt: skip


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, target: torch.Tensor, scale):
    """Mean of both directions, in nats.

    image [B, d] and text [T, d]: unit vectors; target [B]: which text is the image's own. An image
    has one caption, a caption may have several images: its probability is shared among them.
    """
    logits = scale * image @ text.T  # [B, T]
    of_image = F.cross_entropy(logits, target)
    own = F.one_hot(target, len(text)).T.float()  # [T, B]
    of_text = F.cross_entropy(logits.T, own / own.sum(1, keepdim=True))
    return (of_image + of_text) / 2


def train(assets: Path, out: Path, work_dir: Path, steps: int) -> None:
    """Train for ``steps`` batches of scenes; write an open_clip directory to ``out``."""
    worlds = [World(assets, split) for split in ("training", "database")]
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG["model_cfg"]).train()
    context = CONFIG["model_cfg"]["text_cfg"]["context_length"]
    tokenizer = open_clip.SimpleTokenizer(context_length=context)

    def features(scenes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pixels = torch.from_numpy(data.images_of(scenes)).permute(0, 3, 1, 2).float()
        image = F.normalize(model.encode_image((pixels / 255 - 0.5) / 0.25), dim=-1)
        captions = [scene.caption for scene in scenes]
        distinct = sorted(set(captions))
        text = F.normalize(model.encode_text(tokenizer(distinct)), dim=-1)
        return image, text, torch.tensor([distinct.index(caption) for caption in captions])

    def loss_of_step(step: int) -> torch.Tensor:
        image, text, target = features(data.scenes(worlds[step % 2], step, BATCH))
        return contrastive_loss(image, text, target, model.logit_scale.exp().clamp(max=100))

    held = [data.validation_scenes(world, 256) for world in worlds]

    @torch.no_grad()
    def validate() -> dict:
        rows = [features(scenes) for scenes in held]
        right = [((i @ t.T).argmax(1) == y).float().mean().item() for i, t, y in rows]
        return {"caption_of_image": sum(right) / len(right)}

    loop.train(
        model,
        [{"params": model.parameters()}],
        loss_of_step,
        steps=steps,
        peak=2e-3,
        work_dir=work_dir,
        train_config={"what": "retriever", "batch": BATCH},
        validate=validate,
        validate_every=250,
    )
    with atomic_path(out) as partial:
        partial.mkdir()
        (partial / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
        state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(state, partial / "open_clip_model.safetensors")
