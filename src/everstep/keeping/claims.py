"""What a version is made with, a version on its way, and who wants to know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from everstep.contracts import Reason, Report
from everstep.keeping.channel import Message
from everstep.keeping.intervals import Economy
from everstep.keeping.settings import Settings
from everstep.versions import Run, Version


@dataclass(frozen=True, slots=True)
class Making:
    """What every version of a training is made with, and when."""

    run: Run
    facts: Mapping[str, Any]  # for the manifest
    small_files: Mapping[str, bytes]  # that are the same in every version
    settings: Settings
    report: Report
    every_steps: int | None = None
    every_s: float | None = None
    economy: Economy | None = None  # where the interval is found by itself: what it is to weigh
    max_steps: int | None = None  # the step at which the training is complete
    check: Callable[[], None] = lambda: None  # raises NotFinite if what was measured so far is sick
    retire: Callable[[Run], str] = lambda run: ""  # lets older versions go, where no keeper does
    may_wait: bool = False  # somebody is there to make room on a full disk


@dataclass(slots=True, eq=False)
class Claim:
    """A version on its way."""

    step: int
    reason: Reason
    label: str | None = None
    generation: int = 0


class Observer(Protocol):
    """Whoever wants to know of versions. What it raises ends the training, so it raises what is meant to."""

    def copied(self, claim: Claim) -> None:
        """The live state is, just now, what the version will hold."""
        ...

    def committed(self, claim: Claim, version: Version) -> None: ...


def told(run: Run, message: Message) -> Version:
    """The version that the keeper says is committed; it may be gone already, for newer ones."""
    number = int(message["number"])
    return Version(number, run.layout.version(number), message["manifest"])


def in_words(version: Version, seconds: float | None) -> str:
    """version_3: step 900, 3,600 images, 4,340.1 MB in 1.7 s -> runs/canny/version_3"""
    took = "" if seconds is None else f" in {seconds:.1f} s"
    return (
        f"{version.name}: step {version.step:,}, {version.images_seen:,} images, "
        f"{version.size_bytes / 1e6:,.1f} MB{took} -> {version.path}"
    )
