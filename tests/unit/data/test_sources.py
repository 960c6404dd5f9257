"""Tars, workers and resuming: the same images in the same order, whatever happens on the way."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import arrag.data.images
from arrag.data.encode import encode_source
from arrag.data.images import decode_all
from arrag.data.sources import open_source
from arrag.data.token_store import TokenStore
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json


def picture(seed, size=(60, 50)):
    """Noise, blurred so that it survives JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path):
    """Two shards as WebDataset has them: an image, a caption and more for each sample."""
    for shard in range(2):
        members = {}
        for i in range(5):
            members[f"{i:04d}.txt"] = b"a caption"
            members[f"{i:04d}.png"] = picture(10 * shard + i)
        write_tar(tmp_path / f"data-{shard:03d}.tar", members)
    return str(tmp_path / "data-{000..001}.tar")


def test_tars_give_their_images_in_order(tars, tiny_janus, tmp_path):
    result = encode_source(tars, tiny_janus, tmp_path / "codes", batch_size=4, shard_size=4)
    assert result["images"] == 10
    store = TokenStore.open(tmp_path / "codes", verify=True)
    assert [store.keys(i) for i in (0, 4, 5)] == [
        "data-000.tar/0000.png",
        "data-000.tar/0004.png",
        "data-001.tar/0000.png",
    ]
    folder = tmp_path / "same"
    folder.mkdir()
    for shard in range(2):
        for i in range(5):
            (folder / f"{shard}{i}.png").write_bytes(picture(10 * shard + i))
    encode_source(str(folder), tiny_janus, tmp_path / "other")
    other = TokenStore.open(tmp_path / "other")
    assert np.array_equal(np.concatenate(store.shards), np.concatenate(other.shards))


def test_a_compressed_tar_is_read_too_and_hidden_files_are_not(tmp_path):
    members = {"a.png": picture(0), "._a.png": b"of a Mac", "sub/b.png": picture(1)}
    write_tar(tmp_path / "x.tar.gz", members, "w:gz")
    images = list(decode_all(open_source(str(tmp_path / "x.tar.gz"), None, None), 20))
    assert [image.key for image in images] == ["x.tar.gz/a.png", "x.tar.gz/sub/b.png"]
    assert all(image.pixels.shape == (20, 20, 3) for image in images)


def header_of(path, name):
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


@pytest.mark.parametrize(
    ("damage", "offset_of"),
    [
        (lambda data, at: data[: at + 700], "0003.png"),  # within an image
        (lambda data, at: data[: at + 100], "0003.png"),  # within a header
        (lambda data, at: data[:at], "0003.png"),  # between two files
        (lambda data, at: data[:at] + b"\1" + data[at + 1 :], "0003.png"),  # a wrong checksum
        (lambda data, at: b"no tar at all" * 100, None),
        (lambda data, at: b"", None),
    ],
)
def test_a_broken_tar_is_an_error_with_file_and_offset(
    tars, tiny_janus, tmp_path, damage, offset_of
):
    path = tmp_path / "data-001.tar"
    whole = path.read_bytes()
    at = header_of(path, offset_of) if offset_of else 0
    path.write_bytes(damage(whole, at))
    with pytest.raises(ArragError, match=rf"data-001.tar: broken tar at byte {at} \("):
        encode_source(tars, tiny_janus, tmp_path / "codes", batch_size=2, shard_size=2)
    path.write_bytes(whole)  # fetched again: the same command goes on
    encode_source(tars, tiny_janus, tmp_path / "codes", batch_size=2, shard_size=2)
    encode_source(tars, tiny_janus, tmp_path / "whole")
    assert TokenStore.open(tmp_path / "codes").digest == TokenStore.open(tmp_path / "whole").digest


