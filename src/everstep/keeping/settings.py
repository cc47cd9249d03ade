"""How a training is watched and kept in memory: a plain table, for whatever loop is kept."""

from dataclasses import dataclass
from typing import Literal

Copying = Literal["auto", "blocking", "background"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Nothing of it changes what is trained. Meanings and ranges stand in config.schema.Keeper, field by field.

    Args:
        deaths_s: mean time between deaths of a trainer: automatic snapshots are then no oftener than is cheapest, and
            `overhead` is the most that they cost; None where as many are taken as it allows.
    """

    snapshots: int | Literal["auto", "off"] = "auto"
    overhead: float = 0.01
    copying: Copying = "auto"
    ram_dir: str | None = None
    restarts: int = 0
    hang_minutes: float = 15.0
    unattended_minutes: float | None = None
    deaths_s: float | None = None
