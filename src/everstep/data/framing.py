"""A pair as it is trained on, judged and drawn from: both pictures cropped, resized, mirrored alike; one caption.

Everything that looks at pairs looks at them through this, so that all see the same.
"""

from dataclasses import dataclass

from everstep.contracts import Embedding, Framing, Moments, PairSource, Smaller, Uint8Array, Which
from everstep.data.conditions import Maker
from everstep.data.transform import CENTRE, fit, fit_target, frame

FIRST = Which()


@dataclass(frozen=True, slots=True)
class Framed:
    """Shapes: target and condition [H,W,3] uint8; frame as in contracts.Batch."""

    target_HWC: Uint8Array
    condition_HWC: Uint8Array
    caption: str
    frame: tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The same for whoever encodes it next: what was encoded of the target before, if it is kept, stands for it."""

    target_HWC: Uint8Array | None
    condition_HWC: Uint8Array
    caption: str
    frame: tuple[int, int, int, int, int, int]
    moments: Moments | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """How a pair is looked at.

    Args:
        which: of several captions or conditions of the pair.
        example: number of the example that it is for; None for all that is the same at every look, as what is held out.
        size: width and height that it is trained at; None for the square.
    """

    which: Which = FIRST
    crop_at: tuple[float, float] = CENTRE
    is_flipped: bool = False
    example: int | None = None
    size: tuple[int, int] | None = None


PLAIN = Look()


class Framer:
    """Pairs of a source, framed. Any threads may ask at once."""

    def __init__(self, source: PairSource, framing: Framing, maker: Maker | None = None) -> None:
        """
        Args:
            maker: of conditions; left out, they are pictures of the pairs.
        """
        self.source, self.framing, self.maker = source, framing, maker

    def __call__(self, pair: int, look: Look = PLAIN) -> Framed:
        """
        Raises: what the source raises where the pair cannot be read; DataUnreadable where no condition can be made.
        """
        framing, crop_at, is_flipped = self.framing, look.crop_at, look.is_flipped
        trained = look.size or (framing.resolution, framing.resolution)
        loaded = self.source.load(pair, look.which, self._enough(trained))
        if self.maker is None:
            target, condition = fit(loaded, trained, framing.condition_resize, crop_at, is_flipped, framing.resize)
        else:
            target = fit_target(loaded.target, trained, crop_at, is_flipped, framing.resize)
            condition = self.maker(target, self.source.name(pair), look.example)
        found = frame(loaded.size or loaded.target.size, trained, crop_at, is_flipped)
        return Framed(target, condition, loaded.caption, found)

    def _enough(self, size: tuple[int, int]) -> Smaller | None:
        """Where means are taken, decoders may begin with that."""
        if self.framing.resize != "area":
            return None
        return Smaller(size, size if self.framing.condition_resize == "area" else None)

    def prepared(self, pair: int, look: Look = PLAIN) -> Prepared:
        """As for a batch. Raises: as above."""
        framed = self(pair, look)
        return Prepared(framed.target_HWC, framed.condition_HWC, framed.caption, framed.frame)

    def text(self, caption: str) -> Embedding | None:
        """What was encoded of a caption before, if it is kept."""
        return None
