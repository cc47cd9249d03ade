"""What families whose base is a UNet of diffusers have in common: the ControlNet, its prediction, the samplers.

Legend: B batch, 3 RGB, C latent channels, H and W height and width (of latents, or of pixels for _B3HW).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from torch import Tensor, nn

from everstep.config.schema import Compute
from everstep.contracts import Batch, Float32Array, Uint8Array
from everstep.errors import UserError
from everstep.models.arithmetic import NAMES, Arithmetic
from everstep.models.base import BaseFolder
from everstep.models.family import Task, joined, pixels
from everstep.models.reading import frozen, load, refused, stored
from everstep.models.schedule import Ddpm
from everstep.models.shapes import hint_channels
from everstep.models.text import Remembered
from everstep.models.tokens import as_taken, open_tokenizer
from everstep.models.vae import Vae
from everstep.models.weights import find_weights

SAMPLERS = {"unipc": UniPCMultistepScheduler, "ddim": DDIMScheduler}


class UnetFamily:
    """A frozen UNet with its VAE and its schedule of noise; text is what the families differ in."""

    target_range = (-1.0, 1.0)
    tokenizer: Any
    prompts: Remembered
    has_encoders = True

    def __init__(self, base: BaseFolder, arithmetic: Arithmetic, compute: Compute) -> None:
        """Raises: UserError if the folder holds networks of another family or cannot be read."""
        self.base, self.arithmetic, self._compute = base, arithmetic, compute
        self.unet = frozen(UNet2DConditionModel, base, "unet", arithmetic.dtype, arithmetic.home)
        self.vae = Vae(base, arithmetic, channels_last=compute.channels_last, is_wide=base.has_wide_vae())
        self._scheduler = _scheduler(base)
        prediction_type = str(self._scheduler.config.prediction_type)
        if prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(f"{base.name} predicts {prediction_type}; epsilon and v_prediction are known.")
        alphas_cumprod_T = self._scheduler.alphas_cumprod.to(arithmetic.device, torch.float32)
        self.schedule = Ddpm(alphas_cumprod_T, prediction_type)
        if compute.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if compute.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self._unet_forward = torch.compile(self.unet) if compute.compile else self.unet

    def _tokenizer(self, component: str, encoder: Any) -> Any:
        with refused(f"{self.base.name}: {component}"):
            tokenizer = open_tokenizer(self.base.path / component, encoder.config.max_position_embeddings)
        if len(tokenizer) > encoder.config.vocab_size:
            raise UserError(
                f"{self.base.name}: the {component} has {len(tokenizer):,} tokens, its text encoder knows "
                f"{encoder.config.vocab_size:,}: they are of two bases."
            )
        return tokenizer

    # --- the ControlNet ------------------------------------------------------------------------------------

    def new_controlnet(self, seed: int, hint_start: str = "zero", size: str = "full") -> Any:
        """A copy of the base's encoder behind zero convolutions, float32, on the device.

        The hint encoder halves the picture as often as the VAE does; its last layer begins at zero, or at random, so
        that the first step already hears of the condition. Source: Zhang et al. 2023, section 3.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            controlnet = self._begin(size)
            if hint_start == "random":
                controlnet.controlnet_cond_embedding.conv_out.reset_parameters()
        self._begin_as_base(controlnet)
        return self._trainable(controlnet)

    def _begin(self, size: str) -> ControlNetModel:
        """Built like the base's encoder, with numbers of its own."""
        assert size == "full", size  # others are refused before anything starts
        return ControlNetModel.from_unet(
            self.unet,
            conditioning_embedding_out_channels=hint_channels(self.base),
            load_weights_from_unet=False,
        )

    @torch.no_grad()
    def _begin_as_base(self, controlnet: ControlNetModel) -> None:
        """What is trained begins with the base's own numbers, not with those rounded for computing."""
        begun = controlnet.state_dict()
        if self.arithmetic.dtype == torch.float32:
            own: Iterable[tuple[str, Tensor]] = self.unet.state_dict().items()
        else:
            own = stored(UNet2DConditionModel, self.base, "unet", begun)
        for name, tensor in own:
            if name in begun:
                begun[name].copy_(tensor)

    def condition_range(self, controlnet: Any) -> tuple[float, float]:
        """In which numbers it meets a condition, from black to white: as every reader of ControlNets feeds them."""
        return 0.0, 1.0

    def adds_nothing(self, controlnet: Any) -> bool:
        """Whether its zero convolutions are still zero: it predicts what the base does, whatever the condition."""
        ends = (controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block)
        return not any(bool(parameter.any()) for end in ends for parameter in end.parameters())

    def load_controlnet(self, folder: str) -> Any:
        """An existing ControlNet in diffusers layout. Raises: UserError if it does not fit the base."""
        weights = find_weights(Path(folder))
        controlnet = load(ControlNetModel, Path(folder), torch.float32, weights, f"{folder}: the ControlNet")
        for key in ("cross_attention_dim", "in_channels", "block_out_channels"):
            ours, theirs = _plain(self.unet.config[key]), _plain(controlnet.config[key])
            if ours != theirs:
                raise UserError(f"{folder} was not made for {self.base.name}: {key} is {theirs}, not {ours}.")
        return self._trainable(controlnet)

    def _trainable(self, controlnet: ControlNetModel) -> Any:
        controlnet = controlnet.to(self.arithmetic.home, torch.float32).train().requires_grad_(True)
        if self._compute.gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
        if self._compute.channels_last:
            controlnet.to(memory_format=torch.channels_last)
        return controlnet

    @property
    def large(self) -> Sequence[nn.Module]:
        """The frozen networks that are worth sharing out over ranks."""
        return (self.unet,)

    def compiled(self, controlnet: nn.Module) -> Any:
        """What the loss calls: the ControlNet itself, or torch.compile of it where that was asked for."""
        return torch.compile(controlnet) if self._compute.compile else controlnet

    # --- from a batch to a prediction ----------------------------------------------------------------------

    @property
    def has_posterior(self) -> bool:
        return self.vae.has_posterior

    def moments(self, targets_BHWC: Uint8Array) -> tuple[Tensor, Tensor | None]:
        """Shapes: uint8 [B,H,W,3] 0..255 -> [B,C,h,w] each; see Family.moments."""
        return self.vae.moments(targets_BHWC)

    def latents(self, mean_BCHW: Tensor, deviation_BCHW: Tensor | None, noise_BCHW: Tensor | None) -> Tensor:
        """Shapes: [B,C,h,w] each -> latents float32 [B,C,h,w], drawn and scaled to about unit variance."""
        return self.vae.latents(mean_BCHW, deviation_BCHW, noise_BCHW)

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> dict[str, Tensor]:
        """What is heard of a prompt, encoded alone; see Family.encode_prompt."""
        return self._encode(prompt)

    def _encode(self, prompt: str) -> dict[str, Tensor]:
        """As it is trained with."""
        return {name: tensor[0] for name, tensor in self._spoken(prompt).items()}

    def _spoken(self, prompt: str) -> dict[str, Tensor]:
        """As a pipeline hears it, [1, ...] each: where a base trains with zeros for no prompt, its pipeline may not."""
        raise NotImplementedError

    def encoders(self) -> dict[str, dict[str, Any]]:
        """What decides the outcome of encoding; see Family.encoders."""
        files = self.base.file_digests()
        how = {"device": self.arithmetic.device.type, "tf32": self.arithmetic.has_tf32}
        return {
            "latents": {"files": _of(files, "vae"), "dtype": NAMES[self.vae.dtype], **how},
            "text": {"files": _of(files, "text_encoder", "tokenizer"), "dtype": self.arithmetic.precision, **how},
        }

    def let_encoders_go(self, encode_prompt: Callable[[str], dict[str, Tensor]]) -> None:
        """Free the memory of all that encodes; see Family.let_encoders_go."""
        with torch.no_grad():
            self._nothing_said = self._spoken("")
        self.vae.let_encoder_go()
        self.prompts = Remembered(encode_prompt)
        for part in self.base.row.networks:
            if part.startswith("text_encoder"):
                setattr(self, part, None)
        self.has_encoders = False

    def _text(self, batch: Batch) -> dict[str, Tensor]:
        """What was encoded of a batch's captions before, or is now: [B, ...] each, in the compute dtype."""
        if batch.text is None:
            return self.prompts(batch.captions)
        dtype = self.arithmetic.dtype
        names = batch.text[0]
        return {name: joined([one[name] for one in batch.text], self.arithmetic).to(dtype) for name in names}

    def conditions(self, conditions_BHWC: Uint8Array) -> Tensor:
        """Shapes: uint8 [B,H,W,3] 0..255 -> float32 [B,3,H,W] in [0,1]."""
        return pixels(conditions_BHWC, self.arithmetic)

    def predict(self, controlnet: Any | None, task: Task, conditions: Tensor | None) -> Tensor:
        """What the UNet answers under these conditions, [B,C,H,W]; alone where there is no ControlNet."""
        heard = self._arguments(task.heard)
        added = self._added(controlnet, task, heard, conditions)
        prediction: Tensor = self._unet_forward(task.noisy_BCHW, task.told_B, **heard, **added, return_dict=False)[0]
        return prediction

    def _added(
        self, controlnet: Any | None, task: Task, heard: Mapping[str, Any], conditions: Tensor | None
    ) -> dict[str, Any]:
        """What the UNet is given beside, as it takes it."""
        if controlnet is None or conditions is None:
            return {}
        with self.arithmetic.autocast():
            down, middle = controlnet(
                task.noisy_BCHW, task.told_B, **heard, controlnet_cond=conditions, return_dict=False
            )
        dtype = self.arithmetic.dtype
        return {
            "down_block_additional_residuals": [residual.to(dtype) for residual in down],
            "mid_block_additional_residual": middle.to(dtype),
        }

    def _arguments(self, heard: Mapping[str, Tensor]) -> dict[str, Any]:
        """What is heard, as UNet and ControlNet of diffusers take it."""
        raise NotImplementedError

    # --- drawing -------------------------------------------------------------------------------------------

    def spoken(self, captions: Sequence[str]) -> dict[str, Any]:
        """The pipeline's arguments for these captions; see Family.spoken."""
        if self.has_encoders:
            return {"prompt": [as_taken(self.tokenizer, caption) for caption in captions]}
        heard = [self.prompts([caption]) if caption else self._nothing_said for caption in captions]
        return self._embedded(_beside(heard), self.prompts([""] * len(captions)))

    def _embedded(self, heard: Mapping[str, Tensor], empty: Mapping[str, Tensor]) -> dict[str, Any]:
        """The same, of captions that are encoded already, and what is guided away from."""
        return {"prompt_embeds": heard["text"], "negative_prompt_embeds": empty["text"]}

    def decode(self, latents_BCHW: Tensor) -> list[Float32Array]:
        """Shapes: what a pipeline ends with -> pictures [H,W,3] float32 0..1."""
        return self.vae.decode(latents_BCHW)

    def sampler_config(self, scheduler: str) -> dict[str, Any]:
        """The class and every setting of a sampler, for the records."""
        sampler = self._sampler(scheduler)
        return {"class": type(sampler).__name__, **json.loads(sampler.to_json_string())}

    def _sampler(self, scheduler: str) -> Any:
        if scheduler == "base":
            return _base_sampler(self.base)
        return SAMPLERS[scheduler].from_config(self._scheduler.config)


def _scheduler(base: BaseFolder) -> Any:
    with refused(f"{base.name}: scheduler"):
        scheduler = DDPMScheduler.from_pretrained(base.path / "scheduler")
        _base_sampler(base)
    if not torch.isfinite(scheduler.alphas_cumprod).all():
        raise UserError(f"{base.name}: scheduler/scheduler_config.json makes noise that is not finite.")
    return scheduler


def _base_sampler(base: BaseFolder) -> Any:
    import diffusers

    name = base.config("scheduler")["_class_name"]
    return getattr(diffusers, name).from_pretrained(base.path / "scheduler")


def _beside(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of(files: Mapping[str, str], *parts: str) -> dict[str, str]:
    """Digests of the files of some parts of a base: text_encoder is also text_encoder_2."""
    return {name: digest for name, digest in files.items() if name.startswith(parts)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
