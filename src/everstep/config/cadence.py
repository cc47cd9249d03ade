"""How often versions are made: every so many steps, so much time, whichever comes first, or as costs least."""

import re

from everstep.config.amounts import SECONDS, Amount

AUTO = "auto"
WRITTEN = "write 300, 10min, 300,10min or auto"
PART = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([a-z]*)")


class Cadence(Amount):
    """A number of optimizer steps, a time, or both: written and stored as "300", "10min" or "300,10min".

    With neither it is "auto": the interval that costs least, found while training runs.
    """

    __slots__ = ("seconds", "steps")

    steps: int | None
    seconds: float | None

    def __new__(cls, steps: int | None = None, seconds: float | None = None) -> "Cadence":
        parts = [] if steps is None else [str(steps)]
        if seconds is not None:
            parts.append(f"{seconds / 60:g}min")
        self = super().__new__(cls, ",".join(parts) or AUTO)
        self.steps, self.seconds = steps, seconds
        return self

    @property
    def is_auto(self) -> bool:
        """Whether whoever trains finds the interval."""
        return self.steps is None and self.seconds is None

    @classmethod
    def parse(cls, text: str | int) -> "Cadence":
        """Read "300", "300 steps", "10min", "1h", two of them joined by a comma, or "auto". Raises: ValueError."""
        parts = [part.strip() for part in str(text).lower().split(",")]
        if parts == [AUTO]:
            return cls()
        if AUTO in parts:
            raise ValueError(f"{str(text)!r} has auto beside another interval; {WRITTEN}")
        steps: int | None = None
        seconds: float | None = None
        for part in parts:
            match = PART.fullmatch(part)
            number, unit = match.groups() if match else ("0", "?")
            if float(number) <= 0:
                raise ValueError(f"'{part}' is neither steps nor time; {WRITTEN}")
            if unit in ("", "step", "steps") and steps is None and float(number).is_integer():
                steps = int(float(number))
            elif unit in SECONDS and seconds is None:
                seconds = float(number) * SECONDS[unit]
            else:
                raise ValueError(f"'{part}' is neither steps nor time; {WRITTEN}")
        return cls(steps, seconds)
