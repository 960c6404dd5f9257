"""``arrag score fid|kid|cmmd|fwd`` and ``fid-stats``: whole runs beside the official scorers."""

import json

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from PIL import Image
from refusals import refused

from arrag.cli.main import main
from arrag.config.benchmarks import FidSettings, FwdSettings
from arrag.data import mjhq
from arrag.metrics.base import ScoreOptions
from arrag.metrics.bootstrap import paired_difference
from arrag.metrics.fid import FID
from arrag.metrics.fwd import FWD
from arrag.metrics.kid import KID
from arrag.metrics.reference_stats import write_arrays
from arrag.utils.errors import FormatError, MismatchError, MissingError, UsageError
from arrag.utils.files import read_json

DIM = 6


class Network(torch.nn.Module):
    """Pixels 0 to 255 -> six features, nonlinear."""

    def __init__(self):
        super().__init__()
        self.pool, self.last = torch.nn.AdaptiveAvgPool2d(4), torch.nn.Linear(48, DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(self.pool(x / 255).flatten(1))) * 3


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network.pt"
    torch.jit.script(Network()).save(path)
    return path


def folder_of(path, seed, n, size=(20, 16)):
    rng = np.random.default_rng(seed)
    for i in range(n):
        file = path / f"{i:05d}/samples/0000.png"
        file.parent.mkdir(parents=True)
        pixels = rng.integers(0, 256 - 20 * seed, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    return folder_of(path / "a", 1, 12), folder_of(path / "b", 2, 15)


@pytest.fixture
def arrag(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; returns its JSON, or the error's text."""
    monkeypatch.chdir(tmp_path)

    def run(*words, fails=False):
        status = main([str(w) for w in words] + ["--json"])
        shown = capsys.readouterr()
        assert status == (2 if fails else 0), shown.err
        return shown.err if fails else json.loads(shown.out)

    return run


@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_fid_and_kid_are_clean_fids(arrag, sets, network, mode):
    a, b = sets
    options = ("--extractor", network, "--mode", mode)
    ours = arrag("score", "fid", a, b, *options, "--backends", "--out", "fid.json")
    given = torch.jit.load(network)
    theirs = cleanfid.compute_fid(
        str(a), str(b), mode=mode, custom_feat_extractor=given, device=torch.device("cpu"),
        num_workers=0, use_dataparallel=False, verbose=False,
    )  # fmt: skip
    assert ours["value"] == pytest.approx(theirs, rel=1e-4)
    assert ours["backends"]["clean-fid"] == pytest.approx(ours["value"], rel=1e-6)
    assert ours["backends"]["torchmetrics"] == pytest.approx(ours["value"], rel=1e-6)
    assert ours["compat"] == mode and ours["judge"]["preparation"]["resize"] == mode
    low, high = ours["interval"]
    assert low < ours["value"] < high
    saved = read_json("fid.json")
    assert len(saved["bootstrap"]["values"]) == 200
    assert {"metric", "value", "interval", "n", "judge", "reference", "versions"} <= saved.keys()

    x, y = (
        cleanfid.get_folder_features(
            str(f), given, mode=mode, num_workers=0, device=torch.device("cpu"), verbose=False
        )
        for f in (a, b)
    )
    kid = arrag("score", "kid", a, a.parent / "b", *options)
    n = (len(x), len(y))
    k = lambda p, q: (p.astype(float) @ q.T.astype(float) / DIM + 1) ** 3  # noqa: E731
    expected = (k(x, x).sum() - np.trace(k(x, x))) / (n[0] * (n[0] - 1))
    expected += (k(y, y).sum() - np.trace(k(y, y))) / (n[1] * (n[1] - 1))
    assert kid["value"] == pytest.approx(expected - 2 * k(x, y).mean(), rel=1e-3)


def test_statistics_stand_in_for_images_and_are_known_by_their_maker(arrag, sets, network):
    a, b = sets
    wide = ("--extractor", network)
    direct = {m: arrag("score", m, a, b, *wide)["value"] for m in ("fid", "kid", "cmmd")}
    for metric, value in direct.items():
        arrag("fid-stats", b, "--metric", metric, *wide, "--out", f"{metric}.npz")
        stored = arrag("score", metric, a, f"{metric}.npz", *wide)
        assert stored["value"] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert stored["n_reference"] == 15 and stored["reference"]["stated"]
    with np.load("fid.npz", allow_pickle=False) as held:  # what pytorch-fid reads
        assert held["mu"].shape == (DIM,) and held["sigma"].shape == (DIM, DIM)
    legacy = FID(FidSettings(extractor=str(network), mode="legacy_pytorch"))
    with refused(MismatchError, path="fid.npz", field="preparation"):
        legacy.score(a, "fid.npz")
    kid = KID(FidSettings(extractor=str(network)))
    with refused(MismatchError, path="cmmd.npz", field="normalised"):
        kid.score(a, "cmmd.npz")
    with refused(MissingError, path="fid.npz"):  # moments only
        kid.score(a, "fid.npz")
    assert arrag("score", "fid", "fid.npz", "fid.npz")["value"] == pytest.approx(0, abs=1e-9)


def test_moments_and_features_of_other_programs(arrag):
    one, two = np.array([1.0, 2.0]), np.array([4.0, 6.0])
    np.savez("one.npz", mu=one, sigma=np.diag([4.0, 1.0]))
    np.savez("two.npz", mu=two, sigma=np.diag([9.0, 1.0]))
    found = arrag("score", "fid", "one.npz", "two.npz")
    assert found["value"] == pytest.approx(25 + 1, abs=1e-9)
    assert found["interval"] is None and found["n"] is None
    assert "nothing says which extractor" in found["warnings"][0]
    np.save("e0.npy", np.eye(2)[:1])
    np.save("e1.npy", np.eye(2)[1:])
    value = arrag("score", "cmmd", "e0.npy", "e1.npy")["value"]
    assert value == pytest.approx(2000 * (1 - np.exp(-0.01)), abs=1e-9)
    np.savez("objects.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))  # needs unpickling
    assert "objects.npz: " in arrag("score", "fid", "objects.npz", "two.npz", fails=True)
    np.savez("half.npz", mu=one)
    with refused(FormatError, path="half.npz"):  # no sigma
        FID().score("half.npz", "two.npz")


def test_too_few_images_are_refused_or_stated(arrag, tmp_path, network):
    few = folder_of(tmp_path / "few", 1, DIM)
    options = ("score", "fid", few, few, "--extractor", network)
    message = arrag(*options, fails=True)
    assert f"{few}: " in message and "--allow-rank-deficient" in message
    found = arrag(*options, "--allow-rank-deficient")
    assert found["rank_deficient"] and found["value"] == pytest.approx(0, abs=1e-6)
    assert any("covariance is singular" in w for w in found["warnings"])
    assert found["shared_images"] == DIM  # A and B the same
    assert any("in the reference too" in w for w in found["warnings"])
    write_arrays("ref.npz", {}, mu=np.zeros(DIM), sigma=np.eye(DIM), n=DIM)
    with refused(UsageError, path="ref.npz"):
        FID().score("ref.npz", "ref.npz")


def test_partial_sets_are_stated(arrag, tmp_path, network):
    a, b = folder_of(tmp_path / "a", 1, 10), folder_of(tmp_path / "b", 2, 10, size=(16, 16))
    Image.new("RGB", (9, 9)).save(b / "00003/samples/0000.png")
    torn = a / "00004/samples/0000.png"
    torn.write_bytes(torn.read_bytes()[:99])
    score = ("score", "fid", a, b, "--extractor", network)
    assert "1 (00004/samples/0000.png)" in arrag(*score, fails=True)
    found = arrag(*score, "--allow-partial")
    assert found["n"] == 9 and found["images"]["unreadable"] == ["00004/samples/0000.png"]
    assert found["reference"]["sizes"] == {"16x16": 9, "9x9": 1}
    assert [w.split(": ")[0] for w in found["warnings"]] == [str(a), str(b)]
    with refused(MismatchError, path=b / "00003/samples/0000.png"):
        FWD(FwdSettings(level=2)).score(a, b, ScoreOptions(allow_partial=True))
    resized = arrag("score", "fwd", a, b, "--level", 2, "--allow-partial", "--size", 8)
    assert resized["judge"]["pixels"] == [8, 8] and resized["value"] > 0


def test_fwd_by_folder_statistics_and_wavelet(arrag, sets):
    a, b = sets
    folders = arrag("score", "fwd", a, b, "--level", 2, "--out", "fwd.json")
    assert folders["label"] == "FWD-haar-2" and folders["packets"] == 16
    low, high = folders["interval"]
    assert low < folders["value"] < high
    arrag("fid-stats", b, "--metric", "fwd", "--level", 2, "--out", "fwd.npz")
    with np.load("fwd.npz", allow_pickle=False) as held:  # what PyTorch-FWD reads
        assert held["mu"].shape == (16, 60) and held["sigma"].shape == (16, 60, 60)
    stored = arrag("score", "fwd", a, "fwd.npz", "--level", 2)
    assert stored["value"] == pytest.approx(folders["value"], rel=1e-6)
    for field, settings in (("level", {}), ("wavelet", {"level": 2, "wavelet": "db2"})):
        with refused(MismatchError, path="fwd.npz", field=field):
            FWD(FwdSettings(**settings)).score(a, "fwd.npz")
    for name, level in (("dark", 0.25), ("light", 0.75)):
        np.save(f"{name}.npy", np.full((3, 32, 32, 3), level))
    constant = arrag("score", "fwd", "dark.npy", "light.npy", "--wavelet", "Haar")
    assert constant["value"] == pytest.approx(3, abs=1e-6) and constant["label"] == "FWD"
    assert paired_difference(*[read_json("fwd.json")] * 2)["overall"] == (0, 0, 0)


def test_micro_clip_names_its_column(arrag, sets, root):
    found = arrag("score", "cmmd", *sets, "--extractor", root / "checkpoints/micro-clip")
    assert found["label"] == "CMMD-micro-clip" and found["value"] > 0
    assert found["interval"][0] >= 0  # as the estimate itself
    assert found["judge"]["normalised"] and found["judge"]["preparation"]["pixels"] == 32


def mjhq_set(path):
    entries = {}
    rng = np.random.default_rng(0)
    for category in ("animals", "food"):
        for i in range(8):
            key = f"{category[0]}{i:039d}"
            entries[key] = {"category": category, "prompt": f"{category} {i}"}
            file = path / "mjhq30k_imgs" / category / f"{key}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    (path / "meta_data.json").write_text(json.dumps(entries))
    return path / "mjhq30k_imgs", path / "meta_data.json"


def test_mjhq_statistics_of_all_and_of_each_category(arrag, tmp_path, network):
    images, meta = mjhq_set(tmp_path)
    entries = mjhq.load_mjhq(meta)
    assert [len(v) for v in mjhq.categories(entries).values()] == [8, 8]
    assert entries[0].prompt == "animals 0"
    wide = ("--metric", "fid", "--extractor", network)
    found = arrag("fid-stats", images, *wide, "--mjhq", meta, "--out", "ref")
    assert found["stats"] == {"ref/all.npz": 16, "ref/animals.npz": 8, "ref/food.npz": 8}
    arrag("fid-stats", images / "food", *wide, "--out", "food.npz")
    with np.load("ref/food.npz") as one, np.load("food.npz") as other:
        np.testing.assert_array_equal(one["sigma"], other["sigma"])
    (images / "food" / f"{entries[-1].key}.jpg").unlink()
    message = arrag("fid-stats", images, *wide, "--mjhq", meta, "--out", "ref", fails=True)
    assert "food/f0" in message
    partly = (*wide, "--mjhq", meta, "--out", "p", "--allow-partial")
    partial = arrag("fid-stats", images, *partly)
    assert partial["stats"]["p/all.npz"] == 15
    Image.new("RGB", (16, 16)).save(images / "food" / "stranger.png")
    assert "food/stranger.png" in arrag("fid-stats", images, *partly, fails=True)
    meta.write_text(json.dumps({"x": {"prompt": "no category"}}))
    assert f"{meta}: " in arrag("fid-stats", images, *partly, fails=True)
