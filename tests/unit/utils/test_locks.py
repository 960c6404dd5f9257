"""Locks of results. That they end with a killed holder is tested with whole commands."""

import errno
import os
from threading import Event, Thread

import filelock
import pytest

from arrag.utils.locks import RunLock, output_lock


def test_one_writer_at_a_time(tmp_path, capsys):
    entered, order = Event(), []

    def second():
        with output_lock(tmp_path / "out"):
            order.append("second")

    with output_lock(tmp_path / "out"):
        thread = Thread(target=second)
        thread.start()
        entered.wait(0.3)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert "is being written by another process" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_works_without(tmp_path, monkeypatch, number):
    def no_locks(fd):
        raise OSError(number, "no locks")

    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", no_locks)
    with output_lock(tmp_path / "out"):
        (tmp_path / "out").write_text("written")
    RunLock(tmp_path / ".run").acquire()
    assert (tmp_path / "out").read_text() == "written"


def test_a_folder_that_cannot_be_written_has_no_lock():
    with output_lock("/proc/nowhere/out"):
        pass


def test_a_first_run_is_noted(tmp_path):
    RunLock(tmp_path / "results/.run").acquire()
    assert (tmp_path / "results/.run").read_text().startswith(f"{os.getpid()} ")


def test_a_run_that_was_planned_while_another_worked_plans_anew(tmp_path, monkeypatch):
    restarted = []
    monkeypatch.setattr(os, "execv", lambda *words: restarted.append(words))
    first = RunLock(tmp_path / ".run")
    first.acquire()
    second = RunLock(tmp_path / ".run")  # planned after the first noted itself
    first._lock.release()
    second.acquire()
    assert len(restarted) == 1
    second._lock.release()
    RunLock(tmp_path / ".run").acquire()
    assert len(restarted) == 1
