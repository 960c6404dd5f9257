"""What an output may replace: nothing that arrag did not write."""

import os

import pytest

from arrag.utils.errors import ArragError
from arrag.utils.files import write_text
from arrag.utils.outputs import OWNER, atomic_path, check_replaceable


def write_folder(path):
    with atomic_path(path) as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "meta.json").write_text("{}")


def test_a_file_never_replaces_a_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.txt").write_text("kept")
    for folder in (home, tmp_path / "empty"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(ArragError):
            write_text(folder, "text")
    assert (home / "mine.txt").read_text() == "kept"


def test_a_folder_replaces_its_own_kind_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_folder(out)
    write_folder(out)  # its own
    (out / "notes.txt").write_text("kept")
    with pytest.raises(ArragError, match="notes.txt"):
        write_folder(out)
    assert (out / "notes.txt").read_text() == "kept"
    (out / "notes.txt").unlink()
    (out / "inner" / "link").symlink_to(tmp_path)
    with pytest.raises(ArragError, match="inner/link"):
        write_folder(out)
    (out / "inner" / "link").unlink()
    (out / OWNER).unlink()
    with pytest.raises(ArragError, match="meta.json"):
        write_folder(out)
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(ArragError):
        write_folder(file)
    assert file.read_text() == "kept"


def test_an_empty_folder_may_be_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out")
    assert (tmp_path / "out" / "inner" / "meta.json").exists()


def test_links_are_followed(tmp_path):
    write_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "target.txt").write_text("old")
    (tmp_path / "text").symlink_to(tmp_path / "target.txt")
    write_text(tmp_path / "text", "new")
    assert (tmp_path / "text").is_symlink()
    assert (tmp_path / "target.txt").read_text() == "new"


def test_devices_pipes_and_working_folders_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/full"):
        with pytest.raises(ArragError):
            write_text(path, "text")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipe").unlink()
    for path in (tmp_path, tmp_path.parent, "/"):
        with pytest.raises(ArragError):
            check_replaceable(path, by_folder=True)


def test_a_failed_write_leaves_everything(tmp_path):
    write_folder(tmp_path / "out")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "out") as folder:
        folder.mkdir()
        raise RuntimeError
    assert (tmp_path / "out" / "inner" / "meta.json").exists()
