"""What a machine does to a run: one plain line, what was whole stays, the same bytes in the end."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import faiss
import numpy as np
import pytest
import torch
import yaml
from bad_texts import PROMPT, lines
from patch_indexes import UNIT, files_of, make_index, make_store, random_store
from PIL import Image
from refusals import refused
from safetensors.numpy import save_file

from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.data.encode import encode_source
from arrag.data.merge import merge_stores
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.pipeline.layout import Layout
from arrag.retrieval.neighborhood import Neighborhood
from arrag.training import loop
from arrag.utils.errors import MissingError, ResourceError
from arrag.utils.files import write_text
from arrag.utils.hashing import sha256_file
from arrag.utils.locks import output_lock
from arrag.utils.resource_errors import disk_space, is_out_of_memory

IMAGES = 40


@contextmanager
def limited(kind, soft):
    """A limit of the operating system on this process."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def stopped(capsys, *arguments):
    """The one line in which a command says why it failed."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("arrag: error: ")]
    return line


def done(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def encoded(images, tiny_janus, tmp_path_factory):
    """The digest of their store, encoded undisturbed."""
    out = tmp_path_factory.mktemp("encoded") / "codes"
    encode_source(str(images), tiny_janus, out, batch_size=10, shard_size=15)
    return TokenStore.open(out).digest


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_janus, root):
    """A configuration of two prompts and four images over a random model."""
    folder = tmp_path_factory.mktemp("config")
    prompts = [PROMPT | {"prompt": text} for text in ("a photo of a dog", "a photo of two cups")]
    (folder / "prompts.jsonl").write_bytes(lines(*prompts))
    document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
    document["generators"]["janus"]["checkpoint"] = str(shutil.copytree(tiny_janus, folder / "m"))
    document["benchmarks"]["geneval"]["prompts"] = str(folder / "prompts.jsonl")
    write_text(folder / "config.yaml", yaml.safe_dump(document))
    return folder / "config.yaml"


def sampling(config, out):
    which = ["generate", "--benchmark", "geneval", "--method", "vanilla", "--config", config]
    return [*which, "--out", out, "--batch-size", "2"]


@pytest.fixture(scope="module")
def drawn(config, tmp_path_factory):
    """Samples drawn undisturbed."""
    out = tmp_path_factory.mktemp("drawn") / "run"
    done(*sampling(config, out))
    return out


def pictures(out):
    return {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("*.png"))}


# --- memory


def test_without_memory_it_is_said_what_to_lower_and_that_helps(config, drawn, tmp_path, capsys):
    many = yaml.safe_load(config.read_text())
    many["benchmarks"]["geneval"]["images_per_prompt"] = 2000
    write_text(tmp_path / "many.yaml", yaml.safe_dump(many))
    out = tmp_path / "run"
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with limited(resource.RLIMIT_AS, pages * resource.getpagesize() + 200 * 2**20):
        line = stopped(capsys, *sampling(tmp_path / "many.yaml", out)[:-1], 4000)
        assert str(out) in line and "--batch-size, now 4000" in line
    # Beyond the limit: this process keeps what it freed, while a user's next command starts empty.
    done(*sampling(config, out))
    assert pictures(out) == pictures(drawn)


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(2**50),
        lambda: np.empty(2**50),
        lambda: bytearray(2**60),
        lambda: faiss.Float32Vector().resize(2**55),
        lambda: np.memmap("/dev/zero", shape=2**60),
    ],
    ids=["torch", "numpy", "python", "faiss", "system"],
)
def test_every_library_s_want_of_memory_is_known(take):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        take()
    assert is_out_of_memory(caught.value), caught.value


def test_other_errors_are_not_taken_for_it():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(FileNotFoundError(2, "No such file"))


# --- disk


@pytest.fixture
def little_disk(tmp_path):
    """A file system of 64 kB that can be made larger."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_sampling_on_a_full_disk_goes_on_once_there_is_room(config, drawn, little_disk, capsys):
    out = little_disk / "run"
    (little_disk / "filler").write_bytes(bytes(24 * 1024))
    assert "disk" in stopped(capsys, *sampling(config, out))
    first = {path: path.stat().st_ino for path in out.rglob("*.png")}
    assert 0 < len(first) < 4 and not (out / "run.json").exists()
    assert pictures(out).items() < pictures(drawn).items()
    (little_disk / "filler").unlink()
    done(*sampling(config, out))
    assert pictures(out) == pictures(drawn)
    assert {path: path.stat().st_ino for path in first} == first


