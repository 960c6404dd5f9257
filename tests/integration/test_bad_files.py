"""Every command that reads a kind of file is fed the bad ones of it (bad_files.py, bad_texts.py).

Whatever they hold: no traceback, no hang, nothing written outside the target, and exit status 2
with one line that names the file, or 0 where the file is skipped or is good after all.
"""

import copy
import gc
import hashlib
import itertools
import json
import shlex
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
from arrag.config.hub import Reference
from arrag.data.hub import fetch_hub
from arrag.utils.errors import ArragError

SECONDS = 30
GOOD_AFTER_ALL = ("cut-95.png", "exif-broken.jpg", "text-broken.png")  # to Pillow
ELSEWHERE = [Path(p) for p in ("/tmp/up.png", "/tmp/absolute.png", "/tmp/x")]
FWD = "--level 1 --size 8 --out out/x.json"


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

    def __call__(self, command, named):
        """Run a command. ``named``: the file that it must name when it refuses."""
        before = self.held()
        self.capsys.readouterr()
        try:
            with limit():
                status = main(shlex.split(command))
        except Exception:  # what a user would see as a traceback
            status = traceback.format_exc()
        printed = self.capsys.readouterr().err
        shutil.rmtree("out", ignore_errors=True)
        errors = [line for line in printed.splitlines() if line.startswith("arrag: error: ")]
        named = Path(named).name
        good = {
            "exit status 0 or 2": status in (0, 2),
            "no traceback": "Traceback" not in printed,
            "one line": len(errors) == int(status == 2),
            f"the name {named}": status != 2 or any(named in line for line in errors),
            "nothing elsewhere": self.held() == before and not any(p.exists() for p in ELSEWHERE),
        }
        if bad := [what for what, well in good.items() if not well]:
            self.faults.append(f"arrag {command}\n{bad} {status}\n{printed[-300:]}")
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
    feeder.put({f"good/{i}.png": bad_files.saved() for i in range(3)})
    yield feeder
    assert not feeder.faults, "\n\n".join([*feeder.faults, f"{len(feeder.faults)} faults"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A store and an index of every mode."""
    path = tmp_path_factory.mktemp("built")
    random_store(path / "store", UNIT, 6, (4, 4), shard_size=4)
    random_store(path / "more", UNIT, 2, (4, 4), seed=1)
    for mode in ("exact", "ivf", "faiss:Flat"):
        words = f"index build --codes {path}/store --out {path / mode[:5]} --mode {mode} --nprobe 1"
        assert main(words.split()) == 0
    return path


def test_images(feed, tiny_janus):
    files = feed.put({f"{i}/{name}": d for i, (name, d) in enumerate(bad_files.images().items())})
    for path in files:
        feed(f"db fingerprint {path.parent} --out out/x.prints.npz", path)
        feed(f"score fwd {path.parent} good {FWD}", path.parent)
    feed.refused_but(*GOOD_AFTER_ALL, "strip.png")
    shutil.rmtree("good")
    assert main(f"db encode . --tokenizer {tiny_janus} --out out/codes".split()) == 0
    skipped = {entry["key"] for entry in json.loads(Path("out/codes/skipped.json").read_text())}
    assert skipped == {str(path) for path in files if path.name not in GOOD_AFTER_ALL}
    feed.put({"samples/00000/metadata.jsonl": b'{"item_id": "a", "prompt": "x"}'})
    feed.put({"results.jsonl": bad_texts.lines(bad_texts.RESULT)})
    for path in files:
        feed.put({f"samples/00000/samples/{i:04d}.png": path.read_bytes() for i in range(4)})
        feed("convert dpg-grids samples --out out/grids", "samples")
        feed("report verdicts --results results.jsonl --images samples --out out/x.png", "0000.png")


def test_tars(feed, tiny_janus):
    for path in feed.put(bad_files.tars()):
        feed(f"db scan {path} --out out/x.npz", path)
        feed(f"db fingerprint {path} --out out/x.prints.npz", path)
        feed(f"score fwd {path} good {FWD}", path)
        feed(f"db encode {path} --tokenizer {tiny_janus} --out out/codes", path)
    feed.refused_but("cut-50.tar", "cut-80.tar", "cut-95.tar")


def test_arrays(feed):
    np.savez(feed.folder / "moments.npz", mu=np.zeros(3), sigma=np.eye(3), n=9)
    np.savez(feed.folder / "feats.npz", feats=np.random.default_rng(0).normal(size=(9, 3)))
    for number, path in enumerate(feed.put(bad_files.arrays() | bad_files.statistics())):
        for turn, metric in enumerate(("fid", "kid", "cmmd", "fwd")):
            good = "feats.npz" if metric in ("kid", "cmmd") else "moments.npz"
            pair = f"{good} {path}" if (number + turn) % 2 else f"{path} {good}"
            rest = "--level 1" if metric == "fwd" else "--no-cache"
            feed(f"score {metric} {pair} --out out/x.json {rest}", path)
        feed(f"db subsample {path} --out out/sample.json", path)
        prints = path.with_name(f"{path.name}.prints.npz")
        shutil.copy(path, prints)
        feed(f"db fingerprint {prints} --out out/x.prints.npz", prints)
        prints.unlink()


def test_weights(feed, tiny_janus):
    feed.put({"pipeline/model_index.json": b"{}"})
    shutil.copytree(tiny_janus, "janus", ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = feed.put(bad_files.safetensors())
    for path in [*tensors, *feed.put(bad_files.weights())]:
        part = Path("janus", path.name)
        shutil.copy(path, part)
        feed("db encode nowhere --tokenizer janus --out out/codes", "janus")
        part.unlink()
        feed(f"convert mask2former {path} --out out/m2f", path)
        feed(f"convert llamagen {path} --tokenizer {path} --image-size 256 --out out/l", path)
        feed(f"convert faid {path} --checkpoint {tiny_janus} --out out/faid", path)
        if path not in tensors:
            (part,) = feed.put({"pipeline/unet/pytorch_model.bin": path.read_bytes()})
            feed("convert pipeline pipeline --out out/pipeline", part)


def test_stores(feed, built):
    good = json.loads((built / "store/manifest.json").read_text())
    following = itertools.cycle([
        "index build --codes bad --out out/index --mode exact",
        f"db concat bad {built}/more --out out/store",
        f"index search {built}/exact --codes bad --row 2 --col 2",
    ])  # fmt: skip
    shutil.copytree(built / "store", "bad")
    for data in bad_texts.descriptions(good, every=3).values():
        Path("bad/manifest.json").write_bytes(data)
        feed(next(following), "bad")
    for file, bad in {
        "shard-00000.npy": bad_files.arrays(),
        "shard-00000.keys.json": bad_texts.json_texts(["a"]),
        "codebook.safetensors": bad_files.safetensors(),
    }.items():
        whole = Path("bad", file).read_bytes()
        for data in bad.values():
            Path("bad", file).write_bytes(data)
            fitted = copy.deepcopy(good)  # so that its length is not what is wrong
            fitted["shards"][0] |= {"bytes": Path("bad/shard-00000.npy").stat().st_size}
            Path("bad/manifest.json").write_text(json.dumps(fitted))
            feed(next(following), "bad")
        Path("bad", file).write_bytes(whole)


@pytest.mark.parametrize("mode", ["exact", "ivf", "faiss"])
def test_indexes(feed, built, mode):
    good = json.loads((built / mode / "meta.json").read_text())
    verify = f"index verify bad --codes {built}/store --queries 2 -k 2"
    commands = [
        f"index search bad --codes {built}/store --row 2 --col 2 -k 2",
        f"index merge bad --codes {built}/store {built}/more --out-codes out/store --out out/index",
        verify,
    ]
    shutil.copytree(built / mode, "bad")
    following = itertools.cycle([*commands, "index info bad"])
    for data in bad_texts.descriptions(good, every=3).values():
        Path("bad/meta.json").write_bytes(data)
        feed(next(following), "bad")
    following = itertools.cycle(commands)
    for file in good.get("files", {}):

        def put(data, file=file):
            described = copy.deepcopy(good)
            described["files"][file] = {
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            feed.put({f"bad/{file}": data, "bad/meta.json": json.dumps(described).encode()})

        whole = Path("bad", file).read_bytes()
        bad = bad_files.arrays() | {"of-zeros": whole[:128] + bytes(len(whole) - 128)}
        for data in (bad | bad_files.cut(whole)).values():
            put(data)
            feed(next(following), "bad")
        put(whole[:128] + b"\xff" * (len(whole) - 128))  # what `verify` alone looks for
        feed(verify, "")
        # Of vectors that are none, FAISS finds neighbours all the same: the recall shows it.
        assert feed.statuses[0 if mode == "faiss" else 2].pop() == ""
        Path("bad", file).write_bytes(whole)


def test_prompts_and_results(feed):
    feed.put({"good.jsonl": bad_texts.lines(bad_texts.RESULT)})
    feed.put({"samples/00000/samples/0000.png": bad_files.saved()})
    for path in feed.put({f"prompts-{n}": d for n, d in bad_texts.prompts().items()}):
        feed(f"score geneval --results good.jsonl --prompts {path}", path)
        (about,) = feed.put({"samples/00000/metadata.jsonl": path.read_bytes()})
        feed("convert dpg-grids samples --out out/grids", "samples")
        about.unlink()
    for path in feed.put(bad_texts.results()):
        feed(f"score geneval --results {path} --verdicts out/verdicts.jsonl", path)
        feed(f"score geneval --results {path} --recompute", path)
        feed(f"report verdicts --results {path} --images samples --out out/x.png", "")


def test_tables(feed):
    good = f"{bad_texts.HEAD}\n{bad_texts.ROW}\n".encode()
    feed.put({"good.csv": good, "answers.csv": b"item_id,proposition_id,answer\na,1,yes\n"})
    for path in feed.put(bad_texts.tables()):
        for compat in ("official", "corrected"):
            rest = f"--compat {compat} --allow-partial --out out/x.json"
            feed(f"score dpg --questions {path} --answers answers.csv {rest}", path)
            feed(f"score dpg --questions good.csv --answers {path} {rest}", path)
    mjhq = {"0a1b": {"category": "animals", "prompt": "a dog"}}
    for path in feed.put({"meta/" + n: d for n, d in bad_texts.descriptions(mjhq).items()}):
        feed(f"fid-stats nowhere --mjhq {path} --metric kid --out out/stats --no-cache", "")


def test_an_item_does_not_say_where_its_grid_is_written(feed):
    for item in ("../up", "../../up", "/tmp/up", "a/b", "..", "a\0b"):
        feed.put({"samples/00000/metadata.jsonl": json.dumps({"item_id": item}).encode()})
        feed.put({f"samples/00000/samples/{i:04d}.png": bad_files.saved() for i in range(4)})
        feed("convert dpg-grids samples --out out/grids", "samples")
    assert set(feed.statuses) == {2}


def test_configurations(feed, root):
    text = (root / "config/micro-ci.yaml").read_text()
    feed.put({"good.yaml": text.encode(), "x.png": bad_files.saved()})
    for path in feed.put(bad_texts.configurations(text)):
        feed(f"config check {path}", "base-itself" if "base-i" in path.name else "")
    for path in ("aliases.yaml", "deep.yaml", "tag-code.yaml", "cut-60.yaml", "empty.yaml"):
        feed(f"generate 'a dog' --method vanilla --config {path} --out out/x.png", path)
        feed(f"report table 1 --config {path} --out out/x.md", path)
        feed(f"assets get x --config {path}", path)
        feed(f"doctor --offline --config {path}", path)


def test_data_sets(feed):
    for path in feed.put(bad_texts.parquets()):
        feed(f"db scan {path} --out out/x.npz", path)
        feed(f"db fingerprint {path} --out out/x.prints.npz", path)
        feed(f"score fwd {path} good {FWD} --allow-partial", path)
    state = {"_data_files": [{"filename": "data.arrow"}]}
    feed.put({"set/dataset_info.json": b"{}"})
    for data in bad_texts.descriptions(state).values():
        feed.put({"set/state.json": data})
        feed("db scan set --out out/x.npz", "set")
    feed.put({"set/state.json": json.dumps(state).encode()})
    for data in bad_files.cut(b"ARROW" * 40).values():
        feed.put({"set/data.arrow": data})
        feed("db scan set --out out/x.npz", "data.arrow")
    for data in bad_texts.descriptions({"splits": ["train"]}).values():
        feed.put({"set/dataset_dict.json": data})
        feed("db scan set --out out/x.npz", "set")


def test_descriptions(feed, tiny_janus):
    """Of samples, lists of images, adapters and checkpoints."""
    feed.put({f"samples/0000{i}/samples/0000.png": bad_files.saved() for i in range(3)})
    for data in bad_texts.descriptions({"images_per_prompt": 1, "prompts": 3}).values():
        feed.put({"samples/run.json": data})
        feed("score fwd samples good --level 1 --size 8", "samples")
    sample = {"format": 1, "seed": 0, "largest": 9, "whole_names": False, "images": 1, "of": 2}
    for path in feed.put({"sample/" + n: d for n, d in bad_texts.descriptions(sample).items()}):
        feed(f"db encode nowhere --subsample {path} --tokenizer nowhere --out out/codes", "")
    trained = {"backbone": "b", "pairs_digest": "p"}
    adapter = {"format": 1, "training": trained, "held_out": {"mean": 1.0, "nats": [1.0, 2.0]}}
    feed.put({"good-adapter/config.json": json.dumps(adapter).encode()})
    for data in bad_texts.descriptions(adapter).values():
        feed.put({"adapter/config.json": data})
        feed("train compare adapter good-adapter", "adapter")
    config = json.loads((tiny_janus / "config.json").read_text())
    config = {field: config[field] for field in ("model_type", "vq_config", "vision_config")}
    feed.put({f"janus/{f.name}": f.read_bytes() for f in tiny_janus.glob("*.safetensors")})
    for name, data in bad_texts.descriptions(config).items():
        if "." not in name.removesuffix(".json"):  # the fields of blocks are the library's own
            feed.put({"janus/config.json": data})
            feed("db encode good --tokenizer janus --out out/codes", "janus")


def test_zips(feed):
    """A repository's zip, out of the cache of an earlier download."""
    snapshot = Path("cache/models--owner--name/snapshots") / ("0" * 40)
    feed.put({"cache/models--owner--name/refs/main": b"0" * 40})
    feed.put({f"{snapshot}/in-use/a.png": b"as it was"})
    for name, data in bad_files.zips().items():
        feed.put({f"{snapshot}/{name}": data})
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
