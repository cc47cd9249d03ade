"""Makes a small text-to-image base in the ordinary diffusers folder layout, from captioned images, on a CPU.

    python tools/make_base.py builtin:circles --out src/everstep/bases/circles
    python tools/make_base.py FOLDER --out bases/mine        FOLDER holds metadata.jsonl: file_name, text

Stages: a tiny VAE; a tokenizer on the captions; text encoder and UNet together, on latents computed once; the VAE's
decoder once more; a model card with what was measured.
Stops and restarts without loss: each stage is kept in OUT.work/ and is not done twice.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from small_base.captioned import Captioned
from small_base.diffusion import Trainer, train_unet
from small_base.folder import model_card, write_base
from small_base.recipe import TOKENS, Recipe
from small_base.tokenizer import write_tokenizer
from small_base.vae import encode_all, polish_decoder, train_vae


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
    parser.add_argument("--decoder-steps", type=int, default=1_500)
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
        decoder_steps=asked.decoder_steps,
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
    train_unet(trainer, work, lambda: write_base(out, vae, work / "tokenizer", *trainer.averaged_networks()))
    polished = once(work / "decoder.pt", lambda: polish_decoder(vae, data, recipe))
    polished.register_to_config(scaling_factor=latents["scale"])
    write_base(out, polished, work / "tokenizer", *trainer.averaged_networks())
    (out / "README.md").write_text(model_card(source, out, replace(recipe, pairs=data.count), sizes))


if __name__ == "__main__":
    main()
