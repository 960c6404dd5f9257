"""Peak memory of a FAiD training step at the size of Janus-Pro-1B, beside what copies would take.

    python benchmarks/speed/faid_memory.py --images 1 2 --json

Random weights, two decoder layers with a module each, hidden size 2048, 576 tokens, K = 10, hops
1 and 2, bf16 autocast; the adapter alone is trained. Each row is a process of its own, so that
its peak is its own. "extra" is a step's peak with the adapter minus the peak without, weights of
the adapter (fp32) and their gradients included. On a CPU (Linux) a row takes
minutes; on a GPU seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig

from arrag.backbones.janus import JanusBackbone
from arrag.backbones.micro import build_janus_tokenizer
from arrag.methods.faid.adapter import FAiD, FaidSettings

HIDDEN, SIDE, CODES, LAYERS, PROMPT = 2048, 24, 16384, 2, 16
MIB = 2**20


def backbone(device: str) -> JanusBackbone:
    """Two layers of Janus-Pro-1B with random weights; the unused parts are small."""
    tokenizer = build_janus_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=5632,
        num_hidden_layers=LAYERS, num_attention_heads=16, num_key_value_heads=16,
    )  # fmt: skip
    vision = {
        "image_size": SIDE * 16, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_dim": HIDDEN, "depth": 1, "mlp_ratio": 1.0,
    }  # fmt: skip
    vq = {
        "num_embeddings": CODES, "embed_dim": 8, "latent_channels": 32, "base_channels": 32,
        "channel_multiplier": [1], "num_res_blocks": 1, "projection_dim": HIDDEN,
        "image_token_embed_dim": HIDDEN, "num_patches": SIDE,
    }  # fmt: skip
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq)
    torch.manual_seed(0)
    model = JanusForConditionalGeneration(config).to(torch.bfloat16).to(device)
    return JanusBackbone(model, tokenizer)


def one_step(images: int, with_adapter: bool, k: int, device: str) -> float:
    """Peak MiB above the backbone's own weights of one forward and backward."""
    generator = backbone(device)
    start = reset(device)
    prompts = (torch.ones(images, PROMPT, dtype=torch.long, device=device),) * 2
    codes = torch.randint(0, CODES, (images, SIDE * SIDE), device=device)
    if with_adapter:
        adapter = FAiD(HIDDEN, LAYERS, FaidSettings(k=k)).to(device)
        adapter.attach(generator)
        adapter.set_retrieved(torch.randint(0, CODES, (images, SIDE * SIDE, k), device=device))
    else:  # something must ask for a gradient: the head, as in the authors' training
        generator.model.model.generation_head.requires_grad_(True)
    with torch.autocast(device, torch.bfloat16):
        logits = generator.teacher_forced(prompts, codes)
        loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
    loss.backward()
    return peak(device) - start


def reset(device: str) -> float:
    """MiB held now; the peak is counted from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is held now
    return peak(device)


def peak(device: str) -> float:
    """Most MiB this process has held since :func:`reset`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def copies(images: int, k: int) -> float:
    """MiB of the windows of both hops alone, copied for each patch in bf16, for one module."""
    return images * SIDE**2 * k * (9 + 25) * HIDDEN * 2 / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["with", "without"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(one_step(args.images[0], args.only == "with", args.k, args.device))
        return
    rows = []
    for images in args.images:
        found = {}
        for only in ("with", "without"):
            command = [sys.executable, __file__, "--images", str(images), "--k", str(args.k)]
            command += ["--device", args.device, "--only", only]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[only] = float(done.stdout.split()[-1])
        rows.append({
            "images": images,
            "extra_mib": round(found["with"] - found["without"]),
            "without_mib": round(found["without"]),
            "copied_windows_mib": round(copies(images, args.k) * LAYERS),
        })  # fmt: skip
        print(rows[-1] if not args.json else "", file=sys.stderr)
    result = {"device": args.device, "k": args.k, "rows": rows}
    if len(rows) > 1:
        (first, last), span = (rows[0], rows[-1]), rows[-1]["images"] - rows[0]["images"]
        result["extra_mib_an_image"] = round((last["extra_mib"] - first["extra_mib"]) / span)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