def test_no_command_writes_half_a_file(tmp_path, capsys):
    out = tmp_path / "schema.json"
    out.write_text("before")
    with limited(resource.RLIMIT_FSIZE, 4096):
        line = stopped(capsys, "config", "schema", "--out", out)
    assert str(out) in line and "disk" in line
    assert out.read_text() == "before" and os.listdir(tmp_path) == ["schema.json"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_store(
        tmp_path_factory.mktemp("disk") / "codes", UNIT, 60, (12, 12), shard_size=50
    )


@pytest.mark.parametrize("mode", ["ivf", "faiss:Flat"])
def test_a_build_without_room_leaves_the_previous_index(store, tmp_path, capsys, mode):
    out = tmp_path / "index"
    make_index(store, out, Neighborhood("causal"), mode="ivf", nlist=3)
    before = files_of(out)
    with limited(resource.RLIMIT_FSIZE, 36 * 1024):
        words = ["--codes", store.path, "--out", out, "--mode", mode, "--nlist", "5"]
        assert str(out) in stopped(capsys, "index", "build", *words)
    assert files_of(out) == before and list(tmp_path.iterdir()) == [out]


def test_a_merge_without_room_leaves_both(store, tmp_path, capsys):
    out, grown = tmp_path / "index", tmp_path / "grown"
    make_index(store, out, Neighborhood("causal"), mode="ivf", nlist=3)
    before = files_of(out)
    more = make_store(tmp_path / "more", np.zeros((20, 12, 12), np.uint16), UNIT)
    stores = ["--codes", store.path, more.path, "--out-codes", tmp_path / "both"]
    with limited(resource.RLIMIT_FSIZE, 36 * 1024):
        assert str(grown) in stopped(capsys, "index", "merge", out, *stores, "--out", grown)
    assert files_of(out) == before and not grown.exists()
    both = TokenStore.open(tmp_path / "both", verify=True)  # links, which take no room
    assert both.digest == merge_stores([store, more], tmp_path / "again").digest


def test_a_store_without_room_is_continued_once_there_is_some(tmp_path):
    options = {"tokenizer_digest": "tok", "grid": (12, 12), "source": "test", "shard_size": 130}
    grids, keys = np.zeros((132, 12, 12), np.uint16), [str(i) for i in range(132)]

    def write():
        with StoreWriter(tmp_path / "store", codebook=UNIT, **options) as writer:
            writer.add(keys[writer.done :], grids[writer.done :])

    with limited(resource.RLIMIT_FSIZE, 36 * 1024), refused(ResourceError):
        write()
    with refused(MissingError):
        TokenStore.open(tmp_path / "store")
    write()
    whole = make_store(tmp_path / "whole", grids, UNIT, shard_size=130, tokenizer="tok")
    assert TokenStore.open(tmp_path / "store").digest == whole.digest


def trained(folder, stop=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(4096, 4)

    def loss_of_step(step):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(2, 4096, generator=torch.Generator().manual_seed(step))
        return (model(x) ** 2).mean()

    loop.train(
        model, [{"params": model.parameters()}], loss_of_step, steps=6, peak=0.05, train_config={},
        work_dir=folder, log_every=1, save_seconds=0,
    )  # fmt: skip
    return model.weight


def test_training_on_a_full_disk_keeps_the_last_state(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "full", stop=3)
    before = sha256_file(tmp_path / "full/state.pt")
    limit = limited(resource.RLIMIT_FSIZE, 32 * 1024)
    with limit, refused(ResourceError, path=tmp_path / "full/state.pt"):
        trained(tmp_path / "full")
    assert sha256_file(tmp_path / "full/state.pt") == before
    with open(tmp_path / "full/log.jsonl", "a") as log:
        log.write('{"step": 5, "lo')  # what a full disk may leave of a line
    assert torch.equal(trained(tmp_path / "full"), trained(tmp_path / "straight"))
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(torch.zeros(9999), path),
        lambda path: save_file({"x": np.zeros(9999)}, path),
        lambda path: np.save(path, np.zeros(9999)),
        lambda path: np.zeros(9999).tofile(path),
        lambda path: path.write_bytes(bytes(9999)),
    ],
    ids=["torch", "safetensors", "numpy", "tofile", "python"],
)
def test_every_library_s_full_disk_is_known(write, tmp_path):
    limit, path = limited(resource.RLIMIT_FSIZE, 4096), tmp_path / "file.npy"
    with limit, refused(ResourceError, path=path), disk_space(path):
        write(path)


# --- files that are not what they were


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("harm", [flip, truncate], ids=["flipped", "truncated"])
def test_no_index_is_built_over_a_damaged_shard(tmp_path, capsys, harm):
    store = random_store(tmp_path / "codes", UNIT, 60, (12, 12), shard_size=50)
    harm(store.path / "shard-00000.npy")
    line = stopped(
        capsys, "index", "build", "--codes", store.path, "--out", tmp_path / "i", "--mode", "exact"
    )
    assert "shard-00000.npy" in line and not (tmp_path / "i").exists()


