"""Stable Diffusion 1.x and 2.x: one text encoder, whose last layer the UNet hears."""

from collections.abc import Mapping
from typing import Any

from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from torch import Tensor
from transformers import CLIPTextModel

from everstep.config.schema import Compute
from everstep.contracts import Batch
from everstep.models.arithmetic import Arithmetic
from everstep.models.base import BaseFolder
from everstep.models.reading import frozen
from everstep.models.text import Remembered, tokens
from everstep.models.unet import UnetFamily


class StableDiffusion(UnetFamily):
    """A frozen base in memory, in the compute dtype and without gradients."""

    name = "sd"

    def __init__(self, base: BaseFolder, arithmetic: Arithmetic, compute: Compute) -> None:
        """Raises: UserError if the folder holds networks of another family or cannot be read."""
        super().__init__(base, arithmetic, compute)
        self.text_encoder = frozen(CLIPTextModel, base, "text_encoder", arithmetic.dtype, arithmetic.device)
        self.tokenizer = self._tokenizer("tokenizer", self.text_encoder)
        self.prompts = Remembered(self._encode)

    def _spoken(self, prompt: str) -> dict[str, Tensor]:
        ids, mask = tokens(self.tokenizer, self.text_encoder, prompt)
        return {"text": self.text_encoder(ids, attention_mask=mask)[0]}

    def heard(self, batch: Batch) -> Mapping[str, Tensor]:
        """Shapes: text [B,L,D]."""
        return self._text(batch)

    def _arguments(self, heard: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"encoder_hidden_states": heard["text"]}

    def pipeline(self, controlnet: ControlNetModel, scheduler: str) -> StableDiffusionControlNetPipeline:
        """The pipeline anyone would build from the folders, around the networks already in memory."""
        pipeline = StableDiffusionControlNetPipeline(
            vae=self.vae.network,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            controlnet=controlnet,
            scheduler=self._sampler(scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
