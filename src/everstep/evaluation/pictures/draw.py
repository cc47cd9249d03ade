"""Pictures drawn by a ControlNet, always from the same held-out pairs and the same noise.

Draws with the networks already in memory, as many at once as it holds. Knows nothing of runs or files.
"""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from everstep.config.schema import Sampling
from everstep.contracts import Counted, Float32Array, Uint8Array
from everstep.data import Framer
from everstep.data.framing import PLAIN, Look
from everstep.errors import UserError
from everstep.models.family import Family

# In whose words memory is out where the error has no class of its own: CPU allocator, C++, cuBLAS and cuDNN, CUDA, MPS;
# then oneDNN, which compiles a kernel for every new shape and names no reason when it cannot map a page for it.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",
    "out of memory",
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
)
TOGETHER = 8  # pictures that are drawn at once where memory holds them


@dataclass(frozen=True, slots=True)
class Shown:
    """What a picture is drawn from, [H,W,3] uint8 each, and what it should look like where that is known."""

    condition_HWC: Uint8Array
    caption: str
    target_HWC: Uint8Array | None = None


InRounds = Callable[[Sequence[range]], list[Float32Array]]  # parts of what is shown, by their places in it


@dataclass(slots=True)
class Together:
    """How many pictures are drawn at once: found by trying, and remembered from one drawing to the next."""

    size: int = TOGETHER

    def halve(self, pictures: int, why: str) -> None:
        """Memory did not hold these. Raises: UserError if it was one."""
        tried = min(self.size, pictures)
        if tried == 1:
            raise UserError(f"Memory does not hold the drawing of one picture ({why}).")
        self.size = tried // 2


def draw(
    family: Family,
    controlnet: Any,
    shown: Sequence[Shown],
    settings: Sampling,
    together: Together | None = None,
) -> list[Uint8Array]:
    """Draw one picture for each. The noise of picture i depends on the seed and i alone.

    Shapes: conditions [H,W,3] uint8 -> pictures [H,W,3] uint8.
    Raises: UserError if memory does not hold the drawing of one.
    """
    painted = paint(family, controlnet, shown, settings, together=together)
    return [rounded(picture) for picture in painted]


def rounded(picture_HWC: Float32Array) -> Uint8Array:
    """0..1 -> 0..255; what is no number becomes black."""
    return (np.nan_to_num(picture_HWC, nan=0.0) * 255).round().astype(np.uint8)


def paint(
    family: Family,
    controlnet: Any,
    shown: Sequence[Shown],
    settings: Sampling,
    said: Counted = lambda done, total: None,
    together: Together | None = None,
    place: int = 0,
    in_rounds: InRounds | None = None,
) -> list[Float32Array]:
    """As `draw`, before rounding: [H,W,3] float32 0..1, or what came out instead.

    Args:
        said: told of denoising steps.
        together: how many at once; halved, and all of these drawn anew, where memory does not hold them. Bits depend on
            it, so pictures of one call are all drawn alike.
        place: of the first picture among all that the seed is for.
        in_rounds: draws parts of them beside each other, in other processes too.
    """
    together = Together() if together is None else together
    while True:
        try:
            if in_rounds is not None:
                return in_rounds(
                    [range(at, min(at + together.size, len(shown))) for at in range(0, len(shown), together.size)]
                )
            return _in_parts(family, controlnet, shown, settings, said, together.size, place)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        # Out here the error is gone, and the frames in which it held tensors.
        together.halve(len(shown), why)
        free()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def free() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _in_parts(
    family: Family,
    controlnet: Any,
    shown: Sequence[Shown],
    settings: Sampling,
    said: Counted,
    size: int,
    place: int,
) -> list[Float32Array]:
    painted: list[Float32Array] = []
    steps = settings.steps * math.ceil(len(shown) / size)
    for part, first in enumerate(range(0, len(shown), size)):

        def told(pipeline: Any, step: int, timestep: Any, tensors: Any, before: int = part * settings.steps) -> Any:
            said(before + step + 1, steps)
            return tensors

        some = shown[first : first + size]
        painted += paint_part(family, controlnet, some, settings, place + first, told)
    return painted


def untold(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
    """Nothing is said of a step."""
    return tensors


@torch.no_grad()
def paint_part(
    family: Family,
    controlnet: Any,
    shown: Sequence[Shown],
    settings: Sampling,
    place: int,
    told: Callable[..., Any] = untold,
) -> list[Float32Array]:
    """Pictures that are drawn at once, the first of which is at this place. Raises: as memory does not hold them."""
    seed = settings.seed + place
    pipeline = family.pipeline(controlnet, settings.scheduler)
    conditions_B3HW = family.conditions(np.stack([item.condition_HWC for item in shown]))
    was_training = controlnet.training
    controlnet.eval()
    try:
        with family.arithmetic.autocast():
            drawn = pipeline(
                **family.spoken([item.caption for item in shown]),
                image=conditions_B3HW,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                controlnet_conditioning_scale=settings.condition_scale,
                generator=[torch.Generator().manual_seed(seed + i) for i in range(len(shown))],
                output_type="latent",
                callback_on_step_end=told,
            ).images
            pictures = family.decode(drawn)
    finally:
        controlnet.train(was_training)
    return pictures


def shown_pairs(framer: Framer, numbers: Sequence[int], sizes: Sequence[tuple[int, int] | None] = ()) -> list[Shown]:
    """Pairs to draw from, framed as for training. Raises: UserError naming a file that cannot be read.

    Args:
        sizes: width and height of each, where they are not all squares.
    """
    looks = [Look(size=size) for size in sizes] or [PLAIN] * len(numbers)
    framed = map(framer, numbers, looks)
    return [Shown(found.condition_HWC, found.caption, found.target_HWC) for found in framed]
