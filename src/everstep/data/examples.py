"""One example of a run, from its number alone: which pair, its crop, its noise, its time."""

from collections.abc import Sequence
from dataclasses import dataclass

from everstep.contracts import Embedding, ExampleSettings, Float32Array, Moments, Uint8Array
from everstep.data import order
from everstep.data.framing import Framer
from everstep.data.transform import CENTRE


@dataclass(frozen=True, slots=True)
class Example:
    """One example, ready for a batch; see contracts.Batch for shapes."""

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


def make_example(framer: Framer, training: Sequence[int], number: int, settings: ExampleSettings) -> Example:
    """Example `number` of a run: a pure function of its number and the settings."""
    seed = settings.seed
    pair = training[order.pair_of(seed, number, len(training))]
    crop_at = order.crop_position(seed, number) if settings.crop == "random" else CENTRE
    is_flipped = order.is_flipped(seed, number, settings.flip_probability)
    framed = framer.prepared(pair, order.which(seed, number), crop_at, is_flipped, number)
    caption = "" if order.is_dropped(seed, number, settings.prompt_dropout) else framed.caption
    return Example(
        pair=pair,
        caption=caption,
        target_HWC=framed.target_HWC,
        condition_HWC=framed.condition_HWC,
        noise_CHW=order.noise(seed, number, settings.latent_shape),
        posterior_noise_CHW=order.noise(seed, number, settings.latent_shape, "posterior")
        if settings.posterior
        else None,
        time=order.time(seed, number, settings.timestep_shift),
        frame=framed.frame,
        moments=framed.moments,
        text=framer.text(caption),
    )
