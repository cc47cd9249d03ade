"""Everything random about example i of a run, as pure functions of (seed, i).

So the position in the data is one integer, a resume costs nothing, and the number of threads or processes changes
nothing. numpy's Philox is counter-based: a generator for any example is made at once, without drawing those before
it, and its streams are independent of each other.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from everstep.contracts import Float32Array, Int64Array, Which

# Numbers are part of the format of a run: never reused, never renumbered.
STREAMS_PER_EXAMPLE = 16
STREAMS = {
    "order": 0,
    "noise": 1,
    "posterior": 2,
    "time": 3,
    "dropout": 4,
    "crop": 5,
    "flip": 6,
    "which": 7,
    "condition": 8,
    "batches": 9,
}


class _Key(ISeedSequence):
    """Philox's own key, handed over as a seed is: with `key` it would collect entropy first, for nothing."""

    def __init__(self, *words: int) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return np.array(self._words, dtype)


def generator(seed: int, number: int, stream: str) -> np.random.Generator:
    """The generator of one stream of one example (or, for order and batches, of one epoch)."""
    key: Any = _Key(seed, number * STREAMS_PER_EXAMPLE + STREAMS[stream])
    return np.random.Generator(np.random.Philox(key))


def pair_of(seed: int, example: int, num_pairs: int) -> int:
    """Which of num_pairs pairs example number `example` is: a fresh permutation in each epoch."""
    epoch, position = divmod(example, num_pairs)
    return int(permutation(seed, epoch, num_pairs)[position])


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int, stream: str = "order") -> Int64Array:
    """An epoch's order of so many, each once."""
    return generator(seed, epoch, stream).permutation(count)


def noise(seed: int, example: int, shape: tuple[int, ...], stream: str = "noise") -> Float32Array:
    """Standard normal, float32."""
    return generator(seed, example, stream).standard_normal(shape, dtype=np.float32)


def time(seed: int, example: int, shift: float = 1.0) -> float:
    """How far from picture (0) to noise (1): uniform, or, shifted by s, s u / (1 + (s - 1) u) for uniform u.

    Source: Esser et al. 2024, eq. 23, where s is the root of a ratio of resolutions.
    """
    drawn = generator(seed, example, "time")
    if shift == 1:
        return _even(drawn) / WORD
    uniform = drawn.random()
    return shift * uniform / (1 + (shift - 1) * uniform)


WORD = 1 << 32
EVEN_STEPS = 1000  # of every Stable Diffusion


def _even(drawn: np.random.Generator) -> int:
    """32 bits, drawn again where numpy does that for one of 1000 steps: runs of those days had their steps from it."""
    while (word := int(drawn.integers(WORD))) * EVEN_STEPS % WORD < WORD % EVEN_STEPS:
        pass
    return word


def is_dropped(seed: int, example: int, prompt_dropout: float) -> bool:
    """Whether the example is trained with the empty prompt."""
    return bool(generator(seed, example, "dropout").random() < prompt_dropout)


def is_flipped(seed: int, example: int, flip_probability: float) -> bool:
    """Whether the example is mirrored left to right."""
    return flip_probability > 0 and bool(generator(seed, example, "flip").random() < flip_probability)


def which(seed: int, example: int) -> Which:
    """Which caption and which condition of a pair that has several, each alike often."""
    caption, condition = generator(seed, example, "which").random(2)
    return Which(float(caption), float(condition))


def crop_position(seed: int, example: int) -> tuple[float, float]:
    """Where the cropped square lies in what is left over, across and down, each 0..1."""
    across, down = generator(seed, example, "crop").random(2)
    return float(across), float(down)
