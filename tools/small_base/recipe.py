"""How large a base is and how long it is trained, and how far that is."""

import math
import time
from dataclasses import dataclass

TOKENS = 16
TEXT_WIDTH = 96
CAPTION_DROPOUT = 0.1
SAVE_PERIOD_S = 120.0


@dataclass(frozen=True)
class Recipe:
    """How long and how large. Steps are optimizer steps."""

    resolution: int
    pairs: int
    vae_steps: int
    vae_batch: int
    decoder_steps: int
    unet_steps: int
    unet_batch: int
    unet_rate: float
    channels: tuple[int, ...]
    layers: int


class Clock:
    """Prints how far a stage is, every few seconds."""

    def __init__(self, stage: str, steps: int, done: int = 0) -> None:
        self.stage, self.steps, self.done = stage, steps, done
        self.began, self.told = time.monotonic(), 0.0

    def tell(self, step: int, **values: float) -> None:
        now = time.monotonic()
        if now - self.told < 10 and step < self.steps:
            return
        self.told = now
        left_s = (now - self.began) / max(1, step - self.done) * (self.steps - step)
        shown = " ".join(f"{name} {value:.5f}" for name, value in values.items())
        print(f"{self.stage}: step {step}/{self.steps} {shown}, {left_s / 60:.1f} min left", flush=True)


def warm_cosine(step: int, steps: int, warmup: int = 200) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
