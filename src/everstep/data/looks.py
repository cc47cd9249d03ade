"""What a picture looks like at a glance, and which others look the same: re-encoded, resized, a shade lighter.

A glance is 8x8 brightnesses and 4x4 of each colour. Two pictures look alike if none of these differs by more than
TOLERANCE. The usual hashes of 64 bits were measured and take half of all drawings on white for each other; see
docs/decisions/021-check.md.
"""

import numpy as np
from PIL import Image

from everstep.contracts import Uint8Array

TOLERANCE = 10  # of 255
BRIGHT, COLOUR = 8, 4
LENGTH = BRIGHT**2 + 2 * COLOUR**2


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
        self._looks = looks
        some = looks[:: max(1, len(looks) // 10_000)]
        self._order = np.argsort(-some.astype(np.float64).var(axis=0), kind="stable")  # what tells most comes first
        self._rank = np.argsort(looks[:, self._order[0]], kind="stable")
        self._columns = np.ascontiguousarray(looks[self._rank][:, self._order].T)

    @classmethod
    def of(cls, looks: bytes, count: int) -> "Looks | None":
        """Of so many glances, end to end. None where there are none, or where one is not known."""
        if not count or len(looks) != count * LENGTH:
            return None
        return cls(np.frombuffer(looks, np.uint8).reshape(count, LENGTH))

    def __len__(self) -> int:
        return len(self._looks)

    def like(self, picture: int) -> list[int]:
        """All that look like it, itself among them."""
        mine = self._looks[picture][self._order].astype(np.int16)
        low, high = (
            np.clip(mine - TOLERANCE, 0, 255).astype(np.uint8),
            np.clip(mine + TOLERANCE, 0, 255).astype(np.uint8),
        )
        first = int(np.searchsorted(self._columns[0], low[0], "left"))
        last = int(np.searchsorted(self._columns[0], high[0], "right"))
        found = np.arange(first, last)
        for place in range(1, LENGTH):
            values = self._columns[place, first:last] if len(found) == last - first else self._columns[place, found]
            found = found[(values >= low[place]) & (values <= high[place])]
            if len(found) == 1:
                break
        return [int(number) for number in self._rank[found]]
