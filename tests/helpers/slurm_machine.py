"""A real Slurm of one node on this machine, from Debian's packages slurm-wlm and munge."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
# Without a database of accounts, as the simplest sites are; memory is watched, and a job that takes
# more than it asked for is killed.
SETTINGS = """
ClusterName=arrag
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
SlurmdTimeout=10
MinJobAge=7200
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory_mb} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Job(NamedTuple):
    """A job as squeue lists it: comment names the rule; memory as in 2000M."""

    state: str
    comment: str
    memory: str


def why_not() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    if os.geteuid() != 0:
        return "starting Slurm's daemons needs root"
    missing = [name for name in (*DAEMONS, *CLIENTS) if program(name) is None]
    if missing:
        return f"{', '.join(missing)} not found; `apt-get install slurm-wlm munge`"
    return None


def program(name: str) -> str | None:
    """Where a program is; daemons are often outside of a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


class SlurmMachine:
    """Daemons of one node with all their files in ``folder``; ``environ`` is for its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, {}
        self.host = socket.gethostname().split(".")[0]
        self.environ = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
        }

    def start(self) -> None:
        """Start munged, slurmctld and slurmd, and wait until the node is idle."""
        for part in ("state", "spool", "bin"):
            (self.folder / part).mkdir()
        # In a job the executor calls srun without SLURM_CONF.
        srun = self.folder / "bin/srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {program("srun")} "$@"\n'
        )
        srun.chmod(0o755)
        memory = int(psutil.virtual_memory().total / 2**20 * 0.9)
        settings = SETTINGS.format(
            folder=self.folder, host=self.host, ports=free_ports(2), memory_mb=memory
        )
        (self.folder / "slurm.conf").write_text(settings)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._start(
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--{part}-file={self.folder / part}" for part in ("pid", "log", "seed")),
            f"--socket={self.folder / 'munge.socket'}",
        )
        self._until(lambda: (self.folder / "munge.socket").exists(), "munged listens")
        self._start("slurmctld", "-D", "-f", self.folder / "slurm.conf")
        self.start_worker()

    def start_worker(self) -> None:
        """Start slurmd, and wait until its node takes jobs."""
        # With a huge limit of descriptors Slurm's step daemon closes them one by one for minutes.
        slurmd = shutil.which("slurmd", path=os.path.dirname(program("slurmd")))
        self._start(
            *("sh", "-c", 'ulimit -n 4096; exec "$@"', "sh", slurmd),
            *("-D", "-N", self.host, "-f", self.folder / "slurm.conf"),
            name="slurmd",
        )
        self.wait_for("idle")

    def wait_for(self, *states: str) -> None:
        """Wait until Slurm says one of these of its node."""

        def is_so() -> bool:
            return self.ask("sinfo", "--noheader", "--format=%t").strip() in states

        self._until(is_so, f"the node is {states[0]}")

    def kill_worker(self) -> None:
        """Lose the worker, slurmd and all that it has started, and wait until it is missed."""
        log = str(self.folder / "slurmd.log")
        lost = [psutil.Process(self.running["slurmd"].pid)]
        for step in (p for p in psutil.process_iter(["name"]) if p.info["name"] == "slurmstepd"):
            if log in (file.path for file in step.open_files()):
                lost += [step, *step.children(recursive=True)]
        for process in lost:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.running.pop("slurmd").wait()
        self.wait_for("down", "down*")

    def stop(self) -> None:
        """Cancel what runs and end the daemons."""
        if "slurmctld" in self.running:
            subprocess.run([program("scancel"), "--user=root"], env=self.environ, timeout=30)
            with contextlib.suppress(AssertionError):
                self._until(lambda: not self.ask("squeue", "-h").strip(), "no job is left")
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.running:
                process = self.running.pop(name)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def jobs(self) -> dict[int, Job]:
        """All jobs since the start, by their numbers."""
        listed = self.ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%k|%m")
        rows = [line.split("|") for line in listed.splitlines()]
        return {int(row[0]): Job(*row[1:]) for row in sorted(rows, key=lambda row: int(row[0]))}

    def ask(self, *command: str) -> str:
        """What a client of Slurm's says; "" if it fails."""
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def _start(self, *command: object, name: str | None = None) -> None:
        name = name or str(command[0])
        words = [program(str(command[0])), *map(str, command[1:])]
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                words, env=self.environ, stdout=out, stderr=out, start_new_session=True
            )

    def _until(self, happens, what: str, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < end, f"{what}: not after {seconds} s; {self.said()}"
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} has ended; {self.said()}"
            time.sleep(0.2)

    def said(self) -> str:
        """The ends of all logs."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{file}:\n{file.read_text(errors='replace')[-2000:]}" for file in files)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
