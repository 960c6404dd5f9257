"""Search by tensors against the compiled loops: the same bits, here on the processor's tensors."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_index import SIGNS, UNIT, make_index, make_store, smooth_grids, some_queries
from torch.utils._python_dispatch import TorchDispatchMode

import arrag.retrieval.device
from arrag.retrieval.device import GridScan, ListScan, device_scan, nearest
from arrag.retrieval.neighborhood import MISSING, Neighborhood

CPU = torch.device("cpu")
KINDS = [
    Neighborhood("causal"),
    Neighborhood("causal", (1, 2), "zero"),
    Neighborhood("full", 1, "zero", masked_distance=True),
    Neighborhood("full", 2),
]
PARTS = ("distances", "entries", "codes")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("device")
    turn = np.linspace(0, 3, 64)
    book = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    made = {"smooth": make_store(path / "smooth", smooth_grids(60), book, shard_size=25)}
    for name, codes in (("sign", SIGNS), ("unit", UNIT)):
        grids = rng.integers(0, len(codes), (60, 6, 7)).astype(np.uint16)
        made[name] = make_store(path / name, grids, codes, shard_size=25)
    return made


def agree(index, scan, queries, k):
    k = min(k, index.meta.entries)
    want = index.search_keys(queries, k)
    loops, index._scan = index._scan, scan
    try:
        found = index.search_keys(queries, k)
    finally:
        index._scan = loops
    for part in PARTS:
        assert torch.equal(getattr(found, part), getattr(want, part)), part


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", ["smooth", "sign", "unit"])
@pytest.mark.parametrize("chunk", [2**18, 1500])
def test_tensors_find_what_loops_find(stores, tmp_path, monkeypatch, kind, name, chunk):
    monkeypatch.setitem(arrag.retrieval.device.CHUNK, "cpu", chunk)
    store = stores[name]
    queries = some_queries(kind, len(store.codebook), count=12)
    queries[3] = MISSING
    queries[4] = queries[5]
    exact = make_index(store, tmp_path / "exact", kind)
    for k in (1, 40, 700):
        agree(exact, GridScan(exact, CPU, resident=k == 40).scan, queries, k)
    ivf = make_index(store, tmp_path / "ivf", kind, mode="ivf", nlist=16, nprobe=3)
    for k in (1, 40, 700):  # of which three lists hold fewer
        agree(ivf, ListScan(ivf, CPU).scan, queries, k)
    if name == "sign":
        hamming = make_index(store, tmp_path / "hamming", kind, mode="hamming")
        agree(hamming, device_scan(hamming, CPU), queries, 40)


@pytest.mark.slow  # a C++ or GPU compiler runs
def test_fused_bounds_are_the_same(stores, tmp_path):
    index = make_index(stores["unit"], tmp_path / "i", Neighborhood("causal"))
    queries = some_queries(index.neighborhood, 31, count=3)
    agree(index, GridScan(index, CPU, compiled=True).scan, queries, 30)


def test_what_needs_the_host_stays_there(stores, tmp_path):
    causal = Neighborhood("causal")
    theirs = make_index(stores["unit"], tmp_path / "f", causal, mode="faiss:Flat")
    assert device_scan(theirs, CPU) == theirs._scan
    lists = make_index(stores["unit"], tmp_path / "i", causal, mode="ivf")
    assert device_scan(lists, CPU) == lists._scan  # a processor has no free device memory


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
    grids = np.zeros((300, 12, 12), np.uint16)  # all of them tie: every entry is a candidate
    grids[1::2] = 1
    store = make_store(tmp_path / "s", grids, UNIT, shard_size=300)
    index = make_index(store, tmp_path / "i", Neighborhood("causal"), mode=mode, nlist=2, nprobe=2)
    scanner = GridScan(index, CPU) if mode == "exact" else ListScan(index, CPU)
    keys = np.full((1, 4), 2)
    with Largest() as largest:
        found = scanner.scan(keys, 100)
    assert largest.elements <= 6 * 2**12 < index.meta.entries
    assert np.array_equal(np.sort(found[1][0]), np.sort(index._scan(keys, 100)[1][0]))


def test_ties_go_to_the_lower_entry():
    distances = torch.tensor([[3.0, 1, 2, 1, 2, 2, torch.inf]])
    entries = torch.tensor([[5, 9, 8, 4, 7, 6, -1]])
    found = nearest((distances, entries, entries + 10), 4)
    assert found[0].tolist() == [[1, 1, 2, 2]]
    assert found[1].tolist() == [[4, 9, 6, 7]]
    assert found[2].tolist() == [[14, 19, 16, 17]]
    assert nearest((distances, entries, entries), 9)[1].tolist() == [[4, 9, 6, 7, 8, 5, -1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["exact", "ivf", "hamming", "faiss:Flat"])
def test_codes_on_a_gpu_are_searched_there(stores, tmp_path, mode):
    store = stores["sign" if mode == "hamming" else "smooth"]
    index = make_index(store, tmp_path / "i", Neighborhood("causal"), mode=mode, nlist=8, nprobe=3)
    codes = torch.from_numpy(store.grids(np.arange(9)).astype(np.int64))
    known = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    positions = torch.arange(0, 40, 3)
    want = index.search(codes, known, positions, 30)
    found = index.search(codes.cuda(), known.cuda(), positions.cuda(), 30)
    for part in PARTS:
        assert getattr(found, part).is_cuda
        assert torch.equal(getattr(found, part).cpu(), getattr(want, part))


def test_the_benchmark_refuses_without_a_gpu(root):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    script = [sys.executable, str(root / "benchmarks/speed/retrieval_gpu.py"), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "needs a CUDA GPU" in done.stderr
    assert "Traceback" not in done.stderr
