"""What a keeper is given: a run and how to keep it, and what its trainer goes on from."""

from collections.abc import Callable
from dataclasses import dataclass

from everstep.contracts import During, ParentRef, Report
from everstep.keeping.settings import Settings
from everstep.telling import untold
from everstep.versions import Run, Version


@dataclass(frozen=True, slots=True)
class Origin:
    """What a trainer goes on from; no version for the very start."""

    version: Version | None
    parent: ParentRef | None
    is_named: bool = False  # a person asked for this very version: no other is taken in its place

    def moved_to(self, run: Run, version: Version | None) -> "Origin":
        """Another version in its place, which nobody asked for by name."""
        return Origin(version, self.parent if version is None else run.ref(version))


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a keeper is given by whoever knows what is trained."""

    run: Run
    settings: Settings
    report: Report
    retire: Callable[[Run, int | None], str]  # lets older versions go, but not the one in use; says which
    tell_trainer: Callable[[int | None], None] = lambda pid: None  # whoever asks who writes the run hears of it
    go_on: str = ""  # the command that goes on, for people
    undo: Callable[[], None] = lambda: None  # before leaving at once: takes back what came to nothing
    during: During = untold  # says what takes long
