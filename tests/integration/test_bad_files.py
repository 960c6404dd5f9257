"""Every command that reads a kind of file is fed the bad ones of it (bad_files.py, bad_texts.py).

Whatever they hold: no traceback, no hang, nothing written outside the target, and exit status 2
with one line that names the file, or 0 where the file is skipped or is good after all.
"""

import gc
import hashlib
import itertools
import json
import shutil
import signal
import traceback
from contextlib import contextmanager
from pathlib import Path

import bad_files
import bad_texts
import numpy as np
import pytest
from patch_indexes import UNIT, random_store

import arrag.data.encode  # noqa: F401  (no time limit may fall into an import)
from arrag.cli.main import main

SECONDS = 30
# Images of which Pillow needs nothing that is missing or wrong.
GOOD_AFTER_ALL = ("cut-95.png", "exif-broken.jpg", "text-broken.png")
ELSEWHERE = [Path(p) for p in ("/tmp/up.png", "/tmp/absolute.png", "/tmp/x")]


@contextmanager
def limit(seconds=SECONDS):
    """A command that takes more of a processor's time hangs; or ten times as long, waiting."""

    def stop(*_):
        raise AssertionError(f"took more than {seconds} seconds")

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before:
            signal.signal(number, handler)


class Feeder:
    """Runs commands in ``folder``, whose ``out`` alone they may write to."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys, self.statuses, self.faults = folder, capsys, {}, []

    def put(self, files):
        """Write {name: bytes}; returns the paths, in the order of the names."""
        for name, data in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return [Path(name) for name in files]

    def __call__(self, bad, *words, named=None):
        """Run a command. ``bad``: the file that it must name when it refuses, or ``named``."""
        before = self.held()
        self.capsys.readouterr()
        try:
            with limit():
                status = main([str(word) for word in words])
        except Exception:  # what a user would see as a traceback
            status = traceback.format_exc()
        said = self.capsys.readouterr().err
        shutil.rmtree("out", ignore_errors=True)
        told = [line for line in said.splitlines() if line.startswith("arrag: error: ")]
        named = str(Path(bad).name if named is None else named)
        good = {
            "exit status 0 or 2": status in (0, 2),
            "no traceback": "Traceback" not in said,
            "one line": len(told) == int(status == 2),
            f"the name {named}": status != 2 or any(named in line for line in told),
            "nothing elsewhere": self.held() == before and not any(p.exists() for p in ELSEWHERE),
        }
        if bad := [what for what, well in good.items() if not well]:
            self.faults.append(f"arrag {' '.join(map(str, words))}\n{bad} {status}\n{said[-300:]}")
        self.statuses.setdefault(status, []).append(named)

    def held(self):
        return {p for p in self.folder.rglob("*") if "out" not in p.relative_to(self.folder).parts}

    def refused_but(self, *fine):
        """That every file was refused by some command, but those that are good after all."""
        accepted = set(self.statuses.get(0, ())) - set(self.statuses.get(2, ()))
        assert accepted == set(fine), accepted ^ set(fine)


@pytest.fixture(scope="module", autouse=True)
def nothing_old_is_collected():
    """What the libraries made stays; to look through it again and again is a tenth of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def feed(tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    feeder = Feeder(tmp_path / "work", capsys)
    yield feeder
    assert not feeder.faults, "\n\n".join([*feeder.faults, f"{len(feeder.faults)} faults"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A store and an index of every mode."""
    path = tmp_path_factory.mktemp("built")
    random_store(path / "store", UNIT, 6, (4, 4), shard_size=4)
    random_store(path / "more", UNIT, 2, (4, 4), seed=1)
    for mode in ("exact", "ivf", "faiss:Flat"):
        words = ["index", "build", "--codes", path / "store", "--out", path / mode[:5]]
        assert main([str(word) for word in [*words, "--mode", mode, "--nprobe", "1"]]) == 0
    return path


def test_images(feed, tiny_janus):
    feed.put({f"good/{i}.png": bad_files.saved() for i in range(3)})
    files = feed.put({f"{i}/{name}": d for i, (name, d) in enumerate(bad_files.images().items())})
    for path in files:
        feed(path, "db", "fingerprint", path.parent, "--out", "out/x.prints.npz")
        options = ("--level", "1", "--size", "8", "--out", "out/x.json")
        feed(path, "score", "fwd", path.parent, "good", *options, named=path.parent)
    feed.refused_but(*GOOD_AFTER_ALL, "strip.png")
    words = ("db", "encode", ".", "--tokenizer", tiny_janus, "--out", "out/codes")
    assert main(list(map(str, words))) == 0
    skipped = {entry["key"] for entry in json.loads(Path("out/codes/skipped.json").read_text())}
    assert skipped == {str(path) for path in files if path.name not in GOOD_AFTER_ALL}
    (samples := Path("samples/00000/samples")).mkdir(parents=True)
    (samples.parent / "metadata.jsonl").write_text('{"item_id": "a", "prompt": "x"}')
    Path("results.jsonl").write_bytes(bad_texts.lines(bad_texts.RESULT))
    for path in files:
        for i in range(4):
            shutil.copy(path, samples / f"{i:04d}.png")
        feed("samples", "convert", "dpg-grids", "samples", "--out", "out/grids")
        words = ("--results", "results.jsonl", "--images", "samples", "--out", "out/x.png")
        feed("0000.png", "report", "verdicts", *words)


def test_tars(feed, tiny_janus):
    feed.put({f"good/{i}.png": bad_files.saved() for i in range(3)})
    for path in feed.put(bad_files.tars()):
        feed(path, "db", "scan", path, "--out", "out/x.npz")
        feed(path, "db", "fingerprint", path, "--out", "out/x.prints.npz")
        options = ("--level", "1", "--size", "8", "--out", "out/x.json")
        feed(path, "score", "fwd", path, "good", *options)
        feed(path, "db", "encode", path, "--tokenizer", tiny_janus, "--out", "out/codes")
    feed.refused_but("cut-50.tar", "cut-80.tar", "cut-95.tar")


def test_arrays(feed):
    np.savez(feed.folder / "moments.npz", mu=np.zeros(3), sigma=np.eye(3), n=9)
    np.savez(feed.folder / "feats.npz", feats=np.random.default_rng(0).normal(size=(9, 3)))
    for number, path in enumerate(feed.put(bad_files.arrays() | bad_files.statistics())):
        turned = number % 2 == 0  # which side is the bad one; the next metric has the other
        for metric in ("fid", "kid", "cmmd", "fwd"):
            turned = not turned
            rest = ("--level", "1") if metric == "fwd" else ("--no-cache",)
            good = "feats.npz" if metric in ("kid", "cmmd") else "moments.npz"
            pair = (good, path) if turned else (path, good)
            feed(path, "score", metric, *pair, "--out", "out/x.json", *rest)
        feed(path, "db", "subsample", path, "--out", "out/choice.json")
        prints = path.with_name(f"{path.name}.prints.npz")
        shutil.copy(path, prints)
        feed(prints, "db", "fingerprint", prints, "--out", "out/x.prints.npz")
        prints.unlink()
    assert not Path(bad_files.MARK).exists()


def test_weights(feed, tiny_janus):
    feed.put({"pipeline/model_index.json": b"{}"})
    shutil.copytree(tiny_janus, "janus", ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = feed.put(bad_files.safetensors())
    for path in [*tensors, *feed.put(bad_files.weights())]:
        part = Path("janus", path.name)
        shutil.copy(path, part)
        feed(
            path,
            "db",
            "encode",
            "nowhere",
            "--tokenizer",
            "janus",
            "--out",
            "out/codes",
            named="janus",
        )
        part.unlink()
        feed(path, "convert", "mask2former", path, "--out", "out/m2f")
        words = ("--tokenizer", path, "--image-size", "256", "--out", "out/l")
        feed(path, "convert", "llamagen", path, *words)
        feed(path, "convert", "faid", path, "--checkpoint", tiny_janus, "--out", "out/faid")
        part = Path("pipeline/unet/pytorch_model.bin")
        if path not in tensors:
            part.parent.mkdir(exist_ok=True)
            shutil.copy(path, part)
            feed(part, "convert", "pipeline", "pipeline", "--out", "out/pipeline")
    assert not Path(bad_files.MARK).exists()


def in_turn(feed, words):
    """A function that feeds what lies in ``bad`` to the next command, and to the first again."""
    following = itertools.cycle(words)

    def each(name):
        feed(name, *next(following), named="bad")

    return each


def test_stores(feed, built):
    good = json.loads((built / "store/manifest.json").read_text())
    each = in_turn(
        feed,
        [
            ("index", "build", "--codes", "bad", "--out", "out/index", "--mode", "exact"),
            ("db", "concat", "bad", built / "more", "--out", "out/store"),
            ("index", "search", built / "exact", "--codes", "bad", "--row", 2, "--col", 2),
        ],
    )
    shutil.copytree(built / "store", "bad")
    for name, data in bad_texts.descriptions(good, every=3).items():
        Path("bad/manifest.json").write_bytes(data)
        each(name)
    for file in ("shard-00000.npy", "shard-00000.keys.json", "codebook.safetensors"):
        whole = Path("bad", file).read_bytes()
        bad = bad_files.arrays() if file.endswith("npy") else bad_texts.json_texts(["a"])
        bad = bad_files.safetensors() if file.startswith("code") else bad
        for name, data in bad.items():
            Path("bad", file).write_bytes(data)
            fitted = json.loads(json.dumps(good))  # so that its length is not what is wrong
            fitted["shards"][0] |= {"bytes": Path("bad/shard-00000.npy").stat().st_size}
            Path("bad/manifest.json").write_text(json.dumps(fitted))
            each(name)
        Path("bad", file).write_bytes(whole)


@pytest.mark.parametrize("mode", ["exact", "ivf", "faiss"])
def test_indexes(feed, built, mode):
    good = json.loads((built / mode / "meta.json").read_text())
    store, rest = built / "store", ("--queries", 2, "-k", 2)
    verify = ("index", "verify", "bad", "--codes", store, *rest)
    out = ("--out-codes", "out/store", "--out", "out/index")
    words = [
        ("index", "search", "bad", "--codes", store, "--row", 2, "--col", 2, "-k", 2),
        ("index", "merge", "bad", "--codes", store, built / "more", *out),
        verify,
        ("index", "info", "bad"),
    ]
    shutil.copytree(built / mode, "bad")
    each = in_turn(feed, words)
    for name, data in bad_texts.descriptions(good, every=3).items():
        Path("bad/meta.json").write_bytes(data)
        each(name)
    each = in_turn(feed, words[:-1])
    for file in good.get("files", {}):
        whole = Path("bad", file).read_bytes()
        bad = bad_files.arrays() | {"of-zeros": whole[:128] + bytes(len(whole) - 128)}
        for name, data in (bad | bad_files.cut(whole)).items():
            Path("bad", file).write_bytes(data)
            fitted = described(good, file, data)
            Path("bad/meta.json").write_text(json.dumps(fitted))
            each(name)
        data = whole[:128] + b"\xff" * (len(whole) - 128)  # what `verify` alone looks for
        Path("bad", file).write_bytes(data)
        Path("bad/meta.json").write_text(json.dumps(described(good, file, data)))
        feed(file, *verify, named="")
        # Of vectors that are none, FAISS finds neighbours all the same: the recall tells.
        assert feed.statuses[0 if mode == "faiss" else 2].pop() == ""
        Path("bad", file).write_bytes(whole)


def described(meta, file, data):
    """``meta`` that says of the file what is true of ``data``."""
    copy = json.loads(json.dumps(meta))
    copy["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return copy


def test_prompts_and_results(feed):
    feed.put({"good.jsonl": bad_texts.lines(bad_texts.RESULT)})
    (samples := Path("samples/00000/samples")).mkdir(parents=True)
    (samples / "0000.png").write_bytes(bad_files.saved())
    for path in feed.put({f"prompts-{n}": d for n, d in bad_texts.prompts().items()}):
        feed(path, "score", "geneval", "--results", "good.jsonl", "--prompts", path)
        shutil.copy(path, samples.parent / "metadata.jsonl")
        feed(path, "convert", "dpg-grids", "samples", "--out", "out/grids", named="samples")
        (samples.parent / "metadata.jsonl").unlink()
    for path in feed.put(bad_texts.results()):
        feed(path, "score", "geneval", "--results", path, "--verdicts", "out/records.jsonl")
        feed(path, "score", "geneval", "--results", path, "--recompute")
        words = ("--results", path, "--images", "samples", "--out", "out/x.png")
        feed(path, "report", "verdicts", *words, named="")


def test_tables(feed):
    good = f"{bad_texts.HEAD}\n{bad_texts.ROW}\n".encode()
    feed.put({"good.csv": good, "answers.csv": b"item_id,proposition_id,answer\na,1,yes\n"})
    for path in feed.put(bad_texts.tables()):
        for compat in ("official", "corrected"):
            rest = ("--compat", compat, "--allow-partial", "--out", "out/x.json")
            feed(path, "score", "dpg", "--questions", path, "--answers", "answers.csv", *rest)
            feed(path, "score", "dpg", "--questions", "good.csv", "--answers", path, *rest)
    for path in feed.put({"meta/" + n: d for n, d in bad_texts.descriptions(MJHQ).items()}):
        words = ("--mjhq", path, "--metric", "kid", "--out", "out/stats", "--no-cache")
        feed(path, "fid-stats", "nowhere", *words, named="")


MJHQ = {"0a1b": {"category": "animals", "prompt": "a dog"}}


def test_an_item_does_not_say_where_its_grid_is_written(feed):
    for item in ("../up", "../../up", "/tmp/up", "a/b", "..", "a\0b"):
        (samples := Path("samples/00000/samples")).mkdir(parents=True, exist_ok=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps({"item_id": item}))
        for i in range(4):
            (samples / f"{i:04d}.png").write_bytes(bad_files.saved())
        feed("samples", "convert", "dpg-grids", "samples", "--out", "out/grids")
    assert set(feed.statuses) == {2}


def test_configurations(feed, root):
    text = (root / "config/micro-ci.yaml").read_text()
    feed.put({"good.yaml": text.encode(), "x.png": bad_files.saved()})
    for path in feed.put(bad_texts.configurations(text)):
        feed(path, "config", "check", path, named="base-itself" if "base-i" in path.name else "")
    for path in ("aliases.yaml", "deep.yaml", "tag-code.yaml", "cut-60.yaml", "empty.yaml"):
        feed(
            path, "generate", "a dog", "--method", "vanilla", "--config", path, "--out", "out/x.png"
        )
        feed(path, "report", "table", 1, "--config", path, "--out", "out/x.md")
        feed(path, "assets", "get", "x", "--config", path)
        feed(path, "doctor", "--offline", "--config", path)


def test_data_sets(feed):
    feed.put({f"good/{i}.png": bad_files.saved() for i in range(3)})
    for path in feed.put(bad_texts.parquets()):
        feed(path, "db", "scan", path, "--out", "out/x.npz")
        feed(path, "db", "fingerprint", path, "--out", "out/x.prints.npz")
        options = ("--level", "1", "--size", "8", "--out", "out/x.json", "--allow-partial")
        feed(path, "score", "fwd", path, "good", *options)
    state = {"_data_files": [{"filename": "data.arrow"}]}
    Path("set").mkdir()
    Path("set/dataset_info.json").write_text("{}")
    for name, data in bad_texts.descriptions(state).items():
        Path("set/state.json").write_bytes(data)
        feed(name, "db", "scan", "set", "--out", "out/x.npz", named="set")
    for name, data in bad_files.cut(b"ARROW" * 40).items():
        Path("set/state.json").write_text(json.dumps(state))
        Path("set/data.arrow").write_bytes(data)
        feed(name, "db", "scan", "set", "--out", "out/x.npz", named="data.arrow")
    for name, data in bad_texts.descriptions({"splits": ["train"]}).items():
        Path("set/dataset_dict.json").write_bytes(data)
        feed(name, "db", "scan", "set", "--out", "out/x.npz", named="set")


def test_descriptions(feed, root, tiny_janus):
    """What stands beside samples, samples' lists, adapters and checkpoints."""
    feed.put({f"good/{i}.png": bad_files.saved() for i in range(3)})
    feed.put({f"samples/0000{i}/samples/0000.png": bad_files.saved() for i in range(3)})
    for name, data in bad_texts.descriptions({"images_per_prompt": 1, "prompts": 3}).items():
        Path("samples/run.json").write_bytes(data)
        feed(name, "score", "fwd", "samples", "good", "--level", 1, "--size", 8, named="samples")
    choice = {"format": 1, "seed": 0, "largest": 9, "whole_names": False, "images": 1, "of": 2}
    for path in feed.put({"choice/" + n: d for n, d in bad_texts.descriptions(choice).items()}):
        words = ("nowhere", "--subsample", path, "--tokenizer", "nowhere", "--out", "out/codes")
        feed(path, "db", "encode", *words, named="")
    adapter = {
        "format": 1,
        "training": {"backbone": "b", "pairs_digest": "p"},
        "held_out": {"mean": 1.0, "nats": [1.0, 2.0]},
    }
    feed.put({"good-adapter/config.json": json.dumps(adapter).encode()})
    for name, data in bad_texts.descriptions(adapter).items():
        feed.put({"adapter/config.json": data})
        feed(name, "train", "compare", "adapter", "good-adapter", named="adapter")
    config = json.loads((tiny_janus / "config.json").read_text())
    kept = ("model_type", "vq_config", "vision_config")
    Path("janus").mkdir()
    for file in tiny_janus.glob("*.safetensors"):
        shutil.copy(file, "janus")
    for name, data in bad_texts.descriptions({field: config[field] for field in kept}).items():
        if "." not in name.removesuffix(".json"):  # the fields of blocks are the library's own
            Path("janus/config.json").write_bytes(data)
            feed(
                name,
                "db",
                "encode",
                "good",
                "--tokenizer",
                "janus",
                "--out",
                "out/codes",
                named="janus",
            )


def test_zips(feed):
    """A repository's zip, out of the cache of an earlier download."""
    from arrag.config.hub import Reference
    from arrag.data.hub import fetch_hub
    from arrag.utils.errors import ArragError

    commit = "0" * 40
    snapshot = Path("cache/models--owner--name/snapshots") / commit
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text(commit)
    (snapshot / "in-use").mkdir()
    (snapshot / "in-use/a.png").write_bytes(b"as it was")
    feed.capsys.readouterr()
    for name, data in bad_files.zips().items():
        (snapshot / name).write_bytes(data)
        before = feed.held()
        also = (name, "in-use/*") if name == "in-use.zip" else (name,)
        options = {"cache": "cache", "endpoint": "http://127.0.0.1:9"}
        with limit(), pytest.raises(ArragError) as caught:
            fetch_hub(Reference("owner/name", "main", also), Path("out/hub"), **options)
        assert name in str(caught.value)
        assert not Path("out/hub").exists() and feed.held() == before, name
        assert not any(path.exists() for path in ELSEWHERE), name
        (snapshot / name).unlink()
    assert (snapshot / "in-use/a.png").read_bytes() == b"as it was"
