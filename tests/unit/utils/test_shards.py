"""Resumable shard writing: what a kill leaves, other identities, other files, several jobs."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from arrag.utils.errors import MismatchError, OutputError
from arrag.utils.files import read_json, write_json
from arrag.utils.shards import FINAL, PARTIAL, ShardFile, ShardWriter

IDENTITY = {"format": 1, "k": 5, "grid": (2, 3)}


def save(path):
    np.save(path, np.arange(6))


def write(folder, numbers, identity=IDENTITY, **options):
    writer = ShardWriter(folder, identity, **options)
    for number in numbers:
        if not writer.shard(number).exists():
            writer.write(writer.shard(number), save)
    return writer


def test_a_folder_is_complete_with_its_final_manifest(tmp_path):
    writer = write(tmp_path / "out", range(3))
    assert not writer.resumed and not writer.complete
    manifest = {**IDENTITY, "shards": [ShardFile.describe(path) for path in writer.shards()]}
    writer.finish(manifest)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        FINAL, PARTIAL, *(f"shard-0000{i}.npy" for i in range(3)),
    ]  # fmt: skip
    assert read_json(tmp_path / "out" / PARTIAL) == {**IDENTITY, "grid": [2, 3]}
    for shard in read_json(tmp_path / "out" / FINAL)["shards"]:
        ShardFile(**shard).check(tmp_path / "out", "", full=True)
    again = ShardWriter(tmp_path / "out", IDENTITY)
    assert again.resumed and again.complete


KILLED = """
import os, signal, sys
import numpy as np
from arrag.utils.shards import ShardWriter

writer = ShardWriter(sys.argv[1], {"format": 1, "k": 5, "grid": (2, 3)})
writer.write(writer.shard(0), lambda path: np.save(path, np.arange(6)))

def save(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

writer.write(writer.shard(1), save)
"""


def test_after_kill_9_whole_shards_stay_and_partial_ones_go(tmp_path):
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)])
    assert killed.returncode == -signal.SIGKILL
    before = (out / "shard-00000.npy").stat().st_mtime_ns
    writer = ShardWriter(out, IDENTITY)
    assert writer.resumed and [path.name for path in writer.shards()] == ["shard-00000.npy"]
    write(out, range(2))
    assert (out / "shard-00000.npy").stat().st_mtime_ns == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("other", [{"k": 6}, {"more": None}, {"grid": [3, 2]}])
@pytest.mark.parametrize("finished", [False, True])
def test_another_identity_is_refused_or_starts_afresh(tmp_path, other, finished):
    writer = write(tmp_path, range(2))
    if finished:
        writer.finish(IDENTITY)
    with pytest.raises(MismatchError) as error:
        write(tmp_path, range(2), {**IDENTITY, **other})
    assert error.value.field == next(iter(other)) and error.value.path == tmp_path / PARTIAL
    assert len(writer.shards()) == 2
    afresh = ShardWriter(tmp_path, {**IDENTITY, **other}, restart=True)
    assert not afresh.resumed and not afresh.complete and afresh.shards() == []


def test_a_finished_folder_without_its_partial_manifest_is_known_by_the_final_one(tmp_path):
    write(tmp_path, range(1)).finish({**IDENTITY, "shards": []})
    (tmp_path / PARTIAL).unlink()
    assert ShardWriter(tmp_path, IDENTITY).complete
    assert not (tmp_path / PARTIAL).exists()
    with pytest.raises(MismatchError):
        ShardWriter(tmp_path, {**IDENTITY, "k": 4})


def test_shards_of_unknown_identity_are_refused(tmp_path):
    save(tmp_path / "shard-00000.npy")
    with pytest.raises(OutputError):
        ShardWriter(tmp_path, IDENTITY)
    assert not (tmp_path / PARTIAL).exists()


def test_a_restart_never_removes_a_foreign_file(tmp_path):
    write(tmp_path, range(1))
    (tmp_path / "notes.txt").write_text("kept")
    with pytest.raises(OutputError) as error:
        ShardWriter(tmp_path, {"k": 0}, restart=True)
    assert error.value.path == tmp_path / "notes.txt"
    assert (tmp_path / "shard-00000.npy").exists()


def test_folders_of_files_can_be_the_shards(tmp_path):
    options = {"own": ("[0-9]*",), "partial": "run.partial.json", "final": "run.json"}
    writer = ShardWriter(tmp_path / "out", {"seed": 1}, **options)
    (tmp_path / "out" / "00000" / "samples").mkdir(parents=True)
    write_json(tmp_path / "out" / "00000" / "samples" / "a.json", 1)
    assert [path.name for path in writer.shards()] == ["00000"]
    ShardWriter(tmp_path / "out", {"seed": 2}, restart=True, **options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.partial.json"]


def test_several_jobs_write_one_folder(tmp_path):
    jobs = [ShardWriter(tmp_path, IDENTITY) for _ in range(3)]
    for number, job in enumerate(jobs):
        job.write(job.shard(number), save)
    assert len(ShardWriter(tmp_path, IDENTITY).shards()) == 3


def test_remove_leaves_nothing(tmp_path):
    write(tmp_path / "out", range(2)).remove()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", "a\0"])
def test_a_listed_shard_lies_in_its_folder(name):
    with pytest.raises(ValueError):
        ShardFile(file=name, bytes=1, sha256="")
