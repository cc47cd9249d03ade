"""What a picture looks like at a glance, and which others look the same: re-encoded, resized, a shade lighter.

A glance is 8x8 brightnesses and 4x4 of each colour. Two pictures look alike if none of these differs by more than
TOLERANCE. The usual hashes of 64 bits were measured and take half of all drawings on white for each other; see
docs/decisions/023-alike.md.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from everstep.contracts import Uint8Array

TOLERANCE = 10  # of 255
BRIGHT, COLOUR = 8, 4
LENGTH = BRIGHT**2 + 2 * COLOUR**2
TURNED = 512  # pictures whose glances are laid out at once: more do not fit into a cache, and take seven times as long
COUNTED = 50_000  # pictures; of more every second, third and so on


def look_of(image: Image.Image) -> bytes:
    """The glance at an RGB picture."""
    small = image.resize((BRIGHT, BRIGHT), Image.Resampling.BOX).convert("YCbCr")
    bright, *colours = small.split()
    return bright.tobytes() + b"".join(
        colour.resize((COLOUR, COLOUR), Image.Resampling.BOX).tobytes() for colour in colours
    )


class Looks:
    """The glances of many pictures, laid out so that those like one of them are found without asking all of them."""

    def __init__(self, looks: Uint8Array) -> None:
        """Shapes: looks is (pictures, LENGTH)."""
        self._columns = np.empty((LENGTH, len(looks)), np.uint8)
        for first in range(0, len(looks), TURNED):
            self._columns[:, first : first + TURNED] = looks[first : first + TURNED].T
        some = self._columns[:, :: max(1, len(looks) // COUNTED)]  # what is rare among these is asked first
        counts = [np.bincount(column, minlength=256) for column in some]
        self._below = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))  # how many pictures have less than so much

    @classmethod
    def of(cls, looks: bytes, count: int) -> "Looks | None":
        """Of so many glances, end to end. None where there are none, or where one is not known."""
        if not count or len(looks) != count * LENGTH:
            return None
        return cls(np.frombuffer(looks, np.uint8).reshape(count, LENGTH))

    def __len__(self) -> int:
        return int(self._columns.shape[1])

    def like(self, picture: int) -> list[int]:
        """All that look like it, itself among them."""
        mine = self._columns[:, picture].astype(np.int64)
        low, high = np.clip(mine - TOLERANCE, 0, 255), np.clip(mine + TOLERANCE, 0, 255)
        places = np.arange(LENGTH)
        near = self._below[places, high + 1] - self._below[places, low]
        # What is rare about it is asked first: nearly all others are told apart by that, even white sheets with a dot.
        first, *others = [int(place) for place in np.argsort(near, kind="stable")]
        found = np.flatnonzero(_within(self._columns[first], low[first], high[first]))
        for place in others:
            if len(found) == 1:
                break
            found = found[_within(self._columns[place, found], low[place], high[place])]
        return [int(number) for number in found]


def _within(values: Uint8Array, low: np.int64, high: np.int64) -> npt.NDArray[np.bool_]:
    return (values >= np.uint8(low)) & (values <= np.uint8(high))
