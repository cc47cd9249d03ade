"""Stable Diffusion XL: two text encoders, and a UNet that also hears the whole text, the picture's size and its crop.

Source: Podell et al. 2023, sections 2.1 (text) and 2.2 (sizes and crops).
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from everstep.config.schema import Compute
from everstep.contracts import Batch
from everstep.models.arithmetic import Arithmetic
from everstep.models.base import BaseFolder
from everstep.models.reading import frozen
from everstep.models.shapes import smaller
from everstep.models.text import Remembered, tokens
from everstep.models.unet import UnetFamily
from everstep.models.weights import read_json


class StableDiffusionXL(UnetFamily):
    """A frozen base in memory, in the compute dtype and without gradients."""

    name = "sdxl"

    def __init__(self, base: BaseFolder, arithmetic: Arithmetic, compute: Compute) -> None:
        """Raises: UserError if the folder holds networks of another family or cannot be read."""
        super().__init__(base, arithmetic, compute, has_wide_vae=bool(base.config("vae").get("force_upcast", True)))
        dtype, device = arithmetic.dtype, arithmetic.device
        self.text_encoder = frozen(CLIPTextModel, base, "text_encoder", dtype, device)
        self.text_encoder_2 = frozen(CLIPTextModelWithProjection, base, "text_encoder_2", dtype, device)
        self.tokenizer = self._tokenizer("tokenizer", self.text_encoder)
        self.tokenizer_2 = self._tokenizer("tokenizer_2", self.text_encoder_2)
        self.prompts = Remembered(self._encode)
        index = base.path / "model_index.json"
        self._zeros_for_empty = index.is_file() and bool(read_json(index).get("force_zeros_for_empty_prompt", True))

    def _encode(self, prompt: str) -> dict[str, Tensor]:
        """Of both encoders the layer before the last; of the second also the whole text as one vector.

        An empty prompt is all zeros where the base says so: its pipeline guides away from those.
        """
        hidden = []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            ids, _ = tokens(tokenizer, encoder, prompt)
            found = encoder(ids, output_hidden_states=True)
            hidden.append(found.hidden_states[-2][0])
        heard = {"text": torch.cat(hidden, dim=-1), "pooled": found.text_embeds[0]}
        if not prompt and self._zeros_for_empty:
            return {name: torch.zeros_like(tensor) for name, tensor in heard.items()}
        return heard

    def heard(self, batch: Batch) -> Mapping[str, Tensor]:
        """Shapes: text [B,L,D]; pooled [B,P]; frames [B,6]: see contracts.Batch."""
        heard = self.prompts(batch.captions)
        frames_B6 = torch.from_numpy(batch.frames_B6).to(self.arithmetic.device, heard["pooled"].dtype)
        return {**heard, "frames": frames_B6}

    def _arguments(self, heard: Mapping[str, Tensor]) -> dict[str, Any]:
        beside = {"text_embeds": heard["pooled"], "time_ids": heard["frames"]}
        return {"encoder_hidden_states": heard["text"], "added_cond_kwargs": beside}

    def _begin(self, size: str) -> ControlNetModel:
        """What is smaller has fewer blocks, or none, that hear the text."""
        if size == "full":
            return super()._begin(size)
        with torch.device("meta"):  # asked for its config alone
            like = super()._begin("full")
        return ControlNetModel.from_config({**like.config, **smaller(like.config, size)})

    def pipeline(self, controlnet: ControlNetModel, scheduler: str) -> StableDiffusionXLControlNetPipeline:
        """The pipeline anyone would build from the folders, around the networks already in memory."""
        pipeline = StableDiffusionXLControlNetPipeline(
            vae=self.vae.network,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            controlnet=controlnet,
            scheduler=self._sampler(scheduler),
            force_zeros_for_empty_prompt=self._zeros_for_empty,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
