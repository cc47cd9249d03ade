"""The run on a machine that does not see its folder: its settings as they were called, and the version that is gone on
from, fetched from the mirror in which the machines meet.

It lies in a hidden folder that goes when this machine does, never in runs/: what is there could be taken for the run
itself, and gone on from when newer versions are elsewhere. Never imports torch.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from everstep.config.load import read_hparams
from everstep.config.schema import Config
from everstep.errors import DamageFound, ExitCode, UserError
from everstep.keeping.words import Facts
from everstep.launch.about import about
from everstep.launch.answering import Listener
from everstep.launch.apart import hidden_beside
from everstep.launch.relay import Relay
from everstep.train.progress import Reporter
from everstep.units import duration, size
from everstep.versions import Run, fsops, manifest
from everstep.versions.layout import MANIFEST

PULL = (sys.executable, "-m", "everstep", "mirror", "pull")
OFFERED_S = 600.0  # what a version gets to come to a mirror, and from there, besides the time that its bytes take
SLOWEST = 5e6  # bytes a second, where mirror.rate allows them
COMING_S = 10.0  # how often the first machine hears that this one will answer
POLL_S = 0.2
CALLED = "called.yaml"  # not the name that makes a folder a run


@dataclass(slots=True)
class Away:
    """What this machine has of a run. folder: hidden, of this process alone."""

    folder: Path
    name: str
    listener: Listener
    relay: Relay
    reporter: Reporter

    def run_of(self, call: Facts) -> Run | None:
        """The run that was called, with the version to go on from alone; None where the call counts no more.

        Raises: UserError where that does not come, or is another; Stopped.
        """
        root, number = self.folder / self.name, call["version"]
        config = self._called(str(call["hparams"]))
        if config.mirror.slim:
            raise _slim(self.relay.address)
        if number is None or not (root / f"version_{number}").is_dir():
            _remove(root)  # older versions do not pile up
        if number is None:
            return Run.create(root, str(call["hparams"]), about(config.keep))
        if not root.exists() and not self._fetched(root, call, config):
            return None
        run = Run.open(root)
        if not run.version(number).resumable:
            raise _slim(self.relay.address)
        run.replace_hparams(str(call["hparams"]))  # what lies in the mirror may be older
        return run

    def _called(self, hparams: str) -> Config:
        path = self.folder / CALLED
        fsops.replace_file(path, hparams.encode())
        return read_hparams(path)

    def _fetched(self, root: Path, call: Facts, config: Config) -> bool:
        """Whether the version is there; else the call counts no more. Raises: UserError, Stopped."""
        name, within_s = f"version_{call['version']}", patience_s(call, config)
        until, said_at = time.monotonic() + within_s, -COMING_S
        words = [*PULL, self.relay.address, "--to", str(root), "--version", str(call["version"])]
        if config.mirror.rate is not None:
            words += ["--rate", str(config.mirror.rate)]
        why = f"it is not offered there within {duration(within_s)}"
        with _ended(self.folder / "pull.txt") as pull, self.reporter.during(f"Fetching {name}", count=size) as said:
            while time.monotonic() < until:
                if time.monotonic() - said_at >= COMING_S:
                    said_at = time.monotonic()
                    self.listener.say_coming()
                if self.listener.is_over():
                    return False
                self.listener.refuse_to_wait()
                if pull.is_begun and (code := pull.poll()) is not None:
                    if code == ExitCode.DONE:
                        return True
                    why = pull.last_line()
                    if code in (ExitCode.WRONG_INPUT, ExitCode.FAULT_FOUND):
                        break
                if not pull.is_running and self._is_offered(name, call):
                    pull.begin(words)
                said(_bytes_in(root), int(call["bytes"]))
                time.sleep(POLL_S)
        raise UserError(
            f"{name}, which is gone on from, does not come from {self.relay.address}: {why}. This machine does not see "
            "the run's folder, and can have it from nowhere else."
        )

    def _is_offered(self, name: str, call: Facts) -> bool:
        """Raises: UserError where another version of this number is."""
        content = self.relay.look(f"{name}/{MANIFEST}")
        if content is None:
            return False
        try:
            digest = manifest.decode(content.encode())["digest"]
        except DamageFound as damage:
            raise UserError(f"{name} in {self.relay.address} {damage}.") from None
        if digest != call["digest"]:
            raise UserError(f"{self.relay.address} has another {name} than the first machine goes on from.")
        return True


def patience_s(call: Facts, config: Config) -> float:
    """The most that a machine takes to have the version that is gone on from."""
    rate = min(SLOWEST, config.mirror.rate.total if config.mirror.rate is not None else SLOWEST)
    return OFFERED_S + 2 * int(call["bytes"]) / rate  # there, and back


def _slim(address: str) -> UserError:
    return UserError(
        f"this machine does not see the run's folder, and from slim copies, as in {address}, nothing can be gone on."
    )


@contextmanager
def away(folder: Path, listener: Listener, relay: Relay, reporter: Reporter) -> Iterator[Away]:
    """Nothing of it is left at the end.

    Args:
        folder: of the run, as this machine would have it.
    """
    with hidden_beside(folder) as hidden:
        yield Away(hidden, folder.name, listener, relay, reporter)


class _Pull:
    """The verb that fetches, in a process of its own, as often as it takes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_begun(self) -> bool:
        return self._process is not None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def begin(self, words: list[str]) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def poll(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].rstrip(".") if lines else "it fails"

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def _ended(log: Path) -> Iterator[_Pull]:
    pull = _Pull(log)
    try:
        yield pull
    finally:
        pull.end()


def _remove(root: Path) -> None:
    if root.exists():
        fsops.remove_tree(root)


def _bytes_in(root: Path) -> int:
    """What has come so far."""
    total = 0
    for path in root.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # it has its true name now
            continue
    return total
