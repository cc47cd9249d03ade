"""AdamW's moments of a training of others, under the names that our versions give them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everstep.arrival.taking import Taken
from everstep.arrival.trainings import states_in_order
from everstep.models.files import MOMENTS
from everstep.models.foreign import reading
from everstep.models.numbers import Place, Refused

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Moments:
    """Where each is, or the number itself; nothing where they were not to be had, and why."""

    file: Path | None
    found: Mapping[str, Place | float]
    said: str | None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: at.shape if isinstance(at, Place) else () for name, at in self.found.items()}

    def arrays(self) -> Iterator[tuple[str, "np.ndarray[Any, np.dtype[np.float32]]"]]:
        """Raises: Refused if one is no number; OSError."""
        import numpy as np

        assert self.file is not None, "there are some"
        with reading(self.file) as (opened, _):
            for name, at in self.found.items():
                array = at.read(opened) if isinstance(at, Place) else np.asarray(at, np.float32)
                if not np.isfinite(array).all():
                    raise Refused(f"holds moments that are no finite numbers (first: {name})", "A copy is needed.")
                yield name, array


def moments_of(taken: Taken) -> Moments:
    """By the order of the parameters, each checked by its shape."""
    if taken.finding.optimizer is None:
        return Moments(None, {}, None)
    file, table = taken.finding.optimizer
    try:
        found = dict(_found(taken, table))
    except Refused as refused:
        return Moments(None, {}, f"AdamW's moments are not taken: {refused.fault}; they begin anew.")
    return Moments(file, found, f"AdamW's moments of {len(taken.shapes):,} tensors are taken over.")


def _found(taken: Taken, table: Any) -> Iterator[tuple[str, Place | float]]:
    if taken.begun or taken.surplus:
        raise Refused("they are of all tensors, and only some fit")
    names = list(taken.shapes)
    if taken.finding.is_in_file_order:  # a network's parameters are stored in the order in which it has them
        ours = {link.theirs: name for name, link in taken.links.items()}
        names = [ours[there] for there in taken.finding.tensors if there in ours]
    # What comes behind them is of parts of the base that were trained along.
    states = list(islice(states_in_order(table), len(names)))
    if len(states) < len(names):
        raise Refused(f"they are of {len(states):,} tensors, not of {len(names):,}")
    by_name = dict(zip(names, states, strict=True))
    for name, shape in taken.shapes.items():
        state = by_name[name]
        for key in MOMENTS:
            at = state.get(key)
            if key == "step":
                if isinstance(at, Place) and at.items != 1:
                    raise Refused(f"the step of {name} is no number")
                if not isinstance(at, (Place, int, float)):
                    raise Refused(f"{name} has no {key}")
            elif not isinstance(at, Place) or at.dtype not in ("F32", "BF16", "F16", "F64"):
                raise Refused(f"{name} has no {key} in 16 or 32 bits, as AdamW has")
            elif at.shape != tuple(shape):
                raise Refused(f"that of {name} has another shape")
            yield f"{name}.{key}", at
