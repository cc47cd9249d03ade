"""One example of a run, from its number alone: which pair, its crop, its noise, its time."""

from dataclasses import dataclass

from everstep.contracts import Embedding, ExampleSettings, Float32Array, Moments, Uint8Array
from everstep.data import order
from everstep.data.framing import Framer, Look
from everstep.data.sequence import Turn
from everstep.data.transform import CENTRE


@dataclass(frozen=True, slots=True)
class Example:
    """One example, ready for a batch; see contracts.Batch for shapes."""

    number: int
    pair: int
    caption: str
    target_HWC: Uint8Array | None
    condition_HWC: Uint8Array
    noise_CHW: Float32Array
    posterior_noise_CHW: Float32Array | None
    time: float
    frame: tuple[int, int, int, int, int, int]
    moments: Moments | None
    text: Embedding | None


def make_example(framer: Framer, turn: Turn, settings: ExampleSettings) -> Example:
    """The example of a run whose turn it is: a pure function of its number, pair and size, and the settings."""
    seed, number = settings.seed, turn.number
    shape = _latent_shape(settings, framer.framing.resolution, turn.size)
    crop_at = order.crop_position(seed, number) if settings.crop == "random" else CENTRE
    is_flipped = order.is_flipped(seed, number, settings.flip_probability)
    framed = framer.prepared(turn.pair, Look(order.which(seed, number), crop_at, is_flipped, number, turn.size))
    caption = "" if order.is_dropped(seed, number, settings.prompt_dropout) else framed.caption
    return Example(
        number=number,
        pair=turn.pair,
        caption=caption,
        target_HWC=framed.target_HWC,
        condition_HWC=framed.condition_HWC,
        noise_CHW=order.noise(seed, number, shape),
        posterior_noise_CHW=order.noise(seed, number, shape, "posterior") if settings.posterior else None,
        time=order.time(seed, number, settings.timestep_shift),
        frame=framed.frame,
        moments=framed.moments,
        text=framer.text(caption),
    )


def _latent_shape(settings: ExampleSettings, resolution: int, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a picture of this size; the settings have the square's."""
    if size is None:
        return settings.latent_shape
    channels, side, _ = settings.latent_shape
    (width, height), factor = size, resolution // side
    return channels, height // factor, width // factor
