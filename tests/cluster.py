"""A Slurm of two nodes, all of it on this machine, as whoever runs the tests; nothing outside a folder is touched."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
SETTINGS = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MailProg=/bin/true
ReturnToService=2
KillWait=30
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """What a user types, and what comes of it."""

    def __init__(self, surroundings: dict[str, str]) -> None:
        self._surroundings = surroundings

    def __call__(self, *words: object) -> str:
        """Raises: CalledProcessError."""
        asked = subprocess.run(
            list(map(str, words)), env=self._surroundings, capture_output=True, text=True, check=True, timeout=60
        )
        return asked.stdout

    def submit(self, script: Path) -> "Job":
        submitted = self("sbatch", "--chdir", script.parent, "--output", script.with_suffix(".out"), script)
        return Job(self, int(submitted.split()[-1]), script.with_suffix(".out"))


class Job:
    """One job, over as many starts as it takes."""

    def __init__(self, slurm: Slurm, number: int, log: Path) -> None:
        self._slurm, self.number, self._log = slurm, number, log

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def state(self) -> str:
        """RUNNING, PENDING, COMPLETED, ..."""
        found = re.search(r"JobState=(\w+)", self._slurm("scontrol", "show", "job", self.number))
        assert found is not None
        return found[1]

    def wait_for(self, is_there: Callable[[], object], timeout_s: float = 120) -> None:
        until = time.monotonic() + timeout_s
        while not is_there():
            assert time.monotonic() < until, f"{self.state}\n{self.output}"
            time.sleep(0.1)

    def send(self, name: str) -> None:
        """A signal to all processes of its steps, as --signal=NAME@SECONDS does."""
        self._slurm("scancel", f"--signal={name}", self.number)

    def start_soon(self) -> None:
        """A job that was put back waits for two minutes else. Nodes refuse one that comes again within a moment."""
        self._slurm("scontrol", "update", f"JobId={self.number}", "StartTime=now+5")


def missing() -> str | None:
    """What is not installed here, if anything."""
    tools = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"no {', '.join(tools)} here (Debian: slurm-wlm, munge)" if tools else None


@contextlib.contextmanager
def slurm_in(folder: Path) -> Iterator[Slurm]:
    """Nodes n1 and n2. `everstep` is a command there."""
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "slurm.conf").write_text(
        SETTINGS.format(folder=folder, user=user, host=socket.gethostname().partition(".")[0], ports=free_ports(3))
    )
    (folder / "cgroup.conf").write_text("IgnoreSystemd=yes\n")
    (folder / "state").mkdir()
    key, command = folder / "munge.key", folder / "bin/everstep"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m everstep "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    # Names of nodes mean something on a cluster; n1 and n2 mean nothing here.
    surroundings = {
        **os.environ,
        "PATH": path,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    munge = (f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid")
    daemons = [
        ["munged", "-F", "--force", *munge, f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-c"],
        *(["slurmd", "-D", "-N", node] for node in ("n1", "n2")),
    ]
    started = []
    try:
        for number, words in enumerate(daemons):
            with (folder / f"{words[0]}-{number}.log").open("w") as log:
                started.append(subprocess.Popen(words, env=surroundings, stdout=log, stderr=log))
            time.sleep(0.5)
        found = Slurm(surroundings)
        wait_for_nodes(found, folder)
        yield found
        found("scancel", "--user", user)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def wait_for_nodes(slurm: Slurm, folder: Path) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            if slurm("sinfo", "--noheader", "--format=%D %T").split() == ["2", "idle"]:
                return
        except subprocess.CalledProcessError:
            pass
        logs = "\n".join(log.read_text() for log in folder.glob("*.log"))
        assert time.monotonic() < until, logs
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """One after the other."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
        ports = [port + at for at in range(count)]
        if ports[-1] < 65536 and all(is_free(port) for port in ports):
            return ports


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
