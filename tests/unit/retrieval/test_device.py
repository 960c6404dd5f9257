"""The search on a GPU against the compiled loops: the same bits, here on CPU tensors."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from patch_indexes import (
    CURVE,
    SIGNS,
    UNIT,
    assert_same_result,
    make_index,
    make_store,
    random_queries,
    random_store,
    smooth_grids,
)
from torch.utils._python_dispatch import TorchDispatchMode

import arrag.retrieval.device
from arrag.retrieval.device import GridScan, ListScan, fits, nearest
from arrag.retrieval.neighborhood import MISSING, Neighborhood

CPU = torch.device("cpu")
KINDS = [
    Neighborhood("causal"),
    Neighborhood("causal", (1, 2), "zero"),
    Neighborhood("full", 1, "zero", masked_distance=True),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    path = tmp_path_factory.mktemp("device")
    made = {"smooth": make_store(path / "smooth", smooth_grids(60), CURVE, shard_size=25)}
    for name, codes in (("sign", SIGNS), ("unit", UNIT)):
        made[name] = random_store(path / name, codes, count=60, shard_size=25)
    return made


def check_same(index, scan, queries, k):
    k = min(k, index.meta.entries)
    want = index.search_keys(queries, k)
    loops, index._scan = index._scan, scan
    try:
        assert_same_result(index.search_keys(queries, k), want)
    finally:
        index._scan = loops


@pytest.mark.parametrize(
    ("name", "kind", "chunk"),
    [("smooth", 0, 2**20), ("sign", 0, 6000), ("unit", 1, 2**20), ("unit", 2, 6000)],
)
def test_tensors_find_what_loops_find(stores, tmp_path, monkeypatch, name, kind, chunk):
    monkeypatch.setitem(arrag.retrieval.device.CHUNK, "cpu", chunk)
    store, kind = stores[name], KINDS[kind]
    queries = random_queries(kind, len(store.codebook), count=12)
    queries[3] = MISSING
    queries[4] = queries[5]
    exact = make_index(store, tmp_path / "exact", kind)
    ivf = make_index(store, tmp_path / "ivf", kind, mode="ivf", nlist=16, nprobe=3)
    for k in (1, 40, 700):  # three lists hold fewer than 700
        check_same(exact, GridScan(exact, CPU, resident=k == 40).scan, queries, k)
        check_same(ivf, ListScan(ivf, CPU).scan, queries, k)


class Largest(TorchDispatchMode):
    """The most elements of any tensor made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("mode", ["exact", "ivf"])
def test_memory_is_bounded_by_the_chunk(tmp_path, monkeypatch, mode):
    monkeypatch.setitem(arrag.retrieval.device.CHUNK, "cpu", 2**12)
    grids = np.zeros((300, 12, 12))  # all of them tie: every entry is among the nearest
    grids[1::2] = 1
    store = make_store(tmp_path / "s", grids, UNIT, shard_size=300)
    lists = {"nlist": 2, "nprobe": 2} if mode == "ivf" else {}
    index = make_index(store, tmp_path / "i", Neighborhood("causal"), mode=mode, **lists)
    scan = GridScan(index, CPU).scan if mode == "exact" else ListScan(index, CPU).scan
    keys = np.full((1, 4), 2)
    with Largest() as largest:
        scan(keys, 100)
    assert largest.elements < index.meta.entries * (2 if mode == "ivf" else 1)
    check_same(index, scan, torch.from_numpy(keys), 100)


def test_ties_go_to_the_lower_entry():
    distances = torch.tensor([3.0, 1, 2, 1, 2, 2])
    entries = torch.tensor([5, 9, 8, 4, 7, 6])
    found = nearest(distances, entries, entries + 10, 4)
    assert [part.tolist() for part in found] == [[1, 1, 2, 2], [4, 9, 6, 7], [14, 19, 16, 17]]
    assert nearest(distances, entries, entries, 9)[1].tolist() == [4, 9, 6, 7, 8, 5]
    assert not fits(1, CPU)  # the memory of a processor is not that of a device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["exact", "ivf", "faiss:Flat"])
def test_codes_on_a_gpu_are_searched_there(stores, tmp_path, mode):
    store, lists = stores["smooth"], {"nlist": 8, "nprobe": 3} if mode == "ivf" else {}
    index = make_index(store, tmp_path / "i", Neighborhood("causal"), mode=mode, **lists)
    codes = torch.from_numpy(store.grids(np.arange(9)).astype(np.int64))
    known = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    positions = torch.arange(0, 40, 3)
    want = index.search(codes, known, positions, 30)
    found = index.search(codes.cuda(), known.cuda(), positions.cuda(), 30)
    for part in ("distances", "entries", "codes"):
        assert getattr(found, part).is_cuda
        assert torch.equal(getattr(found, part).cpu(), getattr(want, part))


@pytest.mark.slow
def test_the_benchmark_refuses_without_a_gpu(root):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    script = [sys.executable, str(root / "benchmarks/speed/retrieval_gpu.py"), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
