"""What every family of bases can do. Whatever trains, measures or draws knows this and no family by its name.

A family is one file in this package and one row in registry.py.
Legend: B batch, 3 RGB, C latent channels, H and W height and width (of latents, or of pixels for _B3HW).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from everstep.contracts import Batch, Float32Array, Uint8Array
from everstep.models.arithmetic import Arithmetic, carried
from everstep.models.base import BaseFolder
from everstep.models.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures to be denoised: what a family makes of a batch, but for the conditions.

    Shapes: noisy_BCHW in the compute dtype; told_B as the schedule tells of times; wanted_BCHW float32
    """

    noisy_BCHW: Tensor
    told_B: Tensor
    heard: Mapping[str, Tensor]  # what else the base hears, [B, ...] each: text, and whatever a family has beside it
    wanted_BCHW: Tensor


class Family(Protocol):
    """A frozen base in memory, in the compute dtype and without gradients, and ControlNets for it.

    Units: targets are given to the VAE in `target_range`.
    """

    name: str
    target_range: tuple[float, float]
    base: BaseFolder
    arithmetic: Arithmetic
    tokenizer: Any  # that decides how much of a caption is heard

    @property
    def schedule(self) -> Schedule:
        """From picture to noise."""
        ...

    @property
    def has_posterior(self) -> bool:
        """Whether latents are drawn from a distribution, or computed."""
        ...

    @property
    def large(self) -> Sequence[nn.Module]:
        """The frozen networks that are worth sharing out over ranks."""
        ...

    # --- ControlNets ---------------------------------------------------------------------------------------

    def new_controlnet(self, seed: int, hint_start: str = "zero", size: str = "full") -> Any:
        """One that adds nothing yet, float32, on the device.

        Args:
            hint_start: how the hint encoder's last layer begins: at zero, or at random, so that the first step already
                hears of the condition.
            size: full, or another kind that the family's row in the registry names.
        """
        ...

    def condition_range(self, controlnet: Any) -> tuple[float, float]:
        """In which numbers it meets a condition, from black to white."""
        ...

    def load_controlnet(self, folder: str) -> Any:
        """An existing one, as a version holds it. Raises: UserError if it does not fit the base."""
        ...

    def adds_nothing(self, controlnet: Any) -> bool:
        """Whether its zero layers are still zero: it predicts what the base does, whatever the condition."""
        ...

    def compiled(self, controlnet: nn.Module) -> Any:
        """What the loss calls: the ControlNet itself, or torch.compile of it where that was asked for."""
        ...

    # --- from a batch to a prediction ----------------------------------------------------------------------

    def moments(self, targets_BHWC: Uint8Array) -> tuple[Tensor, Tensor | None]:
        """What its VAE makes of pictures: mean and deviation of their latents, unscaled, in the VAE's dtype.

        Shapes: uint8 [B,H,W,3] 0..255 -> [B,C,h,w] each; no deviation where latents are computed, not drawn.
        """
        ...

    def latents(self, mean_BCHW: Tensor, deviation_BCHW: Tensor | None, noise_BCHW: Tensor | None) -> Tensor:
        """Shapes: [B,C,h,w] each -> latents float32 [B,C,h,w], drawn and scaled to about unit variance."""
        ...

    def encode_prompt(self, prompt: str) -> dict[str, Tensor]:
        """What is heard of a prompt, encoded alone; without a batch dimension, in the compute dtype."""
        ...

    def encoders(self) -> dict[str, dict[str, Any]]:
        """What decides the outcome of `moments` and `encode_prompt`, as JSON: under "latents" and "text"."""
        ...

    def let_encoders_go(self, encode_prompt: Callable[[str], dict[str, Tensor]]) -> None:
        """Free the memory of all that encodes; whoever asks for a prompt gets it from there. Drawing goes on."""
        ...

    def conditions(self, conditions_BHWC: Uint8Array) -> Tensor:
        """Shapes: uint8 [B,H,W,3] 0..255 -> what `predict` and the pipeline are given, on the device."""
        ...

    def heard(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the base hears of a batch besides noise and time."""
        ...

    def predict(self, controlnet: Any | None, task: Task, conditions: Tensor | None) -> Tensor:
        """What the base answers under these conditions, [B,C,H,W]; alone where there is no ControlNet."""
        ...

    # --- drawing -------------------------------------------------------------------------------------------

    def pipeline(self, controlnet: Any, scheduler: str) -> Any:
        """The pipeline of diffusers that anyone would build from the folders, around the networks already in memory."""
        ...

    def spoken(self, captions: Sequence[str]) -> dict[str, Any]:
        """The pipeline's arguments for these captions: as texts, or, where encoders have gone, as what is kept."""
        ...

    def decode(self, latents_BCHW: Tensor) -> list[Float32Array]:
        """Shapes: what a pipeline ends with -> pictures [H,W,3] float32 0..1."""
        ...

    def sampler_config(self, scheduler: str) -> dict[str, Any]:
        """The class and every setting of a sampler, for the records."""
        ...


def joined(values: Sequence[Float32Array], arithmetic: Arithmetic) -> Tensor:
    """Shapes: B arrays [...] float32 -> [B, ...] on the device."""
    return carried(np.stack(values), arithmetic.device)


def pixels(images_BHWC: Uint8Array, arithmetic: Arithmetic) -> Tensor:
    """Shapes: uint8 [B,H,W,3] 0..255 -> float32 [B,3,H,W] 0..1 on the device."""
    found = carried(images_BHWC, arithmetic.device)
    return found.permute(0, 3, 1, 2).float() / 255
