"""What a person sees while it trains: one line that moves on a terminal, a plain line now and then elsewhere.

Never ends a training: what the terminal, pipe or file does not take is dropped, and said once it takes lines again.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from everstep.contracts import Counted
from everstep.telling import Outlet
from everstep.train.lasting import PLAIN_PERIOD_S, TERMINAL_PERIOD_S, Lasting
from everstep.units import about, duration


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is now."""

    step: int
    max_steps: int
    images_seen: int
    loss: float | None
    images_per_second: float | None
    seconds_left: float | None
    last_version: str | None
    last_version_age_s: float
    next_version_step: int | None
    control_gain: float | None = None
    next_version_in_s: float | None = None  # that time decides on

    def text(self) -> str:
        """The whole line: step, images, loss, rate, time left, last version and its age, the next one."""
        parts = [f"step {self.step:,}/{self.max_steps:,}", f"{self.images_seen:,} images"]
        parts += [] if self.loss is None else [f"loss {self.loss:.4f}"]
        parts += [] if self.control_gain is None else [f"gain {self.control_gain:z.3f}"]
        parts += [] if self.images_per_second is None else [f"{self.images_per_second:.1f} images/s"]
        parts += [] if self.seconds_left is None else [f"{duration(self.seconds_left)} left"]
        if self.last_version:
            parts.append(f"{self.last_version} {duration(self.last_version_age_s)} ago")
        if self.next_version_step is not None:
            parts.append(f"next at {self.next_version_step:,}")
        elif self.next_version_in_s is not None:
            parts.append(f"next in about {about(self.next_version_in_s)}")
        return " · ".join(parts)


class Reporter:
    """Prints sentences above the line, and the line itself; never raises."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        # rich ends the program where a pipe is closed, and raises at a full disk; an outlet does neither.
        self._outlet = Outlet.of(cast(TextIO, self.console.file))
        self.console.file = cast(IO[str], self._outlet)
        self._live: Live | None = None
        self._drawing = threading.RLock()  # of the line that moves; again by a signal's sentence in the same thread
        self._lasting: list[Lasting] = []  # what is being done now, the innermost last
        self._shown_at = 0.0
        self.period_s = TERMINAL_PERIOD_S if self.console.is_terminal else PLAIN_PERIOD_S

    def say(self, text: str) -> None:
        """One sentence that stays."""
        try:
            self.console.print(text, markup=False)
        except Exception:  # rich cannot draw it: the terminal may be gone, or its name mean nothing
            self._outlet.write(f"{text}\n")
        self._outlet.flush()

    def show(self, progress: Progress, now: float | None = None) -> None:
        """Move the line, as often as a person can read it."""
        now = time.monotonic() if now is None else now
        if now - self._shown_at < self.period_s:
            return
        self._shown_at = now
        if not self.console.is_terminal:
            self.say(progress.text())
            return
        self._draw(_line(progress.text(), progress.step / progress.max_steps))

    @contextlib.contextmanager
    def during(self, what: str, unit: str = "", count: Callable[[int], str] = "{:,}".format) -> Iterator[Counted]:
        """While what is inside takes more than two seconds, say what it is, and how much of it is done.

        Args:
            what: as a sentence begins: Reading the base.
            unit, count: what is counted, and a number of it in words.
        """
        lasting = Lasting(what, unit, count, self._show_lasting, self.period_s)
        self._lasting.append(lasting)
        lasting.begin()
        is_done = False
        try:
            yield lasting.said
            is_done = True
        finally:
            lasting.end()
            self._lasting.remove(lasting)
            if lasting.was_shown:
                self._end_lasting(lasting, is_done)

    def _show_lasting(self, lasting: Lasting) -> bool:
        if self._lasting[-1:] != [lasting]:  # something inside of it is being done, and says so
            return False
        if self.console.is_terminal:
            self._draw(_line(lasting.text(), lasting.share_done))
        else:
            self.say(f"{lasting.text()} ...")
        return True

    def _end_lasting(self, lasting: Lasting, is_done: bool) -> None:
        """The line goes; a log, where it stays, says when it was done."""
        if self.console.is_terminal:
            self.close()
        elif is_done:
            self.say(f"{lasting.what}: done after {duration(lasting.took_s)}.")

    def _draw(self, line: Table) -> None:
        # A line that moves is worth no training, even where rich cannot draw it.
        with contextlib.suppress(Exception), self._drawing:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(line, refresh=True)

    def close(self) -> None:
        with self._drawing:
            live, self._live = self._live, None
            if live is not None:
                with contextlib.suppress(Exception):
                    live.stop()
        self._outlet.flush()


def _line(text: str, share_done: float | None) -> Table:
    line = Table.grid(padding=(0, 1))
    bar = [] if share_done is None else [ProgressBar(total=1.0, completed=share_done, width=20)]
    line.add_row(*bar, text)
    return line
