"""How often DAiD draws the same token from inverted lists as from an exact search.

    python benchmarks/agreement.py --images 64 --json

Takes the configured generator, database and method `daid`, and builds both indexes over the store
that the workflow made (or --codes) in a temporary folder. At every step of the run with the exact
index, the same state and the same random number are also given to the inverted lists; what they
would draw is compared, and the run continues with the exact index's token. It takes two minutes on
one core at micro scale.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.backbones.janus import JanusBackbone
from arrag.config.root import Config, load_config
from arrag.data.prompts import load_geneval_prompts
from arrag.data.token_store import TokenStore
from arrag.methods.augmentation import Augmentation
from arrag.methods.daid import DAiD
from arrag.methods.decoding import decode_raster, sample_codes, seeded_uniforms
from arrag.pipeline.layout import Layout
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood


class DrawComparison(Augmentation):
    """Augment with one method, and compare with what another would have drawn.

    Only the steps at which something is retrieved count.

    Args:
        leading: The method whose tokens are drawn.
        other: The method that it is compared with.
        draws: float64 [B, H * W], the random numbers of the run.

    Attributes:
        same_token: bool [steps * B], whether both draw the same token.
        total_variation: float [steps * B], between the two distributions.
    """

    def __init__(self, leading: DAiD, other: DAiD, draws: np.ndarray) -> None:
        self.leading, self.other, self.draws = leading, other, torch.from_numpy(draws)
        self._same_token: list[torch.Tensor] = []
        self._total_variation: list[torch.Tensor] = []

    def on_probs(
        self,
        probs: torch.Tensor,
        codes: torch.Tensor,
        known: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        ours = self.leading.on_probs(probs, codes, known, positions)  # [B, 1, V]
        theirs = self.other.on_probs(probs, codes, known, positions)
        if not torch.equal(ours, probs):
            u = self.draws[:, int(positions[0])]
            self._same_token.append(sample_codes(ours[:, 0], u) == sample_codes(theirs[:, 0], u))
            self._total_variation.append((ours - theirs).abs().sum(-1)[:, 0] / 2)
        return ours

    @property
    def same_token(self) -> torch.Tensor:
        return torch.cat(self._same_token)

    @property
    def total_variation(self) -> torch.Tensor:
        return torch.cat(self._total_variation)


def agreement(
    backbone: Any,
    exact: PatchIndex,
    lists: PatchIndex,
    prompts: Sequence[str],
    config: Config,
    *,
    k: int,
    lam: float,
    tau: float,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Share of the steps with the same token, and the mean distance of the distributions."""
    count = backbone.grid[0] * backbone.grid[1]
    methods = [DAiD(index, k=k, lam=lam, tau=tau) for index in (exact, lists)]
    same_token, total_variation = [], []
    for start in range(0, len(prompts), batch_size):
        some = list(prompts[start : start + batch_size])
        draws = np.stack(
            [
                seeded_uniforms(config.seed, prompt, start + i, count)
                for i, prompt in enumerate(some)
            ]
        )
        comparison = DrawComparison(*methods, draws)
        decode_raster(
            backbone,
            some,
            draws,
            guidance_scale=config.generators["janus"].guidance_scale,
            temperature=config.generators["janus"].temperature,
            augmentation=comparison,
        )
        same_token.append(comparison.same_token)
        total_variation.append(comparison.total_variation)
    together = torch.cat(same_token)
    return {
        "images": len(prompts),
        "steps": len(together),
        "same_token": together.double().mean().item(),
        "mean_total_variation": torch.cat(total_variation).double().mean().item(),
    }


def both_indexes(store: TokenStore, folder: Path, **options: Any) -> list[PatchIndex]:
    """The same entries searched exactly and in inverted lists."""
    indexes = []
    for mode in ("exact", "ivf"):
        options |= {"neighborhood": Neighborhood("causal"), "mode": mode, "progress": False}
        build_index(store, folder / mode, **options)
        indexes.append(open_index(folder / mode, store))
    return indexes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="config/micro.yaml")
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    config = load_config(args.config)
    daid = config.method("daid").augment
    prompts = [prompt["prompt"] for prompt in load_geneval_prompts(config.benchmark().prompts)]
    prompts = [prompts[i * len(prompts) // args.images] for i in range(args.images)]
    backbone = JanusBackbone.load(
        config.generators["janus"].checkpoint, config.generators["janus"].dtype
    )
    store = TokenStore.open(args.codes or Layout(config).codes("daid"))
    with tempfile.TemporaryDirectory() as folder:
        exact, lists = both_indexes(store, Path(folder), nprobe=config.index.nprobe)
        options = {"k": daid.k, "lam": daid.lam, "tau": daid.tau}
        result = agreement(backbone, exact, lists, prompts, config, **options)
        result |= options | {name: lists.info()[name] for name in ("entries", "nlist", "nprobe")}
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
