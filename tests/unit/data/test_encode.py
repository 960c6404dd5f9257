"""Sources to stores: codes, lists of what is left out, and resuming after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import picture, write_folder, write_tar
from refusals import refused

import arrag.data.images
from arrag.data.encode import encode_source
from arrag.data.micro.world import World
from arrag.data.token_store import TokenStore
from arrag.tokenizers.base import ImageTokenizer, load_tokenizer
from arrag.utils.errors import MismatchError, MissingError
from arrag.utils.files import read_json


def test_the_micro_source_holds_the_codes_of_its_scenes(tiny_janus, assets, tmp_path):
    out = tmp_path / "codes"
    result = encode_source("micro:database", tiny_janus, out, limit=7, shard_size=3, assets=assets)
    assert result["images"] == 7
    store = TokenStore.open(out, verify=True)
    assert [len(shard) for shard in store.shards] == [3, 3, 1]
    world = World(assets, "database")
    images = np.stack([world.scene(i).image for i in range(7)])
    expected = load_tokenizer(tiny_janus).encode(images).numpy()
    assert np.array_equal(np.concatenate(store.shards), expected)
    assert store.keys(5) == "database/5"


def test_what_cannot_be_read_is_skipped_and_listed(tiny_janus, tmp_path):
    good = picture(0)
    files = {"b.png": good, "sub/a.png": picture(1), "cut.png": good[: len(good) // 2]}
    source = write_folder(tmp_path / "images", files | {"text.jpg": b"no image"})
    result = encode_source(str(source), tiny_janus, tmp_path / "codes")
    assert (result["images"], result["skipped"]) == (2, 2)
    store = TokenStore.open(tmp_path / "codes")
    assert [store.keys(i) for i in range(2)] == ["b.png", "sub/a.png"]
    skipped = read_json(tmp_path / "codes" / "skipped.json")
    assert [entry["key"] for entry in skipped] == ["cut.png", "text.jpg"]
    assert all(entry["problem"] for entry in skipped)
    for name in files:
        (source / name).unlink()
    with refused(MissingError, path=source):
        encode_source(str(source), tiny_janus, tmp_path / "none")


FILES = {f"{i:04d}.png": picture(i) if i % 3 else b"no image" for i in range(14)}


def tar_source(path):
    return str(write_tar(path / "x.tar", FILES))


def parquet_source(path):
    path.mkdir()
    pq.write_table(pa.table({"image": [*FILES.values()]}), path / "x.parquet", row_group_size=5)
    return str(path)


@pytest.mark.parametrize(
    ("make", "killed_after"), [(tar_source, 1), (parquet_source, 2), (tar_source, 3)]
)
def test_resuming_decodes_nothing_twice_and_keeps_the_lists(
    tiny_janus, tmp_path, monkeypatch, make, killed_after
):
    source = make(tmp_path / "source")
    write_folder(tmp_path / "tests", {"t.png": FILES["0004.png"]})
    options = {"batch_size": 2, "shard_size": 3, "exclude": [tmp_path / "tests"]}
    want = encode_source(source, tiny_janus, tmp_path / "whole", **options)
    assert (want["images"], want["skipped"], want["excluded"]) == (8, 5, 1)
    encode, decode, calls, decoded = ImageTokenizer.encode, arrag.data.images.decode, [], []

    def dies(self, images):
        calls.append(1)
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return encode(self, images)

    def noted(key, payload, **options):
        decoded.append(key)
        return decode(key, payload, **options)

    monkeypatch.setattr(ImageTokenizer, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_source(source, tiny_janus, tmp_path / "codes", **options)
    monkeypatch.setattr(ImageTokenizer, "encode", encode)
    monkeypatch.setattr(arrag.data.images, "decode", noted)
    again = encode_source(source, tiny_janus, tmp_path / "codes", **options)
    assert again == {**want, "store": again["store"]}
    for name in ("skipped.json", "excluded.json"):
        assert read_json(tmp_path / "codes" / name) == read_json(tmp_path / "whole" / name)
    store, whole = (TokenStore.open(tmp_path / name) for name in ("codes", "whole"))
    assert store.digest == whole.digest
    kept = [store.keys(i) for i in range(2 * killed_after // 3 * 3)]
    assert not set(kept) & set(decoded)


KILLED = """
import multiprocessing, os, pathlib, signal, sys
from arrag.tokenizers.base import ImageTokenizer
from arrag.data.encode import encode_source

def encode(self, images, calls=[], real=ImageTokenizer.encode):
    calls.append(1)
    if len(calls) == 4:
        workers = [str(worker.pid) for worker in multiprocessing.active_children()]
        pathlib.Path(__file__).with_name("workers").write_text(" ".join(workers))
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, images)

if __name__ == "__main__":
    ImageTokenizer.encode = encode
    encode_source(*sys.argv[1:], batch_size=2, shard_size=3, workers=1)
"""


def ends(pid):
    """Whether a process is over, or becomes so within a minute; an unreaped one counts."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_after_kill_9_the_workers_end_and_the_same_command_continues(tiny_janus, root, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = (tar_source(tmp_path), str(tiny_janus), str(tmp_path / "codes"))
    killed = subprocess.run(
        [sys.executable, str(script), *arguments], env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 1 and all(ends(pid) for pid in workers)
    assert len([*(tmp_path / "codes").glob("shard-*.npy")]) == 2
    encode_source(*arguments, batch_size=2, shard_size=3)
    encode_source(arguments[0], tiny_janus, tmp_path / "whole")
    store, whole = (TokenStore.open(tmp_path / name, verify=True) for name in ("codes", "whole"))
    assert store.digest == whole.digest


def test_a_finished_store_is_left_alone_unless_the_source_has_changed(tiny_janus, tmp_path):
    source = write_folder(tmp_path / "images", {f"{i}.png": picture(i) for i in range(3)})
    first = encode_source(str(source), tiny_janus, tmp_path / "codes")
    assert encode_source(str(source), tiny_janus, tmp_path / "codes") == first
    write_folder(source, {"9.png": picture(9)})
    for name in ("2.png", "8.png"):  # one more; another one
        (source / "2.png").rename(source / name)
        with refused(MismatchError):
            encode_source(str(source), tiny_janus, tmp_path / "codes")
