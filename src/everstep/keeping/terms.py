"""On which terms a loop is kept: where, how often, with which facts; as its keeper and its versions hear of them."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from everstep.contracts import Report
from everstep.errors import UserError
from everstep.keeping.claims import Making, Observer
from everstep.keeping.intervals import Economy
from everstep.keeping.settings import Settings
from everstep.places import absolute, spelled
from everstep.versions import Run, run_folder
from everstep.versions.layout import HPARAMS

Auto = Literal["auto"] | Economy
ABOUT = "training of a PyTorch loop"


@dataclass(frozen=True, slots=True)
class Terms:
    """What whoever trains has said of it."""

    folder: Path
    hparams: str
    facts: Mapping[str, Any]
    images_per_step: int
    every_steps: int | None
    every_s: float | None
    economy: Economy | None  # where the interval is found by itself
    settings: Settings
    observers: tuple[Observer, ...]
    report: Report
    about: str = ABOUT

    @classmethod
    def of(
        cls,
        run: str | Path,
        hparams: str,
        every: tuple[int | Auto | None, float | None],
        keeping: Settings | None,
        report: Report | None,
        **others: Any,
    ) -> "Terms":
        """As those say it who keep something.

        Args:
            run: a name in runs/, or a path.
            every: steps and seconds between versions; auto in place of steps where the interval is to be found.
            others: what a program of other people's may not know: images_per_step, facts, observers, about.
        """
        counted = {"facts": {}, "images_per_step": 0, "observers": (), **others}
        folder, (steps, seconds) = absolute(run_folder(str(run))), every
        economy, settings = None, keeping or Settings()
        if isinstance(steps, str | Economy):
            economy = _economy(steps, seconds)
            steps, settings = None, replace(settings, deaths_s=economy.deaths_s)
        return cls(
            folder=folder,
            hparams=hparams,
            every_steps=steps,
            every_s=seconds,
            economy=economy,
            settings=settings,
            report=report or say,
            **counted,
        )

    def hello(self) -> dict[str, Any]:
        """For the keeper."""
        return {
            "run": str(self.folder),
            "hparams": self.hparams,
            "about": self.about,
            "pid": os.getpid(),
            "command": command(),
            "settings": _as_told(self.settings),
        }

    def making(self, run: Run) -> Making:
        """For the versions."""
        return Making(
            run=run,
            facts=self.facts,
            small_files={HPARAMS: self.hparams.encode()},
            settings=self.settings,
            report=self.report,
            every_steps=self.every_steps,
            every_s=self.every_s,
            economy=self.economy,
            may_wait=sys.stdout.isatty(),
        )


def _economy(every: str | Economy, every_s: float | None) -> Economy:
    """Raises: UserError for what is no interval."""
    if every_s is not None or (isinstance(every, str) and every != "auto"):
        raise UserError(f"every={every!r} is no interval: a number of steps, or 'auto' without every_s.")
    return Economy() if isinstance(every, str) else every


def refuse_ranks(count: int) -> None:
    """Raises: UserError for more than one."""
    if count > 1:
        raise UserError(f"One process writes a run; this training has {count}. Nothing was started.")


def say(text: str) -> None:
    """Print, unless nobody listens any more."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):  # what is only told ends no training
        return


def command() -> str:
    """That started this program, for people."""
    return shlex.join(sys.argv)


def _as_told(settings: Settings) -> dict[str, Any]:
    """As a message carries them, to a process that works in another folder."""
    told = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
    if settings.ram_dir is not None:
        told["ram_dir"] = str(spelled(settings.ram_dir).absolute())
    return told
