import errno
import os
from pathlib import Path

import pytest

from arrag.utils.errors import ArragError, ResourceError
from arrag.utils.files import read_json, write_json, write_text
from arrag.utils.hashing import sha256_file, sha256_json, tree_digest
from arrag.utils.outputs import OWNER, atomic_path, clear_leftovers
from arrag.utils.resource_errors import disk_space


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "table.md"
    with pytest.raises(RuntimeError), atomic_path(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert not target.exists() and not list(target.parent.iterdir())

    write_text(target, "whole")
    with pytest.raises(RuntimeError), atomic_path(target) as partial:
        partial.write_text("half of the next")
        raise RuntimeError
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["table.md"]


def test_what_killed_writers_left_is_removed(tmp_path):
    """Of the same file, of its other forms and in the folder; nothing of a living writer."""
    target = tmp_path / "table.md"
    (tmp_path / "table").mkdir()
    for left in (".table.md.x1.tmp", ".table.csv.x2.tmp", ".other.md.x3.tmp"):
        (tmp_path / left).mkdir()
    (tmp_path / "table/.shard.x4.tmp").mkdir()
    with atomic_path(target) as living:
        clear_leftovers(target)
        clear_leftovers(tmp_path / "table")
        living.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [".other.md.x3.tmp", "table", "table.md"]
    assert os.listdir(tmp_path / "table") == []


@pytest.mark.parametrize("name", ["index", "old"])
def test_a_folder_is_replaced_whole(tmp_path, name):
    for content in ("first", "second"):
        with atomic_path(tmp_path / name) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == [OWNER, "second"]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_json_comes_back_and_mistakes_name_the_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"λ": 0.1, "a": [1]})
    assert read_json(path) == {"λ": 0.1, "a": [1]}
    path.write_text('{"cut": ')
    with pytest.raises(ArragError, match=r"a\.json: not valid JSON .* make it again"):
        read_json(path)
    with pytest.raises(ArragError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_digests_see_contents_and_names_only(tmp_path):
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.5})
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")

    folder = tmp_path / "checkpoint"
    write_text(folder / "model.safetensors", "weights")
    before = tree_digest(folder)
    write_text(folder / "README.md", "a model card")
    assert tree_digest(folder) == before
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert tree_digest(folder) != before
    with pytest.raises(ArragError, match="no such directory"):
        tree_digest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("144000 requested and 67520 written"),  # numpy.save's words
    ],
)
def test_a_full_disk_is_said_in_one_line(tmp_path, error):
    with pytest.raises(ResourceError) as caught, disk_space("codes"):
        raise error
    assert caught.value.path == Path("codes") and caught.value.hint
    with pytest.raises(PermissionError), disk_space("codes"):
        raise PermissionError(errno.EACCES, "Permission denied")
