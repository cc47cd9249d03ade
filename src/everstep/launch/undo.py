"""A start that comes to nothing leaves nothing: what it made or changed before its first version is taken back.

Never imports torch.
"""

from collections.abc import Sequence
from pathlib import Path

from everstep.errors import ExitCode
from everstep.keeping.remnants import of_run
from everstep.versions import Run
from everstep.versions.fsops import replace_file


def has_begun(run: Run, ram_dir: str | None) -> bool:
    """Whether anything was trained in a run: it has a version, or had one, or a state of it lies in memory."""
    return run.next_number() > 0 or any(found.step is not None for found in of_run(run, ram_dir))


class Undo:
    """What a start may have to take back. The run's lock has to be held."""

    def __init__(self, run: Run, ram_dir: str | None, made: Sequence[Path] | None = None) -> None:
        """
        Args:
            made: the folders that this start has made for the run; None where the run was there before.
        """
        self._run, self._ram_dir, self._made = run, ram_dir, made
        self._number, self._is_over = run.next_number(), False
        self._before = {path: _content(path) for path in (run.layout.hparams, run.layout.best_score)}

    def after(self, code: int) -> bool:
        """At the end of a start, or when it is cut short: returns whether the run was taken back.

        A run that was made for it goes if it came to no version. In one that was there before, settings are put back
        where the input was wrong: that start has changed nothing.
        """
        if self._is_over or not self._run.path.is_dir():
            return False
        self._is_over = True
        if self._made is not None and not has_begun(self._run, self._ram_dir) and self._run.take_back(self._made):
            return True
        if code == ExitCode.WRONG_INPUT and self._run.next_number() == self._number:
            for path, content in self._before.items():
                if content is not None and content != _content(path):
                    replace_file(path, content)
        return False

    def when_left(self) -> None:
        """For a keeper that leaves at once, and will not come back here."""
        self.after(ExitCode.STOPPED)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
