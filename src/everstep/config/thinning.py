"""Which versions a mirror keeps, as people write it in one line: last 5, daily 7, every 6h, within 2days."""

from collections.abc import Callable
from typing import Any, Self

from everstep.config.amounts import Amount, Bytes, Every, Span

EVERYTHING = "everything"
EXAMPLE = "everything, or as last 5, daily 7, every 6h, within 2days, budget 50GB"


def _count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(text)
    return int(text)


RULES: dict[str, Callable[[str], Any]] = {
    "last": _count, "best": _count, "hourly": _count, "daily": _count, "weekly": _count,
    "every": Every.parse, "within": Span.parse, "budget": Bytes.parse,
}  # fmt: skip


class Thinning(Amount):
    """ "everything", or rules of which each keeps some: last 5, daily 7."""

    __slots__ = ()

    def __new__(cls, text: str = EVERYTHING) -> Self:
        return super().__new__(cls, text)

    @classmethod
    def parse(cls, text: str | int) -> Self:
        made = cls(str(text))
        try:
            made.rules()
        except (ValueError, KeyError):
            raise ValueError(f"{str(text)!r} is not understood; write it as {EXAMPLE}") from None
        return made

    def rules(self) -> dict[str, Any]:
        """Each rule's name with its amount; empty where everything is kept. Raises: ValueError, KeyError."""
        if self.strip() == EVERYTHING:
            return {}
        parts = [part.split(maxsplit=1) for part in self.split(",")]
        found = {name: RULES[name](amount) for name, amount in parts}
        if len(found) < len(parts):
            raise ValueError("a rule is there twice")
        return found
