"""How often versions are made: every so many steps, every so much time, or whichever comes first."""

import re
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

UNITS_S = {"s": 1, "sec": 1, "min": 60, "m": 60, "minutes": 60, "h": 3600, "hours": 3600}
PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


class Cadence(str):
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
            elif unit in UNITS_S and seconds is None:
                seconds = float(number) * UNITS_S[unit]
            else:
                raise ValueError(f"'{part.strip()}' is neither steps nor time; write 300, 10min or 300,10min")
        return cls(steps, seconds)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        check = core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls.parse(value)
        )
        return core_schema.json_or_python_schema(
            json_schema=core_schema.str_schema(),
            python_schema=check,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )
