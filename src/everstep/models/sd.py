"""Stable Diffusion 1.x and 2.x: loading, encoding, the loss, and the pipeline that draws.

The only place that knows this family's networks. Knows nothing of runs, steps or optimizers.
Legend: B batch, 3 RGB, C latent channels, H and W height and width (of latents, or of pixels for _B3HW).
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn
from transformers import CLIPTextModel

import everstep.models.libraries  # noqa: F401  (quietens the others)
from everstep.config.schema import Compute
from everstep.contracts import Batch, Uint8Array
from everstep.errors import EverstepError, UserError
from everstep.models.arithmetic import Arithmetic
from everstep.models.base import BaseFolder
from everstep.models.objective import squared_error, squared_error_maps
from everstep.models.schedule import Ddpm
from everstep.models.shapes import hint_channels
from everstep.models.text import PromptEncoder
from everstep.models.tokens import open_tokenizer
from everstep.models.weights import Weights, count, find_weights, listed, reason

SAMPLERS = {"unipc": UniPCMultistepScheduler, "ddim": DDIMScheduler}


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures to be denoised: what a family makes of a batch, but for the conditions.

    Shapes: noisy_BCHW in the compute dtype; told_B as the schedule tells of times; prompts_BLD; wanted_BCHW float32
    """

    noisy_BCHW: Tensor
    told_B: Tensor
    prompts_BLD: Tensor
    wanted_BCHW: Tensor


