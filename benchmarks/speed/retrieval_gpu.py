"""Exact search of a database of the paper's size on a GPU, against reading it once.

    python benchmarks/speed/retrieval_gpu.py --json

13.6 million grids of random codes, 15.7 GB, are made on the GPU and stay there. The limit is the
time that reading these bytes once takes in the same run. Before anything is timed, a small database
is searched on the GPU and on the processor, and must give the same.

NOT RUN YET: this was written on machines without a GPU, where only its refusal and the search
itself, by tensors of the processor, could be tested. There are no numbers to quote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.device import GridScan
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood

PAPER_IMAGES = 13_600_000
GRID, CODES, DIMENSION, K = (24, 24), 16384, 8, 50
SPARE = 8 << 30
"""Bytes that a search may need besides the grids."""


class RandomGrids(GridScan):
    """A scan of random grids that were never in a store."""

    def __init__(self, index: PatchIndex, images: int) -> None:
        self.images = images
        super().__init__(index, torch.device("cuda"), resident=True)

    def _sent(self) -> Iterator[tuple[int, torch.Tensor]]:
        generator = torch.Generator(self.device).manual_seed(0)
        for first in range(0, self.images, self._images):
            shape = (min(self._images, self.images - first), self._size + 1)
            grids = torch.empty(shape, dtype=torch.int16, device=self.device)
            yield first, grids.random_(0, CODES, generator=generator)

    def read(self) -> int:
        """Read every byte once."""
        return sum(int(grids.sum(dtype=torch.int64)) for _, grids in self._grids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=PAPER_IMAGES)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if problem := refusal(args.images):
        print(f"retrieval_gpu: error: {problem}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        result = measure(small_index(Path(folder)), args)
    print(json.dumps(result) if args.json else markdown(result))
    return 0


def refusal(images: int) -> str | None:
    """Why this machine cannot run it."""
    if not torch.cuda.is_available():
        return "needs a CUDA GPU, and torch finds none; nothing was measured"
    wanted, free = grid_bytes(images) + SPARE, torch.cuda.mem_get_info()[0]
    if wanted > free:
        return f"{images} images need {wanted} bytes of the GPU, {free} are free; lower --images"
    return None


def measure(index: PatchIndex, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a query, and as multiples of reading the grids once."""
    rng = np.random.default_rng(1)
    keys = rng.integers(0, CODES, (max(args.batches), len(index.neighborhood.offsets)))
    check(index, keys)
    result = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "images": args.images,
        "bytes": grid_bytes(args.images),
        "k": K,
        "rows": [],
    }
    scan = RandomGrids(index, args.images)
    limit = result["seconds_to_read_once"] = median_seconds(scan.read, args.repeats)
    for batch in args.batches:
        seconds = median_seconds(partial(scan.scan, keys[:batch], K), args.repeats) / batch
        row = {"batch": batch, "seconds_per_query": seconds, "times_the_limit": seconds / limit}
        result["rows"].append(row)
    return result


def check(index: PatchIndex, keys: np.ndarray) -> None:
    """Both devices must find the same entries at the same distances."""
    queries = torch.from_numpy(keys)
    here, there = index.search_keys(queries, K), index.search_keys(queries.cuda(), K)
    for part in ("distances", "entries", "codes"):
        if not torch.equal(getattr(here, part), getattr(there, part)):
            raise SystemExit(f"retrieval_gpu: error: {part} differ between GPU and processor")


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median over some runs after one that is not counted; each waits for the GPU."""
    seconds = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def small_index(folder: Path) -> PatchIndex:
    """An exact index of a few random grids, with unit vectors as Janus-Pro's codebook has."""
    rng = np.random.default_rng(0)
    book = rng.normal(size=(CODES, DIMENSION)).astype(np.float32)
    book /= np.linalg.norm(book, axis=1, keepdims=True)
    with StoreWriter(
        folder / "codes",
        tokenizer_digest="random",
        grid=GRID,
        codebook=book,
        source="random",
        shard_size=500,
    ) as writer:
        grids = rng.integers(0, CODES, (2000, *GRID)).astype(np.uint16)
        writer.add([str(i) for i in range(len(grids))], grids)
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), progress=False)
    return open_index(folder / "index", store)


def grid_bytes(images: int) -> int:
    return 2 * images * (GRID[0] * GRID[1] + 1)


def markdown(result: dict[str, Any]) -> str:
    once = f"{1e3 * result['seconds_to_read_once']:.2f} ms"
    lines = [
        f"{result['gpu']}, torch {result['torch']}: {result['images']} images, "
        f"{result['bytes'] / 1e9:.1f} GB read once in {once}",
        "",
        "| queries at once | ms a query | times the limit |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {1e3 * row['seconds_per_query']:.2f} | {row['times_the_limit']:.1f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
