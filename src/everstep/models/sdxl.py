"""Stable Diffusion XL: two text encoders, and a UNet that also hears the whole text, the picture's size and its crop.

Source: Podell et al. 2023, sections 2.1 (text) and 2.2 (sizes and crops).
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from everstep.config.schema import Compute
from everstep.contracts import Batch
from everstep.models.arithmetic import Arithmetic, carried
from everstep.models.base import BaseFolder
from everstep.models.beginning import check_lllite
from everstep.models.brought import LLLITE_CLASS, class_of
from everstep.models.controls import EMBEDDING, LITE, WIDTH, lllite_places, lllite_shapes_of
from everstep.models.family import Task
from everstep.models.lllite import ControlNetLLLite, Insertions, LLLitePipeline
from everstep.models.reading import frozen
from everstep.models.shapes import smaller
from everstep.models.text import Remembered, tokens
from everstep.models.unet import UnetFamily
from everstep.models.weights import find_weights, read_json


class StableDiffusionXL(UnetFamily):
    """A frozen base in memory, in the compute dtype and without gradients."""

    name = "sdxl"

    def __init__(self, base: BaseFolder, arithmetic: Arithmetic, compute: Compute) -> None:
        """Raises: UserError if the folder holds networks of another family or cannot be read."""
        super().__init__(base, arithmetic, compute)
        dtype, device = arithmetic.dtype, arithmetic.device
        self.text_encoder = frozen(CLIPTextModel, base, "text_encoder", dtype, device)
        self.text_encoder_2 = frozen(CLIPTextModelWithProjection, base, "text_encoder_2", dtype, device)
        self.tokenizer = self._tokenizer("tokenizer", self.text_encoder)
        self.tokenizer_2 = self._tokenizer("tokenizer_2", self.text_encoder_2)
        self.prompts = Remembered(self._encode)
        index = base.path / "model_index.json"
        self._zeros_for_empty = index.is_file() and bool(read_json(index).get("force_zeros_for_empty_prompt", True))

    def _encode(self, prompt: str) -> dict[str, Tensor]:
        """An empty prompt is all zeros where the base says so: its pipeline guides away from those."""
        heard = super()._encode(prompt)
        if not prompt and self._zeros_for_empty:
            return {name: torch.zeros_like(tensor) for name, tensor in heard.items()}
        return heard

    def _spoken(self, prompt: str) -> dict[str, Tensor]:
        """Of both encoders the layer before the last; of the second also the whole text as one vector."""
        hidden = []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            ids, _ = tokens(tokenizer, encoder, prompt)
            found = encoder(ids, output_hidden_states=True)
            hidden.append(found.hidden_states[-2])
        return {"text": torch.cat(hidden, dim=-1), "pooled": found.text_embeds}

    def encoders(self) -> dict[str, dict[str, Any]]:
        """As of any family; of an empty prompt it is the base that says what is heard."""
        found = super().encoders()
        return {**found, "text": {**found["text"], "zeros_for_empty": self._zeros_for_empty}}

    def heard(self, batch: Batch) -> Mapping[str, Tensor]:
        """Shapes: text [B,L,D]; pooled [B,P]; frames [B,6]: see contracts.Batch."""
        heard = self._text(batch)
        frames_B6 = carried(batch.frames_B6, self.arithmetic.device).to(heard["pooled"].dtype)
        return {**heard, "frames": frames_B6}

    def _embedded(self, heard: Mapping[str, Tensor], empty: Mapping[str, Tensor]) -> dict[str, Any]:
        pooled = {"pooled_prompt_embeds": heard["pooled"], "negative_pooled_prompt_embeds": empty["pooled"]}
        return {**super()._embedded(heard, empty), **pooled}

    def _arguments(self, heard: Mapping[str, Tensor]) -> dict[str, Any]:
        beside = {"text_embeds": heard["pooled"], "time_ids": heard["frames"]}
        return {"encoder_hidden_states": heard["text"], "added_cond_kwargs": beside}

    # --- the ControlNet, whole, smaller, or lite -----------------------------------------------------------

    @cached_property
    def _insertions(self) -> Insertions:
        """The UNet stays untouched until there is an LLLite."""
        return Insertions(self.unet, lllite_places(self.base), self.arithmetic)

    def new_controlnet(self, seed: int, hint_start: str = "zero", size: str = "full") -> Any:
        """As of any family. An LLLite takes nothing from the base, and begins at random behind its last layers."""
        if size != LITE:
            return super().new_controlnet(seed, hint_start, size)
        shapes = lllite_shapes_of(self.base, EMBEDDING, WIDTH)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._lite(ControlNetLLLite(shapes))

    def load_controlnet(self, folder: str) -> Any:
        """An existing one in diffusers layout, or an LLLite. Raises: UserError if it does not fit the base."""
        if class_of(Path(folder)) != LLLITE_CLASS:
            return super().load_controlnet(folder)
        check_lllite(Path(folder), self.base)
        tensors = {n: t for file in find_weights(Path(folder)).tensor_files for n, t in load_file(file).items()}
        network = ControlNetLLLite({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        network.load_state_dict(tensors)
        return self._lite(network)

    def _lite(self, network: ControlNetLLLite) -> ControlNetLLLite:
        assert self._insertions is not None  # they stand before the UNet is compiled
        return network.to(self.arithmetic.device).train().requires_grad_(True)

    def condition_range(self, controlnet: Any) -> tuple[float, float]:
        """In which numbers it meets a condition, from black to white: as every reader of its kind feeds them."""
        return (-1.0, 1.0) if isinstance(controlnet, ControlNetLLLite) else super().condition_range(controlnet)

    def adds_nothing(self, controlnet: Any) -> bool:
        """Whether it predicts what the base does, whatever the condition."""
        is_lite = isinstance(controlnet, ControlNetLLLite)
        return controlnet.adds_nothing() if is_lite else super().adds_nothing(controlnet)

    def compiled(self, controlnet: nn.Module) -> Any:
        """What the loss calls. An LLLite is compiled with the UNet that it stands in."""
        return controlnet if isinstance(controlnet, ControlNetLLLite) else super().compiled(controlnet)

    def _added(
        self, controlnet: Any | None, task: Task, heard: Mapping[str, Any], conditions: Tensor | None
    ) -> dict[str, Any]:
        if isinstance(controlnet, ControlNetLLLite) and conditions is not None:
            self._insertions.set(controlnet, conditions)
            return {}
        if "_insertions" in self.__dict__:
            self._insertions.clear()
        return super()._added(controlnet, task, heard, conditions)

    def _begin(self, size: str) -> ControlNetModel:
        """What is smaller has fewer blocks, or none, that hear the text."""
        if size == "full":
            return super()._begin(size)
        with torch.device("meta"):  # asked for its config alone
            like = super()._begin("full")
        return ControlNetModel.from_config({**like.config, **smaller(like.config, size)})

    def pipeline(self, controlnet: Any, scheduler: str) -> Any:
        """The pipeline anyone would build from the folders, around the networks already in memory."""
        is_lite = isinstance(controlnet, ControlNetLLLite)
        beside = {} if is_lite else {"controlnet": controlnet}
        pipeline = (StableDiffusionXLPipeline if is_lite else StableDiffusionXLControlNetPipeline)(
            vae=self.vae.network,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=self._sampler(scheduler),
            force_zeros_for_empty_prompt=self._zeros_for_empty,
            add_watermarker=False,
            **beside,
        )
        pipeline.set_progress_bar_config(disable=True)
        return LLLitePipeline(pipeline, self._insertions, controlnet) if is_lite else pipeline
