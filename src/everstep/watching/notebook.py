"""A run's page in a notebook's cell, which goes on telling where the run is.

import everstep

everstep.watch("mine")

Everything goes the notebook's own way to the browser, so it works wherever the kernel is. Never imports torch.
"""

import threading
from html import escape
from pathlib import Path
from typing import Any

from everstep.errors import EverstepError, UserError
from everstep.records.scores import FILE as SCORES
from everstep.units import duration
from everstep.versions import Run, run_folder
from everstep.watching.remembered import RememberedRun, stamp_of
from everstep.watching.report import report
from everstep.watching.views import now

PERIOD_S = 2.0
HEIGHT_PX = 900


def watch(run: str | Path) -> "Watched":
    """What there is to see of a run: the same as `everstep watch`, but for its buttons.

    Args:
        run: a name in runs/, or a path.

    Raises: UserError if there is no such run.
    """
    return Watched(RememberedRun(Run.open(run_folder(str(run))).path))


class Watched:
    """In a notebook a line that follows the training, and the page, anew at each version; elsewhere the line."""

    def __init__(self, run: RememberedRun) -> None:
        self.run = run
        self._is_over = threading.Event()

    def __repr__(self) -> str:
        return f"{in_words(self.run)} ({self.run.path})"

    def stop(self) -> None:
        """Follow it no longer."""
        self._is_over.set()

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        line = display(HTML(self.line()), display_id=True)
        page, shown = display(HTML(self.page()), display_id=True), self._made()

        def follow() -> None:
            was = shown
            while not self._is_over.wait(PERIOD_S) and self.run.path.is_dir():
                line.update(HTML(self.line()))
                is_written, made = self.run.holder() is not None, self._made()
                if made != was:
                    page.update(HTML(self.page()))
                    was = made
                if not is_written:
                    return

        if self.run.holder() is not None:
            threading.Thread(target=follow, name="everstep-watch", daemon=True).start()

    def line(self) -> str:
        """Where it is, as HTML."""
        return f"<b>{escape(in_words(self.run))}</b>"

    def page(self) -> str:
        """The page, in a frame of its own; before the first version a sentence."""
        try:
            inside = escape(report(self.run), quote=True)
        except UserError as error:
            return f"<p>{escape(str(error))}</p>"
        title = escape(f"{self.run.name}, its versions", quote=True)
        style = f"width:100%;height:{HEIGHT_PX}px;border:0"
        return f'<iframe title="{title}" sandbox="allow-scripts" style="{style}" srcdoc="{inside}"></iframe>'

    def _made(self) -> Any:
        """Moves with versions and what is said of them."""
        layout = self.run.layout
        return [version.number for version in self.run.versions()], stamp_of(layout.samples, layout.records / SCORES)


def in_words(run: RememberedRun) -> str:
    """One line of where it is; why it cannot be told where it cannot."""
    try:
        told = now(run)
    except EverstepError as error:
        return f"{run.name}: {error}"
    rate = f", {told['images_per_second']:.1f} images/s" if told["images_per_second"] else ""
    left = f", {duration(told['seconds_left'])} left" if told["seconds_left"] else ""
    risk = f", {told['steps_at_risk']:,} steps at risk" if told["state"] == "running" else ""
    newest = f"; newest: {told['last_version']}" if told["last_version"] else ""
    place = f"step {told['step']:,} of {told['max_steps']:,}" if told["max_steps"] else f"step {told['step']:,}"
    verdict = f"; {told['control']}" if told["control"] else ""
    return f"{run.name}: {told['condition']}, {place}{rate}{left}{risk}{newest}{verdict}"
