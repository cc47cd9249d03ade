"""How often versions are made: every so many steps, every so much time, or whichever comes first."""

import re

from everstep.config.amounts import SECONDS, Amount

PART = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([a-z]*)")


class Cadence(Amount):
    """A number of optimizer steps, a time, or both: written and stored as "300", "10min" or "300,10min"."""

    __slots__ = ("seconds", "steps")

    steps: int | None
    seconds: float | None

    def __new__(cls, steps: int | None = None, seconds: float | None = None) -> "Cadence":
        parts = [] if steps is None else [str(steps)]
        if seconds is not None:
            parts.append(f"{seconds / 60:g}min")
        self = super().__new__(cls, ",".join(parts))
        self.steps, self.seconds = steps, seconds
        return self

    @classmethod
    def parse(cls, text: str | int) -> "Cadence":
        """Read "300", "300 steps", "10min", "1h" or two of them joined by a comma. Raises: ValueError."""
        steps: int | None = None
        seconds: float | None = None
        for part in str(text).split(","):
            match = PART.fullmatch(part.strip().lower())
            number, unit = match.groups() if match else ("0", "?")
            if float(number) <= 0:
                raise ValueError(f"'{part.strip()}' is neither steps nor time; write 300, 10min or 300,10min")
            if unit in ("", "step", "steps") and steps is None and float(number).is_integer():
                steps = int(float(number))
            elif unit in SECONDS and seconds is None:
                seconds = float(number) * SECONDS[unit]
            else:
                raise ValueError(f"'{part.strip()}' is neither steps nor time; write 300, 10min or 300,10min")
        return cls(steps, seconds)
