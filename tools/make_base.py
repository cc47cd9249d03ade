"""Makes a small text-to-image base in the ordinary diffusers folder layout, from captioned images, on a CPU.

    python tools/make_base.py builtin:circles --out src/everstep/bases/circles
    python tools/make_base.py FOLDER --out bases/mine        FOLDER holds metadata.jsonl: file_name, text

Three stages: a tiny VAE; a tokenizer on the captions; text encoder and UNet together, on latents computed once.
Stops and restarts without loss: each stage is kept in OUT.work/ and is not done twice.
"""

import argparse
import copy
import itertools
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from PIL import Image, ImageOps
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from everstep.data import circles

START, END = "<|startoftext|>", "<|endoftext|>"
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
    unet_steps: int
    unet_batch: int
    unet_rate: float
    channels: tuple[int, ...]
    layers: int


class Captioned:
    """Numbered captioned images, all of the same side."""

    def __init__(self, source: str, resolution: int, pairs: int) -> None:
        self.resolution = resolution
        self._folder, self._lines = Path(source), []
        self._is_circles = source == "builtin:circles"
        if not self._is_circles:
            text = (self._folder / "metadata.jsonl").read_text(encoding="utf-8-sig")
            self._lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        self.count = pairs if self._is_circles else len(self._lines)
        self._trained = circles.combinations()[circles.HELD_OUT_COUNT :]

    def caption(self, number: int) -> str:
        if self._is_circles:
            return circles.circle(number, self._trained).caption
        return str(self._lines[number]["text"])

    def image(self, number: int) -> np.ndarray[Any, Any]:
        if self._is_circles:
            return np.asarray(circles.target(circles.circle(number, self._trained), self.resolution))
        with Image.open(self._folder / self._lines[number]["file_name"]) as opened:
            side = (self.resolution, self.resolution)
            return np.asarray(ImageOps.fit(opened.convert("RGB"), side, Image.Resampling.LANCZOS))

    def pixels(self, numbers: Iterable[int]) -> Tensor:
        """float32 [B,3,H,W] in [-1,1]."""
        stacked = torch.from_numpy(np.stack([self.image(number) for number in numbers]))
        return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


class Clock:
    """Prints how far a stage is, every few seconds."""

    def __init__(self, stage: str, steps: int) -> None:
        self.stage, self.steps, self.began, self.told = stage, steps, time.monotonic(), 0.0

    def tell(self, step: int, **values: float) -> None:
        now = time.monotonic()
        if now - self.told < 10 and step < self.steps:
            return
        self.told = now
        left_s = (now - self.began) / max(1, step) * (self.steps - step)
        shown = " ".join(f"{name} {value:.5f}" for name, value in values.items())
        print(f"{self.stage}: step {step}/{self.steps} {shown}, {left_s / 60:.1f} min left", flush=True)


def warm_cosine(step: int, steps: int, warmup: int = 200) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


# --- the VAE -----------------------------------------------------------------------------------------------


def make_vae() -> AutoencoderTiny:
    """Factor 4, 4 channels: cheap enough to encode within every training step on a CPU."""
    return AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
    )


