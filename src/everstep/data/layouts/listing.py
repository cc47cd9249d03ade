"""What a reader of a layout says: the pairs that could be understood, what could not, and how their files are read."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from everstep.data.layouts.files import Files
from everstep.letters import oddity, printable, whole_letters


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one line of the list. Severity: "error" where the pair cannot be used, else "warning"."""

    line: int
    file: str
    what: str
    severity: str = "error"
    kind: str = ""  # one word for all findings that are counted together

    def __str__(self) -> str:
        return (
            f"line {self.line}: {printable(self.file)}: {self.what}" if self.file else f"line {self.line}: {self.what}"
        )


class Listed(NamedTuple):  # of which there are millions: a tuple is made in a third of a dataclass's time
    """One pair, its files by the names that `Files` knows them by; what there is several of, the first and the others.

    The condition is empty where the pair has none.
    """

    line: int
    target: str
    condition: str
    caption: str
    other_conditions: tuple[str, ...] = ()
    other_captions: tuple[str, ...] = ()

    @property
    def conditions(self) -> tuple[str, ...]:
        return (self.condition, *self.other_conditions) if self.condition else ()

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.caption, *self.other_captions)

    def files(self) -> tuple[str, ...]:
        """Target and conditions."""
        return (self.target, *self.conditions)


@dataclass(frozen=True, slots=True)
class Listing:
    """The pairs of a place."""

    where: str  # what is checked: as everstep check takes it
    list_at: str  # the list itself; the same where there is no file that is it
    layout: str  # how the pairs lie, in a few words
    pairs: tuple[Listed, ...]
    findings: tuple[Finding, ...]
    files: Files
    is_captioned: bool = True  # whether there are captions at all
    without: tuple[Finding, ...] = ()  # what is missing where a pair has no condition, as far as there is more to say
    identity: bytes | None = None  # what all of it follows from, if its files are there; None where that is not known
    is_recalled: bool = False  # whether it was read before, and not again
    is_distinct: bool = False  # whether it is known that no file is listed twice

    @property
    def has_conditions(self) -> bool:
        return any(pair.condition for pair in self.pairs)


def made(line: int, target: str, conditions: list[str], captions: list[str]) -> tuple[Listed, tuple[Finding, ...]]:
    """A pair of what was read, with what is odd about its captions."""
    found = tuple(
        Finding(line, target, odd[1], "warning", odd[0]) for caption in captions if (odd := oddity(caption)) is not None
    )
    whole = [whole_letters(caption) for caption in captions] or [""]
    condition, *others = conditions or [""]
    return Listed(line, target, condition, whole[0], tuple(others), tuple(whole[1:])), found


def texts(value: Any) -> list[str] | None:
    """One text or a list of some; None for all else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return list(value)
    return None