@pytest.mark.parametrize("harm", [flip, truncate], ids=["flipped", "truncated"])
def test_damaged_samples_are_drawn_again_and_no_others(config, drawn, tmp_path, harm):
    out = shutil.copytree(drawn, tmp_path / "run")
    one, *others = sorted(out.rglob("*.png"))
    (out / "run.json").unlink()
    harm(one)
    kept = [path.stat().st_ino for path in others]
    done(*sampling(config, out))
    assert pictures(out) == pictures(drawn)
    assert [path.stat().st_ino for path in others] == kept


def test_a_truncated_score_is_named_and_no_table_is_written(
    config, root, tmp_path, monkeypatch, capsys
):
    for name in ("checkpoints", "benchmarks"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    layout = Layout(load_config(config))
    for name in layout.config.row_labels("geneval"):
        write_text(layout.scores(name)["geneval"], '{"value": 0.5, "tas')
    line = stopped(capsys, "report", "table", 1, "--config", config, "--out", "table1.md")
    assert ".json" in line
    assert not list(tmp_path.glob("table1*"))


def test_damaged_weights_name_other_results(config):
    """No result of good weights is taken for one of the others, nor the other way round."""
    run = Layout(load_config(config)).run("vanilla")
    weights = config.parent / "m/model.safetensors"
    flip(weights)
    assert Layout(load_config(config)).run("vanilla") != run
    flip(weights)
    assert Layout(load_config(config)).run("vanilla") == run


# --- processes


def kill_a_worker():
    """Of two, once both are there: a pool that breaks while it starts another may wait for ever."""
    while len(workers := multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(workers[0].pid, signal.SIGKILL)


def test_a_lost_worker_is_one_line_and_the_same_command_goes_on(
    images, tiny_janus, encoded, tmp_path, capsys
):
    out = tmp_path / "codes"
    command = [
        "db",
        "encode",
        images,
        "--tokenizer",
        tiny_janus,
        "--out",
        out,
        "--shard-size",
        "15",
    ]
    killer = Thread(target=kill_a_worker, daemon=True)
    killer.start()
    line = stopped(capsys, *command, "--workers", 2)
    killer.join()
    assert "--workers" in line
    done(*command, "--workers", 1)
    assert TokenStore.open(out).digest == encoded


def test_two_commands_with_the_same_output_take_turns(
    images, tiny_janus, encoded, root, tmp_path, capfd
):
    out = tmp_path / "codes"
    command = [sys.executable, "-m", "arrag", "db", "encode", images, "--tokenizer", tiny_janus]
    command += ["--out", out, "--shard-size", "15", "--batch-size", "10"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    both = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    waited = [f"{out} is being written by another process; waiting" in text for text in said]
    assert sorted(waited) == [False, True]
    assert TokenStore.open(out, verify=True).digest == encoded
    assert sorted(os.listdir(tmp_path)) == ["codes", "codes.record.json"]


HOLD = """
import sys, time
from arrag.utils.locks import output_lock
with output_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_holds_nobody_up(root, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    holder = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE)
    holder.stdout.readline()
    waiting = Thread(target=lambda: output_lock(tmp_path / "out").__enter__(), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    holder.kill()
    holder.communicate()
    waiting.join(60)
    assert not waiting.is_alive()


RUN = """
import sys, time
from arrag.utils.locks import RunLock
turn = RunLock("results/.run")
print("planned", flush=True)
sys.stdin.readline()
turn.acquire()
print("works", flush=True)
sys.stdin.readline()
print("ends", flush=True)
"""


def test_a_run_that_waited_plans_anew(root, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command, environment = [sys.executable, "-c", RUN], os.environ | {"PYTHONPATH": str(root)}

    def start():
        run = subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, bufsize=1, **pipes
        )
        assert run.stdout.readline() == "planned\n"
        return run

    first, second, late = start(), start(), start()
    first.stdin.write("\n")
    assert first.stdout.readline() == "works\n"
    second.stdin.write("\n")
    assert f"(process {first.pid}) works in this folder; waiting" in second.stderr.readline()
    first.communicate("\n")
    assert second.stdout.readline() == "planned\n"  # anew: the first has made results
    second.stdin.write("\n")
    assert second.stdout.readline() == "works\n"
    second.kill()
    second.communicate()
    # Nobody works any more, but somebody did since this one planned.
    assert late.communicate("\n\n\n")[0] == "planned\nworks\nends\n"