def test_workers_change_nothing(tiny_janus, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(70):  # more than two workers are given at once
        (folder / f"{i:03d}.png").write_bytes(picture(i) if i % 9 else b"no image")
    options = {"batch_size": 8, "shard_size": 16}
    alone = encode_source(str(folder), tiny_janus, tmp_path / "alone", **options)
    several = encode_source(str(folder), tiny_janus, tmp_path / "several", workers=2, **options)
    assert alone == {**several, "store": alone["store"]} and alone["skipped"] == 8
    assert (
        TokenStore.open(tmp_path / "alone").digest == TokenStore.open(tmp_path / "several").digest
    )
    lists = [read_json(tmp_path / name / "skipped.json") for name in ("alone", "several")]
    assert lists[0] == lists[1]


@pytest.mark.parametrize("killed_after", [1, 2, 4, 7])
def test_resuming_decodes_nothing_twice_and_keeps_the_lists(
    tars, tiny_janus, tmp_path, monkeypatch, killed_after
):
    whole = tmp_path / "data-000.tar"
    members = {f"{i:04d}.png": picture(i) if i % 3 else b"no image" for i in range(9)}
    write_tar(whole, members)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "t.png").write_bytes(picture(4))
    options = {"batch_size": 1, "shard_size": 2, "exclude": [tests]}
    want = encode_source(tars, tiny_janus, tmp_path / "whole", **options)
    assert (want["images"], want["skipped"], want["excluded"]) == (10, 3, 1)

    from arrag.tokenizers.base import ImageTokenizer

    encode, decode, calls, decoded = ImageTokenizer.encode, arrag.data.images.decode, [], []

    def dies(self, images):
        calls.append(1)
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(ImageTokenizer, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_source(tars, tiny_janus, tmp_path / "codes", **options)
    monkeypatch.setattr(ImageTokenizer, "encode", encode)

    def noted(key, payload, **options):
        decoded.append(key)
        return decode(key, payload, **options)

    monkeypatch.setattr(arrag.data.images, "decode", noted)
    again = encode_source(tars, tiny_janus, tmp_path / "codes", **options)
    assert again == {**want, "store": again["store"]}
    for name in ("skipped.json", "excluded.json"):
        assert read_json(tmp_path / "codes" / name) == read_json(tmp_path / "whole" / name)
    store, other = (TokenStore.open(tmp_path / name) for name in ("codes", "whole"))
    assert store.digest == other.digest
    kept = [store.keys(i) for i in range(killed_after // 2 * 2)]
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
    """Whether a process is over, or becomes so within a minute; one nobody waited for counts."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_after_kill_9_the_same_command_goes_on(tars, tiny_janus, root, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = (tars, str(tiny_janus), str(tmp_path / "codes"))
    killed = subprocess.run(
        [sys.executable, str(script), *arguments], env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 1 and all(ends(pid) for pid in workers)
    assert read_json(tmp_path / "codes" / "writing.json")["images"] == 6
    encode_source(*arguments, batch_size=2, shard_size=3)
    encode_source(tars, tiny_janus, tmp_path / "whole")
    store, whole = (TokenStore.open(tmp_path / name, verify=True) for name in ("codes", "whole"))
    assert store.digest == whole.digest


def test_a_finished_store_is_left_alone_unless_the_source_has_grown(tiny_janus, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture(i))
    first = encode_source(str(folder), tiny_janus, tmp_path / "codes")
    assert encode_source(str(folder), tiny_janus, tmp_path / "codes") == first
    (folder / "9.png").write_bytes(picture(9))
    with pytest.raises(ArragError, match="finished with 3 images, the source has 1 more"):
        encode_source(str(folder), tiny_janus, tmp_path / "codes")
    (folder / "2.png").rename(folder / "8.png")
    with pytest.raises(ArragError, match=r"its image 3 is 2.png, the source has 8.png there"):
        encode_source(str(folder), tiny_janus, tmp_path / "codes")


def test_sources_that_are_not_there(tiny_janus, tmp_path):
    with pytest.raises(ArragError, match="data-003.tar: no such file"):
        encode_source(str(tmp_path / "data-{003..004}.tar"), tiny_janus, tmp_path / "codes")
