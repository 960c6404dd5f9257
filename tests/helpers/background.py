"""Programs that a test starts and comes back to."""

import os
import signal
import subprocess
import tempfile


class Background(subprocess.Popen):
    """A program in a process group of its own, all that it says in a file.

    Not in a pipe: one that nobody reads is full after 64 KiB, and its program stands still.
    """

    def __init__(self, command, **options) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the program)
        super().__init__(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=self._file,
            stderr=subprocess.STDOUT, start_new_session=True, **options,
        )  # fmt: skip

    def said(self) -> str:
        """What it has said so far."""
        handle = self._file.fileno()  # shared with the program, also where it stands in the file
        return os.pread(handle, os.fstat(handle).st_size, 0).decode(errors="replace")

    def finish(self) -> str:
        """Wait for its end, which must be a good one; what it said."""
        try:
            self.wait()
        except BaseException:  # the test's time is up
            os.killpg(self.pid, signal.SIGKILL)
            raise
        assert self.returncode == 0, self.said()
        return self.said()