class StableDiffusion:
    """A frozen base in memory, in the compute dtype and without gradients.

    Units: condition images are given to the ControlNet in [0,1], targets to the VAE in [-1,1].
    """

    name = "sd"
    condition_range = (0.0, 1.0)
    target_range = (-1.0, 1.0)

    def __init__(self, base: BaseFolder, arithmetic: Arithmetic, compute: Compute) -> None:
        """Raises: UserError if the folder holds networks of another family or cannot be read."""
        self.base, self.arithmetic = base, arithmetic
        self.unet = self._frozen(UNet2DConditionModel, "unet")
        self.vae = self._frozen(_vae_class(base), "vae")
        self.text_encoder = self._frozen(CLIPTextModel, "text_encoder")
        self.tokenizer = self._tokenizer()
        self.scheduler = self._scheduler()
        prediction_type = str(self.scheduler.config.prediction_type)
        if prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(f"{base.name} predicts {prediction_type}; epsilon and v_prediction are known.")
        alphas_cumprod_T = self.scheduler.alphas_cumprod.to(arithmetic.device, torch.float32)
        self.schedule = Ddpm(alphas_cumprod_T, prediction_type)
        self.prompts = PromptEncoder(self.tokenizer, self.text_encoder)
        self._compute = compute
        if compute.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if compute.channels_last:
            self.unet.to(memory_format=torch.channels_last)
            self.vae.to(memory_format=torch.channels_last)
        self._unet_forward = torch.compile(self.unet) if compute.compile else self.unet

    def _frozen(self, network: Any, component: str) -> Any:
        loaded = self._loaded(network, component, self.arithmetic.dtype)
        return loaded.to(self.arithmetic.device).requires_grad_(False).eval()

    def _loaded(self, network: Any, component: str, dtype: torch.dtype) -> Any:
        folder, weights = self.base.path / component, self.base.weights(component)
        return _load(network, folder, dtype, weights, f"{self.base.name}: {component}")

    def _tokenizer(self) -> Any:
        config = self.text_encoder.config
        with _refused(f"{self.base.name}: tokenizer"):
            tokenizer = open_tokenizer(self.base.path / "tokenizer", config.max_position_embeddings)
        if len(tokenizer) > config.vocab_size:
            raise UserError(
                f"{self.base.name}: the tokenizer has {len(tokenizer):,} tokens, the text encoder knows "
                f"{config.vocab_size:,}: they are of two bases."
            )
        return tokenizer

    def _scheduler(self) -> Any:
        with _refused(f"{self.base.name}: scheduler"):
            scheduler = DDPMScheduler.from_pretrained(self.base.path / "scheduler")
            _base_sampler(self.base)
        if not torch.isfinite(scheduler.alphas_cumprod).all():
            raise UserError(f"{self.base.name}: scheduler/scheduler_config.json makes noise that is not finite.")
        return scheduler

    # --- the ControlNet ------------------------------------------------------------------------------------

    def new_controlnet(self, seed: int, hint_start: str = "zero") -> ControlNetModel:
        """A copy of the base's encoder behind zero convolutions, float32, on the device.

        The hint encoder halves the picture as often as the VAE does; its last layer begins at zero, or at random, so
        that the first step already hears of the condition. Source: Zhang et al. 2023, section 3.
        """
        unet = self.unet
        if self.arithmetic.dtype != torch.float32:
            # What is trained begins with the base's own numbers, not with those rounded for computing.
            unet = self._loaded(UNet2DConditionModel, "unet", torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_channels(self.base))
            if hint_start == "random":
                controlnet.controlnet_cond_embedding.conv_out.reset_parameters()
        return self._trainable(controlnet)

    def adds_nothing(self, controlnet: ControlNetModel) -> bool:
        """Whether its zero convolutions are still zero: it predicts what the base does, whatever the condition."""
        ends = (controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block)
        return not any(bool(parameter.any()) for end in ends for parameter in end.parameters())

    def load_controlnet(self, folder: str) -> ControlNetModel:
        """An existing ControlNet in diffusers layout. Raises: UserError if it does not fit the base."""
        weights = find_weights(Path(folder))
        controlnet = _load(ControlNetModel, Path(folder), torch.float32, weights, f"{folder}: the ControlNet")
        for key in ("cross_attention_dim", "in_channels", "block_out_channels"):
            ours, theirs = _plain(self.unet.config[key]), _plain(controlnet.config[key])
            if ours != theirs:
                raise UserError(f"{folder} was not made for {self.base.name}: {key} is {theirs}, not {ours}.")
        return self._trainable(controlnet)

    def _trainable(self, controlnet: ControlNetModel) -> ControlNetModel:
        controlnet = controlnet.to(self.arithmetic.device, torch.float32).train().requires_grad_(True)
        if self._compute.gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
        if self._compute.channels_last:
            controlnet.to(memory_format=torch.channels_last)
        return controlnet

    def compiled(self, controlnet: nn.Module) -> Any:
        """What the loss calls: the ControlNet itself, or torch.compile of it where that was asked for."""
        return torch.compile(controlnet) if self._compute.compile else controlnet

    # --- encoding ------------------------------------------------------------------------------------------

    def _pixels(self, images_BHWC: Uint8Array) -> Tensor:
        """uint8 [B,H,W,3] 0..255 -> float32 [B,3,H,W] 0..1 on the device."""
        pixels = torch.from_numpy(images_BHWC).to(self.arithmetic.device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2).float() / 255

    @property
    def has_posterior(self) -> bool:
        """Whether latents are drawn from a distribution, or, with a tiny VAE, computed."""
        return not isinstance(self.vae, AutoencoderTiny)

    @torch.no_grad()
    def encode_targets(self, targets_BHWC: Uint8Array, posterior_noise_BCHW: Tensor | None) -> Tensor:
        """Shapes: uint8 [B,H,W,3] 0..255 -> latents float32 [B,C,h,w], scaled to about unit variance."""
        pixels_B3HW = (self._pixels(targets_BHWC) * 2 - 1).to(self.arithmetic.dtype)
        encoded = self.vae.encode(pixels_B3HW)
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            assert posterior_noise_BCHW is not None, "this VAE draws its latents"
            latents_BCHW = posterior.mean.float() + posterior.std.float() * posterior_noise_BCHW
        else:
            latents_BCHW = encoded.latents.float()
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        scaled_BCHW: Tensor = (latents_BCHW - shift) * self.vae.config.scaling_factor
        return scaled_BCHW

    def conditions(self, conditions_BHWC: Uint8Array) -> Tensor:
        """Shapes: uint8 [B,H,W,3] 0..255 -> float32 [B,3,H,W] in [0,1], as every reader of ControlNets feeds them."""
        return self._pixels(conditions_BHWC)

    # --- the loss ------------------------------------------------------------------------------------------

    def loss(self, controlnet: Any, batch: Batch, min_snr_gamma: float | None = None) -> Tensor:
        """Mean denoising loss of a batch, a float32 scalar with gradients to the ControlNet alone.

        Source: Zhang et al. 2023, eq. 5.
        """
        task = self.task(batch)
        errors_B = self.errors(controlnet, task, self.conditions(batch.conditions_BHWC))
        if min_snr_gamma is not None:
            errors_B = errors_B * self.schedule.min_snr_weights(task.told_B, min_snr_gamma)
        return errors_B.mean()

    def task(self, batch: Batch) -> Task:
        """What a batch asks of the networks, whatever its conditions."""
        device = self.arithmetic.device
        noise_BCHW = torch.from_numpy(batch.noise_BCHW).to(device)
        told_B = self.schedule.told(batch.times_B)
        drawn = batch.posterior_noise_BCHW
        posterior_BCHW = None if drawn is None else torch.from_numpy(drawn).to(device)
        latents_BCHW = self.encode_targets(batch.targets_BHWC, posterior_BCHW)
        noisy_BCHW = self.schedule.noisy(latents_BCHW, noise_BCHW, told_B)
        return Task(
            noisy_BCHW=noisy_BCHW.to(self.arithmetic.dtype),
            told_B=told_B,
            prompts_BLD=self.prompts(batch.captions),
            wanted_BCHW=self.schedule.wanted(latents_BCHW, noise_BCHW, told_B),
        )

    def errors(self, controlnet: Any, task: Task, conditions_B3HW: Tensor) -> Tensor:
        """Mean squared error of each prediction under these conditions, [B] float32."""
        prediction_BCHW = self._predict(controlnet, task, conditions_B3HW)
        return squared_error(prediction_BCHW, task.wanted_BCHW)

    def error_maps(self, controlnet: Any | None, task: Task, conditions_B3HW: Tensor | None) -> Tensor:
        """Squared error of each prediction place by place, [B,H,W] float32; of the base alone where both are None."""
        if controlnet is None or conditions_B3HW is None:
            prediction_BCHW = self._unet_forward(task.noisy_BCHW, task.told_B, task.prompts_BLD, return_dict=False)[0]
        else:
            prediction_BCHW = self._predict(controlnet, task, conditions_B3HW)
        return squared_error_maps(prediction_BCHW, task.wanted_BCHW)

    def _predict(self, controlnet: Any, task: Task, conditions_B3HW: Tensor) -> Tensor:
        with self.arithmetic.autocast():
            down, middle = controlnet(
                task.noisy_BCHW, task.told_B, task.prompts_BLD, controlnet_cond=conditions_B3HW, return_dict=False
            )
        dtype = self.arithmetic.dtype
        prediction: Tensor = self._unet_forward(
            task.noisy_BCHW,
            task.told_B,
            task.prompts_BLD,
            down_block_additional_residuals=[residual.to(dtype) for residual in down],
            mid_block_additional_residual=middle.to(dtype),
            return_dict=False,
        )[0]
        return prediction

    # --- drawing -------------------------------------------------------------------------------------------

    def pipeline(self, controlnet: ControlNetModel, scheduler: str) -> StableDiffusionControlNetPipeline:
        """The pipeline anyone would build from the folders, around the networks already in memory."""
        pipeline = StableDiffusionControlNetPipeline(
            vae=self.vae,
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

    def sampler_config(self, scheduler: str) -> dict[str, Any]:
        """The class and every setting of a sampler, for the records."""
        sampler = self._sampler(scheduler)
        return {"class": type(sampler).__name__, **json.loads(sampler.to_json_string())}

    def _sampler(self, scheduler: str) -> Any:
        if scheduler == "base":
            return _base_sampler(self.base)
        return SAMPLERS[scheduler].from_config(self.scheduler.config)


def _load(network: Any, folder: Path, dtype: torch.dtype, weights: Weights, what: str) -> Any:
    """Raises: UserError in whose words a tensor would be left at whatever memory held, or does not fit."""
    how: dict[str, Any] = {} if network is CLIPTextModel else {"low_cpu_mem_usage": False}
    with _refused(what):
        loaded, told = network.from_pretrained(
            folder,
            dtype=dtype,
            variant=weights.variant,
            use_safetensors=weights.is_safetensors,
            output_loading_info=True,
            local_files_only=True,
            **how,
        )
    missing, misshapen = sorted(told["missing_keys"]), sorted(str(key) for key, *_ in told["mismatched_keys"])
    for names, fault in ((missing, "missing"), (misshapen, "of another shape")):
        if names:
            raise UserError(f"{what} could not be loaded: {count(names, 'tensor')} {fault} ({listed(names)}).")
    return loaded


@contextlib.contextmanager
def _refused(what: str) -> Iterator[None]:
    """The libraries raise whatever they like over files that they cannot read."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, EverstepError):
        raise
    except Exception as error:
        raise UserError(f"{what} could not be loaded: {reason(error)}") from None


def _vae_class(base: BaseFolder) -> Any:
    name = base.config("vae").get("_class_name")
    known = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    if name not in known:
        raise UserError(f"{base.name}: its VAE is {name}; {' and '.join(known)} are known.")
    return known[name]


def _base_sampler(base: BaseFolder) -> Any:
    import diffusers

    name = base.config("scheduler")["_class_name"]
    return getattr(diffusers, name).from_pretrained(base.path / "scheduler")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
