"""Amounts as people write them: 50GB, 12h, "10 versions". Each is stored as it was written and knows its value."""

import re
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import core_schema

AMOUNT = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([a-zA-Z]*)")
BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
SECONDS = {
    "s": 1, "sec": 1, "m": 60, "min": 60, "minutes": 60, "h": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800,
}  # fmt: skip


class Amount(str):
    """A string that was understood."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """Raises: ValueError saying how it is written."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: "GetCoreSchemaHandler") -> "core_schema.CoreSchema":
        from pydantic_core import core_schema  # slow to import, and only who builds the schema needs it

        check = core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls.parse(value)
        )
        return core_schema.json_or_python_schema(
            json_schema=core_schema.str_schema(),
            python_schema=check,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


def _split(text: str | int, example: str) -> tuple[float, str]:
    match = AMOUNT.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{str(text)!r} is not understood; write it as {example}")
    return float(match[1]), match[2].lower()


class Bytes(Amount):
    """50GB, 800 MB, 2GiB."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | int) -> Self:
        if _split(text, "50GB")[1] not in BYTES:
            raise ValueError(f"{str(text)!r} is not understood; write it as 50GB")
        return cls(text)

    @property
    def total(self) -> int:
        """In bytes."""
        number, unit = _split(self, "50GB")
        return round(number * BYTES[unit])


class Span(Amount):
    """90min, 12h, 2days."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | int) -> Self:
        if _split(text, "12h")[1] not in SECONDS:
            raise ValueError(f"{str(text)!r} is not understood; write it as 90min, 12h or 2days")
        return cls(text)

    @property
    def seconds(self) -> float:
        number, unit = _split(self, "12h")
        return number * SECONDS[unit]


class Every(Amount):
    """ "10 versions", "3000 steps" (or 3000), "6h", or "none"."""

    __slots__ = ()

    def __new__(cls, text: str = "none", versions: int | None = None) -> Self:
        return super().__new__(cls, text if versions is None else f"{versions} versions")

    @classmethod
    def parse(cls, text: str | int) -> Self:
        made = cls(str(text))
        if str(text) != "none" and all(value is None for value in (made.versions, made.steps, made.seconds)):
            raise ValueError(f"{str(text)!r} is not understood; write it as 10 versions, 3000, 6h or none")
        return made

    @property
    def versions(self) -> int | None:
        return self._count("version", "versions")

    @property
    def steps(self) -> int | None:
        return self._count("", "step", "steps")

    @property
    def seconds(self) -> float | None:
        number, unit = self._parts()
        return number * SECONDS[unit] if unit in SECONDS and number > 0 else None

    def _count(self, *units: str) -> int | None:
        number, unit = self._parts()
        return int(number) if unit in units and number >= 1 else None

    def _parts(self) -> tuple[float, str]:
        return (0.0, "none") if self == "none" else _split(self, "10 versions, 3000, 6h or none")
