"""Search and build, compared with FAISS in the same run: one core, CPU time, medians.

    python benchmarks/speed/retrieval.py --json

The first run fetches pictures and makes their codes (ten minutes), which stay in --work, as do
retrieval.json and retrieval.md. A run of seconds without a network:
--patches 50000 --codes 512 --assets data/micro --repeats 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from patches import make_store
from retrieval_build import build_memory, layout_speed
from retrieval_faiss import Baseline, flat_index, inverted, official

from arrag.data.token_store import TokenStore
from arrag.methods.daid import retrieval_distribution
from arrag.retrieval.base import PatchIndex
from arrag.retrieval.distances import empty_heap
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.ivf import IvfIndex
from arrag.retrieval.keys import KeyExtractor
from arrag.retrieval.neighborhood import Neighborhood
from arrag.retrieval.verify import distances_to
from arrag.utils.files import read_json, write_json, write_text

NEIGHBORHOOD = Neighborhood("causal")
K, TAU, NPROBE, QUERIES = 50, 1.0, 42, 64
BATCHES = (1, 16)
ROWS = (5, 6, 7)
"""Of the grids that are gone through in raster order when whole steps are timed."""
TIE = 1e-5
LOWEST = {
    "exact, times faster than faiss Flat, batch 1": 15,
    "ivf recall@50": 0.95,
    "ivf scan, times faster than IVFFlat's, batch 16": 4,
    "ivf step, times faster than IVFFlat's, batch 16": 2.5,
    "ivf step, times faster than IVFPQ's, batch 16": 1.4,
    "ivf recall@50 above IVFPQ's": 0.2,
    "layout, million entries a second": 5,
}
HIGHEST = {
    "exact, largest difference from Flat's distances": 1e-4,
    "exact, bytes a patch": 2,
    "ivf share of the entries scanned": 0.012,
    "ivf bytes a patch scanned": 10,
    "build peak memory above the libraries', all patches over a quarter": 1.5,
}
Runs = dict[tuple[str, str, int], Callable[[], int]]
"""By method, stage and batch: something to time, which returns how many queries it made."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("results/speed"))
    parser.add_argument("--patches", type=int, default=5_060_000)
    parser.add_argument("--codes", type=int, default=16384, help="size of the codebook")
    parser.add_argument("--assets", type=Path, help="the micro world's pictures, for a smoke run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    one_thread()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    store, query_grids = make_store(args.work, args.patches, args.codes, args.assets)
    result: dict[str, Any] = {"patches": len(store) * 506, "codes": args.codes, "k": K, "tau": TAU}
    exact = open_or_build(store, args.work, "exact")
    ivf = open_or_build(store, args.work, "ivf")
    result |= {"nlist": ivf.meta.nlist, "nprobe": ivf.nprobe}
    figures = compare(store, query_grids, exact, ivf, args.repeats, result)
    figures["layout, million entries a second"] = layout_speed(store, ivf, args.work)
    result["build"], ratio = build_memory(store, args.work)
    figures["build peak memory above the libraries', all patches over a quarter"] = ratio
    result["figures"] = {name: round(value, 4) for name, value in figures.items()}
    write_json(args.work / "retrieval.json", result)
    write_text(args.work / "retrieval.md", markdown(result))
    print(json.dumps(result) if args.json else markdown(result))


def one_thread() -> None:
    """Restart with libraries that use one thread: they read this when they are loaded."""
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")]
    if any(os.environ.get(name) != "1" for name in names):
        os.environ |= dict.fromkeys(names, "1")
        os.execv(sys.executable, [sys.executable, *sys.argv])


def open_or_build(store: TokenStore, work: Path, mode: str) -> PatchIndex:
    """The index, built at the first run."""
    path = work / f"{mode}-{store.digest[:10]}"
    if not path.exists():
        build_index(store, path, neighborhood=NEIGHBORHOOD, mode=mode)
    lists = read_json(path / "meta.json").get("nlist")
    return open_index(path, store, nprobe=lists and min(NPROBE, lists))


def compare(
    store: TokenStore,
    query_grids: np.ndarray,
    exact: PatchIndex,
    ivf: IvfIndex,
    repeats: int,
    result: dict[str, Any],
) -> dict[str, float]:
    """Time and quality of all methods, into ``result["rows"]``; the figures that have a bar."""
    keys = query_keys(store, query_grids)
    flat = Baseline(store, flat_index(store, NEIGHBORHOOD), "faiss Flat", 128)
    rivals = [
        inverted(store, ivf, "IVFFlat", 128 + 8),
        inverted(store, ivf, "IVFPQ 8x8", 8 + 8),
        official(store, NEIGHBORHOOD, ivf.meta.nlist),
    ]
    micro = timed(all_runs(query_grids, keys, exact, ivf, flat, rivals), repeats)
    want = exact.search_keys(torch.from_numpy(keys), K)
    result["rows"] = []
    for method in (exact, ivf, flat, *rivals):
        name = method.name if isinstance(method, Baseline) else f"arrag {method.meta.mode}"
        row = {"method": name, **quality(exact, keys, method, want)}
        row["bytes a patch"] = (
            method.size if isinstance(method, Baseline) else method.meta.bytes_per_patch
        )
        times = {
            f"{stage}, batch {b}": t for (whose, stage, b), t in micro.items() if whose == name
        }
        result["rows"].append(row | times)
    rows = {row["method"]: row for row in result["rows"]}
    ours, plain, pq = rows["arrag ivf"], rows["faiss IVFFlat"], rows["faiss IVFPQ 8x8"]
    difference = np.abs(flat.search(keys)[0] - want.distances.numpy()).max()
    share = scan_lists(ivf, keys)().mean() / ivf.meta.entries
    seconds = rows["arrag exact"]["search, batch 1"] / 1e6
    return {
        "exact, GB of grids a second, batch 1": 2 * store_codes(store) / seconds / 1e9,
        "exact, times faster than faiss Flat, batch 1": rows["faiss Flat"]["search, batch 1"]
        / rows["arrag exact"]["search, batch 1"],
        "exact, largest difference from Flat's distances": float(difference),
        "exact, bytes a patch": exact.meta.bytes_per_patch,
        "ivf recall@50": ours["recall"],
        "ivf share of the entries scanned": float(share),
        "ivf bytes a patch scanned": ivf.meta.bytes_per_patch,
        "ivf scan, times faster than IVFFlat's, batch 16": plain["scan, batch 16"]
        / ours["scan, batch 16"],
        "ivf step, times faster than IVFFlat's, batch 16": plain["step, batch 16"]
        / ours["step, batch 16"],
        "ivf step, times faster than IVFFlat's, batch 1": plain["step, batch 1"]
        / ours["step, batch 1"],
        "ivf step, times faster than IVFPQ's, batch 16": pq["step, batch 16"]
        / ours["step, batch 16"],
        "ivf recall@50 above IVFPQ's": ours["recall"] - pq["recall"],
    }


def store_codes(store: TokenStore) -> int:
    """How many codes the grids hold."""
    return len(store) * store.grid[0] * store.grid[1]


def all_runs(query_grids, keys, exact, ivf, flat, rivals) -> Runs:
    """Everything to time; stages of a step are timed apart as well."""
    runs: Runs = {}
    size = len(ivf.store.codebook)
    for batch in BATCHES:
        parts = [keys[i : i + batch] for i in range(0, len(keys), batch)]
        few = parts[: max(1, 8 // batch)]
        tensors = [torch.from_numpy(part) for part in parts]
        runs["faiss Flat", "search", batch] = over(few, flat.search)
        runs["arrag exact", "search", batch] = over(
            tensors[: len(few)], lambda part: exact.search_keys(part, K), exact
        )
        runs["arrag ivf", "search", batch] = over(
            tensors, lambda part: ivf.search_keys(part, K), ivf
        )
        runs["arrag ivf", "coarse", batch] = over(parts, ivf._probes)
        scans = [scan_lists(ivf, part) for part in parts]
        runs["arrag ivf", "scan", batch] = over(parts, scans)
        runs["arrag ivf", "step", batch] = steps(
            query_grids,
            size,
            batch,
            lambda codes, known, at: distances_and_codes(ivf.search(codes, known, at, K)),
            ivf,
        )
        for rival in rivals:
            runs[rival.name, "search", batch] = over(parts, rival.search)
            runs[rival.name, "scan", batch] = over(parts, [rival.scan(part) for part in parts])
            runs[rival.name, "step", batch] = steps(query_grids, size, batch, rival.step)
    return runs


def over(parts: list, run: Any, index: PatchIndex | None = None) -> Callable[[], int]:
    """Run something on every part, or one thing a part; see ``clear_row_cache`` for the index."""

    def go() -> int:
        clear_row_cache(index)
        for i, part in enumerate(parts):
            run[i]() if isinstance(run, list) else run(part)
        return sum(len(part) for part in parts)

    return go


def clear_row_cache(index: PatchIndex | None) -> None:
    """Rows of distances that the last repeat left would come for nothing."""
    if index is not None:
        index._row_of[:], index._cached = -1, 0


def scan_lists(ivf: IvfIndex, keys: np.ndarray) -> Callable[[], np.ndarray]:
    """The scan alone, with lists and rows of distances at hand; returns entries scanned [Q]."""
    probes, rows = ivf._probes(keys), ivf._rows(keys)
    rows = (rows[0].copy(), *rows[1:])  # the index uses its own again
    return lambda: ivf._scan_probes(*probes, *rows, empty_heap(len(keys), K))


def steps(
    query_grids: np.ndarray,
    size: int,
    batch: int,
    search: Callable[..., Any],
    index: PatchIndex | None = None,
) -> Callable[[], int]:
    """Whole steps of a decoder: query, search, distribution, position by position."""
    codes = torch.from_numpy(query_grids[:batch].astype(np.int64))

    def go() -> int:
        queries = 0
        clear_row_cache(index)
        for row in ROWS[: 2 if batch > 1 else None]:
            for column in range(1, codes.shape[2] - 1):
                at = row * codes.shape[2] + column
                known = torch.zeros_like(codes, dtype=torch.bool)
                known.flatten(1)[:, :at] = True
                distances, values = search(codes, known, torch.tensor([at]))
                retrieval_distribution(distances, values, size, TAU)
                queries += batch
        return queries

    return go


def distances_and_codes(found: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the distribution is made of."""
    return found.distances, found.codes


def timed(runs: Runs, repeats: int) -> dict[tuple[str, str, int], float]:
    """Median CPU microseconds a query; in turn, so that a drift of the machine is shared."""
    seconds: dict[tuple[str, str, int], list[float]] = {key: [] for key in runs}
    for repeat in range(repeats + 1):
        for key, run in runs.items():
            begun = time.process_time()
            queries = run()
            if repeat:
                seconds[key].append((time.process_time() - begun) / queries)
    return {key: round(1e6 * statistics.median(values), 1) for key, values in seconds.items()}


def query_keys(store: TokenStore, query_grids: np.ndarray) -> np.ndarray:
    """Codes around random patches of pictures that are not in the store: int64 [QUERIES, n]."""
    rng = np.random.default_rng(0)
    around = NEIGHBORHOOD.neighbor_index(*store.grid)[KeyExtractor(store, NEIGHBORHOOD).positions]
    images, places = (
        rng.integers(0, len(query_grids), QUERIES),
        rng.integers(0, len(around), QUERIES),
    )
    return query_grids.reshape(len(query_grids), -1)[images[:, None], around[places]].astype(
        np.int64
    )


def quality(exact: PatchIndex, keys: np.ndarray, method: Any, want: Any) -> dict[str, float]:
    """recall: share as near as the k nearest are, measured again; TV: of the distributions."""
    if isinstance(method, Baseline):
        distances, entries = method.search(keys)
        codes = method.codes(entries)
    else:
        found = method.search_keys(torch.from_numpy(keys), K)
        distances, entries, codes = (
            part.numpy() for part in (found.distances, found.entries, found.codes)
        )
    again = distances_to(exact, keys, entries)
    near = again <= want.distances[:, -1:].numpy() * (1 + TIE) + 1e-9
    both = [
        retrieval_distribution(
            torch.from_numpy(d), torch.from_numpy(c), len(exact.store.codebook), TAU
        )
        for d, c in ((distances, codes), (want.distances.numpy(), want.codes.numpy()))
    ]
    total = 0.5 * (both[0] - both[1]).abs().sum(-1).mean()
    return {"recall": round(float(near.mean()), 4), "TV": round(float(total), 4)}


def markdown(result: dict[str, Any]) -> str:
    """The tables of a run."""
    stages = [f"{s}, batch {b}" for b in BATCHES for s in ("coarse", "scan", "search", "step")]
    columns = ["method", "bytes a patch", "recall", "TV", *stages]
    lines = [
        f"{result['patches']} patches of codes of pictures, codebook {result['codes']} x 8, "
        f"{K} nearest, {result['nlist']} lists, nprobe {result['nprobe']}; "
        "CPU microseconds a query on one core, medians.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for row in result["rows"]:
        lines.append("| " + " | ".join(str(row.get(name, "")) for name in columns) + " |")
    lines += ["", "| figure | measured | bar | met |", "|---|---|---|---|"]
    for name, value in result["figures"].items():
        bar, met = "", ""
        if name in LOWEST:
            bar, met = f"at least {LOWEST[name]}", "yes" if value >= LOWEST[name] else "no"
        elif name in HIGHEST:
            bar, met = f"at most {HIGHEST[name]}", "yes" if value <= HIGHEST[name] else "no"
        lines.append(f"| {name} | {value:.4g} | {bar} | {met} |")
    lines += ["", "| build of lists, patches | peak memory, MB |", "|---|---|"]
    lines += [f"| {row['patches']} | {row['peak MB']} |" for row in result["build"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
