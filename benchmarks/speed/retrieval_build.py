"""What building inverted lists takes, for `retrieval.py`: CPU time of the layout, peak memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from arrag.data.token_store import StoreWriter, TokenStore
from arrag.retrieval.ivf import IvfIndex
from arrag.retrieval.ivf_lists import allocated, fill
from arrag.retrieval.keys import KeyExtractor


def layout_speed(store: TokenStore, ivf: IvfIndex, work: Path) -> float:
    """Million entries a second that are written to their lists."""
    extractor, old = KeyExtractor(store, ivf.neighborhood), ivf.lists
    slot = np.full(extractor.size, -1)
    slot[extractor.positions] = np.arange(len(extractor.positions))
    images, positions = np.divmod(np.asarray(old.ids, np.int64), extractor.size)
    assigned = np.empty(len(images), np.uint32)
    assigned[images * len(extractor.positions) + slot[positions]] = np.repeat(
        np.arange(ivf.meta.nlist), np.diff(old.offsets)
    )
    seconds = []
    for _ in range(4):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            begun = time.process_time()
            codes = allocated(Path(folder) / "lists.npy", old.codes.dtype, old.codes.shape)
            ids = allocated(Path(folder) / "ids.npy", old.ids.dtype, old.ids.shape)
            fill(extractor, assigned, np.array(old.offsets[:-1]), 0, codes, ids, False)
            seconds.append(time.process_time() - begun)
    return len(images) / 1e6 / statistics.median(seconds[1:])


def build_memory(store: TokenStore, work: Path) -> tuple[list[dict[str, float]], float]:
    """Peak resident memory of building lists over a quarter of the images and over all."""
    small = work / f"quarter-{store.digest[:10]}"
    with StoreWriter(
        small,
        tokenizer_digest=store.tokenizer_digest,
        grid=store.grid,
        codebook=store.codebook,
        source="a quarter",
        shard_size=len(store.shards[0]),
    ) as writer:
        for image in range(writer.done, len(store) // 4):
            writer.add([str(image)], store.grids(np.array([image])))
    rows = [{"patches": 0, "peak MB": peak_memory("")}]
    for path, images in ((small, len(store) // 4), (store.path, len(store))):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            peak = peak_memory(
                f"build_index(TokenStore.open({str(path)!r}), {folder + '/index'!r}, mode='ivf', "
                "neighborhood=Neighborhood('causal'), progress=False)"
            )
        rows.append({"patches": images * 506, "peak MB": peak})
    base, quarter, whole = (row["peak MB"] for row in rows)
    return rows, (whole - base) / max(1.0, quarter - base)


def peak_memory(statement: str) -> float:
    """Most resident memory of a process that runs it, in MB; an empty one loads the libraries."""
    # Not getrusage: that peak begins with what the parent held.
    code = (
        "from arrag.retrieval.index import build_index\n"
        "from arrag.data.token_store import TokenStore\n"
        f"from arrag.retrieval.neighborhood import Neighborhood\n{statement}\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(int(done.stdout.split()[-1]) / 1024, 1)