def train_vae(data: Captioned, recipe: Recipe) -> AutoencoderTiny:
    """Reconstruction, with a little noise on the latents so that what a UNet gets nearly right looks right."""
    torch.manual_seed(0)
    vae = make_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, recipe.vae_steps))
    clock = Clock("vae", recipe.vae_steps)
    for step in range(1, recipe.vae_steps + 1):
        numbers = torch.randint(data.count, (recipe.vae_batch,)).tolist()
        pixels = data.pixels(numbers)
        latents = vae.encode(pixels).latents
        drawn = vae.decode(latents + 0.05 * torch.randn_like(latents)).sample
        error = (drawn - pixels).abs().mean() + (drawn - pixels).square().mean()
        (error + 1e-3 * latents.square().mean()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.tell(step, error=error.item())
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(vae: AutoencoderTiny, data: Captioned) -> Tensor:
    """All latents, scaled to unit variance; the scale goes into the VAE's config."""
    parts = [vae.encode(data.pixels(range(i, min(i + 64, data.count)))).latents for i in range(0, data.count, 64)]
    latents = torch.cat(parts)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    scaled: Tensor = latents * vae.config.scaling_factor
    return scaled


# --- the tokenizer -----------------------------------------------------------------------------------------


def byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP's byte-level BPE is written in."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def byte_pair_merges(captions: Iterable[str], limit: int) -> list[tuple[str, str]]:
    """The classic algorithm on whole words: join the most frequent neighbours, again and again."""
    counts = Counter(word for caption in captions for word in caption.lower().split())
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {word: _joined(symbols, best) for word, symbols in words.items()}
    return merges


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def write_tokenizer(folder: Path, captions: Iterable[str]) -> CLIPTokenizer:
    merges = [pair for pair in byte_pair_merges(captions, limit=2000) if all(s.isascii() for s in pair)]
    alphabet = byte_characters()
    vocabulary = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    unique = list(dict.fromkeys(vocabulary))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(unique)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "do_lower_case": True,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


# --- text encoder and UNet ---------------------------------------------------------------------------------


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


# --- the folder --------------------------------------------------------------------------------------------


def write_base(folder: Path, vae: Any, tokenizer: Path, text_encoder: Any, unet: Any) -> None:
    """Write all parts beside, in half precision, then put them in place."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    for name, part in {"vae": vae, "unet": unet}.items():
        copy.deepcopy(part).half().save_pretrained(beside / name)
    text_encoder.save_pretrained(beside / "text_encoder")  # float32: transformers loads what is on disk as it is
    make_scheduler().save_pretrained(beside / "scheduler")
    shutil.copytree(tokenizer, beside / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    }
    (beside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The stage's result from the work folder, or made now and kept there."""
    if not path.exists():
        torch.save(make(), path)
    return torch.load(path, weights_only=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--vae-steps", type=int, default=2_000)
    parser.add_argument("--unet-steps", type=int, default=12_000)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 96])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    recipe = Recipe(
        resolution=asked.resolution,
        pairs=asked.pairs,
        vae_steps=asked.vae_steps,
        vae_batch=32,
        unet_steps=asked.unet_steps,
        unet_batch=32,
        unet_rate=1.5e-3,
        channels=tuple(asked.channels),
        layers=asked.layers,
    )
    run(asked.source, asked.out, recipe)


def run(source: str, out: Path, recipe: Recipe) -> None:
    """All stages, each skipped where it is done already."""
    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    data = Captioned(source, recipe.resolution, recipe.pairs)
    vae = once(work / "vae.pt", lambda: train_vae(data, recipe))
    latents = once(work / "latents.pt", lambda: {"latents": encode_all(vae, data), "scale": vae.config.scaling_factor})
    vae.register_to_config(scaling_factor=latents["scale"])
    captions = [data.caption(number) for number in range(data.count)]
    tokenizer = write_tokenizer(work / "tokenizer", captions)
    ids = {
        caption: tokenizer(caption, padding="max_length", max_length=TOKENS, truncation=True).input_ids
        for caption in set(captions)
    }
    tokens = torch.tensor([ids[caption] for caption in captions])
    trainer = Trainer(tokens, latents["latents"], tokenizer, recipe)
    if (work / "trainer.pt").exists():
        trainer.load(work / "trainer.pt")
    sizes = [sum(p.numel() for p in part.parameters()) for part in (trainer.unet, trainer.text_encoder, vae)]
    print(f"parameters: unet {sizes[0]:,}, text encoder {sizes[1]:,}, vae {sizes[2]:,}", flush=True)
    clock, saved = Clock("unet", recipe.unet_steps), time.monotonic()
    smoothed = None
    while trainer.step < recipe.unet_steps:
        loss = trainer.advance()
        smoothed = loss if smoothed is None else smoothed + (loss - smoothed) / 200
        clock.tell(trainer.step, loss=smoothed)
        if time.monotonic() - saved > SAVE_PERIOD_S or trainer.step == recipe.unet_steps:
            trainer.save(work / "trainer.pt")
            text_encoder, unet = trainer.averaged_networks()
            write_base(out, vae, work / "tokenizer", text_encoder, unet)
            saved = time.monotonic()


if __name__ == "__main__":
    main()
