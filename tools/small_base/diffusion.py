"""Text encoder and UNet, trained together on latents."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from small_base.recipe import CAPTION_DROPOUT, SAVE_PERIOD_S, TEXT_WIDTH, TOKENS, Clock, Recipe, warm_cosine


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet(sample_size: int, recipe: Recipe) -> UNet2DConditionModel:
    levels = len(recipe.channels)
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_scheduler() -> DDIMScheduler:
    """v-prediction: at high noise the network predicts the layout itself, with a useful gradient."""
    return DDIMScheduler(
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Trainer:
    """Text encoder and UNet on fixed latents, with averaged weights; can be written to disk and read back."""

    def __init__(self, tokens: Tensor, latents: Tensor, tokenizer: CLIPTokenizer, recipe: Recipe) -> None:
        torch.manual_seed(1)
        self.recipe, self.tokens, self.latents = recipe, tokens, latents
        self.text_encoder = make_text_encoder(tokenizer).train()
        self.unet = make_unet(latents.shape[-1], recipe).train()
        self.empty = tokenizer("", padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
        self.parameters = [*self.text_encoder.parameters(), *self.unet.parameters()]
        self.averaged = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.unet_rate, weight_decay=1e-2, fused=True)
        self.alphas = make_scheduler().alphas_cumprod.float()
        self.step = 0

    def advance(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.unet_rate * warm_cosine(self.step, self.recipe.unet_steps)
        generator = torch.Generator().manual_seed(self.step)
        loss = self._loss(generator)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        decay = min(0.999, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1 - decay)
        return loss.item()

    def _loss(self, generator: torch.Generator) -> Tensor:
        batch = self.recipe.unet_batch
        chosen = torch.randint(len(self.latents), (batch,), generator=generator)
        latents, tokens = self.latents[chosen], self.tokens[chosen].clone()
        tokens[torch.rand(batch, generator=generator) < CAPTION_DROPOUT] = self.empty
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(self.alphas), (batch,), generator=generator)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        wanted = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        prompts = self.text_encoder(tokens)[0]
        return torch.nn.functional.mse_loss(self.unet(noisy, timesteps, prompts).sample, wanted)

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "parameters": [p.detach() for p in self.parameters],
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        for live, averaged, p, a in zip(
            self.parameters, self.averaged, state["parameters"], state["averaged"], strict=True
        ):
            live.copy_(p)
            averaged.copy_(a)

    @torch.no_grad()
    def averaged_networks(self) -> tuple[CLIPTextModel, UNet2DConditionModel]:
        """Copies that hold the averaged weights."""
        text_encoder, unet = copy.deepcopy(self.text_encoder), copy.deepcopy(self.unet)
        for parameter, averaged in zip([*text_encoder.parameters(), *unet.parameters()], self.averaged, strict=True):
            parameter.copy_(averaged)
        return text_encoder.eval(), unet.eval()


def train_unet(trainer: Trainer, work: Path, write: Callable[[], None]) -> None:
    """Train to the end of the recipe; state and a usable base are written every two minutes."""
    clock, saved, smoothed = Clock("unet", trainer.recipe.unet_steps, trainer.step), time.monotonic(), None
    while trainer.step < trainer.recipe.unet_steps:
        loss = trainer.advance()
        smoothed = loss if smoothed is None else smoothed + (loss - smoothed) / 200
        clock.tell(trainer.step, loss=smoothed)
        if time.monotonic() - saved > SAVE_PERIOD_S or trainer.step == trainer.recipe.unet_steps:
            trainer.save(work / "trainer.pt")
            write()
            saved = time.monotonic()
