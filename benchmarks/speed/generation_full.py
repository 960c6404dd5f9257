"""A stand-in for Janus-Pro-1B at its full size, to time where its weights are not at hand.

    python benchmarks/speed/generation_full.py standin
    arrag benchmark --config standin/config.yaml --out standin/timing.json
    arrag report table 4 --timing standin/timing.json --config standin/config.yaml \
        --out standin/table4.md

Writes a checkpoint, a FAiD adapter and a database, all of random numbers, and a configuration that
says so, which Table 4 prints. A forward takes the same time whatever its weights are; a search
depends on how codes are spread, and random ones are spread more evenly than those of images. The
tower that understands images is cut to a layer: generation never runs it. 3 GB of memory and disk
(bfloat16 on disk as half precision); the database goes where the workflow would have it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import JanusForConditionalGeneration

from arrag.backbones import micro
from arrag.config.root import load_config
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.adapter_folder import MODULES, save_config
from arrag.methods.faid.adapter import FAiD, FaidSettings
from arrag.pipeline.layout import Layout
from arrag.retrieval.index import build_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.files import write_text
from arrag.utils.hashing import tree_digest

# What shapes the time of a forward; the first is config.json of deepseek-community/Janus-Pro-1B.
SIZES = {
    "janus-pro-1b": {
        "text_config": {
            "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 5632,
            "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
        },
        "vq_config": {
            "num_embeddings": 16384, "latent_channels": 256, "base_channels": 128,
            "channel_multiplier": [1, 1, 2, 2, 4], "num_res_blocks": 2, "projection_dim": 2048,
            "image_token_embed_dim": 2048,
        },
        "vision_config": {"image_size": 384, "patch_size": 16, "projection_dim": 2048},
    },
    "tiny": {},  # the micro Janus: to try this script
}  # fmt: skip
CONFIG = """
scale: {scale}
seed: 0
generators:
  janus: {{kind: janus, checkpoint: {out}/checkpoint, guidance_scale: 5.0, dtype: {dtype}}}
database: {{source: random, images: {images}}}
index: {{mode: ivf}}
benchmarks:
  geneval: {{kind: geneval, prompts: benchmarks/geneval_micro.jsonl}}
scorers: {{detector: checkpoints/micro-detector, color: checkpoints/micro-clip}}
methods:
  vanilla: {{label: Janus-Pro-1B, paper_key: janus-pro-1b}}
  daid:
    label: + DAiD
    augment: {{kind: daid, k: 2048, lam: 0.1, tau: 0.2}}
    baseline: vanilla
    paper_key: janus-pro-1b+daid
  faid:
    label: + FAiD
    augment: {{kind: faid, adapter: {out}/adapter, k: 10}}
    baseline: vanilla
    paper_key: janus-pro-1b+faid
timing: {{images: 100, rounds: 3, max_batch: 128, weights: random}}
"""


def write_checkpoint(out: Path, size: str) -> None:
    """A Janus of random weights with the micro world's tokenizer."""
    tokenizer = micro.build_janus_tokenizer()
    config = micro.build_janus_config(tokenizer)
    for part, settings in SIZES[size].items():
        for name, value in settings.items():
            setattr(getattr(config, part), name, value)
    if size != "tiny":
        grid = config.vision_config.image_size // config.vision_config.patch_size
        config.vision_config.num_image_tokens = grid * grid
        config.vq_config.num_patches = grid
        config.text_config.max_position_embeddings = 4096
    torch.manual_seed(0)
    model = JanusForConditionalGeneration(config)
    model.generation_config.update(pad_token_id=tokenizer.pad_token_id, guidance_scale=5.0)
    boi = tokenizer.convert_tokens_to_ids(micro.MARKERS["boi_token"])
    model.generation_config.generation_kwargs = {"boi_token_id": boi}
    micro.save_janus(model, tokenizer, out)


def write_adapter(out: Path, checkpoint: Path) -> None:
    """A FAiD adapter of two modules, hops 1 and 2, of random weights."""
    from transformers import JanusConfig

    text = JanusConfig.from_pretrained(checkpoint).text_config
    digest = tree_digest(checkpoint)
    adapter = FAiD(text.hidden_size, text.num_hidden_layers, FaidSettings(context="causal"))
    out.mkdir(parents=True, exist_ok=True)
    adapter.save(out / MODULES, backbone_digest=digest, dtype=torch.float16)
    save_config(out, "faid", digest, {"random": True})


def write_database(layout: Layout, checkpoint: Path, images: int) -> None:
    """Random codes and their inverted lists, where the workflow would have them."""
    image_tokenizer, rng = load_tokenizer(checkpoint), np.random.default_rng(0)
    path, size = layout.codes("daid"), len(image_tokenizer.codebook)
    book = image_tokenizer.codebook.cpu()
    about = {
        "tokenizer_digest": image_tokenizer.digest,
        "grid": image_tokenizer.grid,
        "codebook": book,
    }
    with StoreWriter(path, **about, source="random", shard_size=1000) as writer:
        for start in range(writer.done, images, 1000):
            count = min(1000, images - start)
            names = [f"random/{i}" for i in range(start, start + count)]
            writer.add(names, rng.integers(0, size, (count, *image_tokenizer.grid)))
    build_index(
        TokenStore.open(path), layout.index("daid"), neighborhood=Neighborhood("causal"), mode="ivf"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="janus-pro-1b")
    parser.add_argument("--images", type=int, default=10_000, help="of the random database")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    checkpoint = args.out / "checkpoint"
    write_checkpoint(checkpoint, args.size)
    write_adapter(args.out / "adapter", checkpoint)
    scale = "micro" if args.size == "tiny" else "paper"
    text = CONFIG.format(scale=scale, out=args.out, images=args.images, dtype=args.dtype)
    yaml.safe_load(text)  # a path with an odd character would show here
    write_text(args.out / "config.yaml", text)
    write_database(Layout(load_config(args.out / "config.yaml")), checkpoint, args.images)
    print(f"arrag benchmark --config {args.out}/config.yaml --out {args.out}/timing.json")


if __name__ == "__main__":
    main()
