"""From a person's word to a ControlNet folder: found, taken, written, and what is said of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everstep.arrival.finding import locate_source
from everstep.arrival.folder import write_folder
from everstep.arrival.moments import moments_of
from everstep.arrival.receipt import receipt_of
from everstep.arrival.taking import take
from everstep.arrival.trainings import find_any
from everstep.errors import UserError
from everstep.models.base import BaseFolder
from everstep.models.numbers import Refused


def bring(
    source: str, target: Path, base: BaseFolder | None, is_partial: bool, name: str, undone: str
) -> dict[str, Any]:
    """Make the folder; returns its receipt.

    Args:
        name: of what was asked for, as a sentence begins with it.
        undone: what was not done, where it is refused.

    Raises: UserError; DamageFound; OSError.
    """
    with in_words(name, undone):
        taken = take(find_any(locate_source(source)), base, is_partial)
        moments = moments_of(taken)
        receipt = receipt_of(taken, source, moments.said)
        write_folder(taken, moments, receipt, target)
    return receipt


@contextmanager
def in_words(name: str, undone: str) -> Iterator[None]:
    """Raises: UserError for whatever is refused inside."""
    try:
        yield
    except Refused as refused:
        said = f"{name} {refused.fault}. {undone}"
        raise UserError(f"{said}\n{refused.next_act}" if refused.next_act else said) from None
