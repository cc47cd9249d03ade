"""What people bring as a base or a start, and how it is spoilt."""

import json
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bases import write_base
from everstep.config.load import dump, resolve
from everstep.exchange import sd
from everstep.models.one_file import plan_of
from everstep.models.whole import SD1
from everstep.versions import Run
from everstep.versions.tensorfile import TensorPlace, encode_header
from street import Row, Street, Words

Spoil = Callable[[Path], object]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SECOND = "text_encoder_2/model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n"


def config(file: str, **values: Any) -> Spoil:
    """Keys of a config changed; those that are None are left out where `...` is given."""

    def spoil(folder: Path) -> None:
        path = folder / file
        settings = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))

    return spoil


def tensors(file: str, change: Callable[[dict[str, np.ndarray]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        held = load_file(folder / file)
        change(held)
        save_file(held, folder / file, {"format": "pt"})

    return spoil


def text(file: str, content: str) -> Spoil:
    return lambda folder: (folder / file).write_text(content)


def cut(file: str) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return spoil


def renamed(*pairs: tuple[str, str]) -> Spoil:
    def spoil(folder: Path) -> None:
        for before, after in pairs:
            (folder / before).rename(folder / after)

    return spoil


def sharded(folder: Path, left_out: bool = False) -> None:
    held = load_file(folder / UNET)
    (folder / UNET).unlink()
    names, stem = sorted(held), "diffusion_pytorch_model"
    shards = {f"{stem}-00001-of-00002.safetensors": names[::2], f"{stem}-00002-of-00002.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: held[name] for name in inside}, folder / "unet" / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (folder / f"unet/{stem}.safetensors.index.json").write_text(json.dumps(index))
    if left_out:
        (folder / f"unet/{stem}-00002-of-00002.safetensors").unlink()


def xl(street: Street, name: str, *spoils: Spoil) -> Path:
    """A base of SDXL, spoilt."""
    folder = write_base(street.folder / name, like="sdxl")
    for spoil in spoils:
        spoil(folder)
    return folder


def drop(*names: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda held: [held.pop(name) for name in names]


def base(name: str, *spoils: Spoil, code: int = 2, shows: str = "") -> Row:
    """A copy of a base, spoilt."""

    def build(street: Street) -> Words:
        folder = street.base()
        for spoil in spoils:
            spoil(folder)
        return street.train(base=folder)

    return Row(name, build, code, shows)


def brought(name: str, make: Callable[[Street], object], code: int = 2, shows: str = "", option: str = "base") -> Row:
    """Something in the place of a base, or of a start."""
    build: Callable[[Street], Words] = lambda street: street.train(base=make(street))  # noqa: E731
    if option == "--from":
        build = lambda street: street.train("--from", make(street))  # noqa: E731
    return Row(name, build, code, shows)


def one_file(
    name: str, *keys: str, says: dict[str, str] | None = None, **shaped: tuple[int, ...]
) -> Callable[[Street], Path]:
    """A file of tensors; dots of their names are two underscores where they have a shape."""

    def make(street: Street) -> Path:
        shapes = dict.fromkeys(keys, (2, 2)) | {key.replace("__", "."): shape for key, shape in shaped.items()}
        save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, street.folder / name, says)
        return street.folder / name

    return make


def true_file(name: str, *left_out: str, says: dict[str, str] | None = None, **more: Any) -> Callable[[Street], Path]:
    """A file of Stable Diffusion 1.5's size that is all holes, or other shapes in it: little but the header is read."""

    def make(street: Street) -> Path:
        shapes = dict(TRUE) | {key.replace("__", "."): shape for key, shape in more.items()}
        places, end = dict[str, TensorPlace](), 0
        for key, shape in shapes.items():
            if not key.startswith(left_out):
                places[key] = TensorPlace("F16", shape, end, end := end + 2 * prod(shape))
        with (street.folder / name).open("wb") as file:
            header = encode_header(places, says or {})
            file.write(header)
            file.truncate(len(header) + end)
        return street.folder / name

    return make


def true_shapes() -> dict[str, tuple[int, ...]]:
    layouts = (sd.UNET, sd.VAE, sd.CLIP)
    expanded = [layout.expand(plan_of(layout.network, SD1.parts[layout.network])) for layout in layouts]
    return {name: shape for names in expanded for name, shape in names.their_shapes().items()}


TRUE = true_shapes()


def folder_with(**parts: dict[str, Any]) -> Callable[[Street], Path]:
    """A folder of another family: only its configs."""

    def make(street: Street) -> Path:
        made = street.folder / "other"
        for place, settings in parts.items():
            path = made / place.replace("__", "/") / "config.json" if place != "index" else made / "model_index.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        return made

    return make


def moved_into(*below: str) -> Callable[[Street], Path]:
    def make(street: Street) -> Path:
        shutil.copytree(street.right_base, street.folder.joinpath("outer", *below))
        return street.folder / "outer"

    return make


def controlnet(street: Street, *spoils: Spoil, **changed: Any) -> Path:
    """One for this base, written by diffusers."""
    from diffusers import ControlNetModel

    unet = json.loads((street.right_base / "unet/config.json").read_text())
    keys = ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim")
    settings = {key: unet[key] for key in (*keys, "attention_head_dim", "norm_num_groups")}
    settings["conditioning_embedding_out_channels"] = (16, 32)
    folder = street.folder / "net"
    ControlNetModel(**(settings | changed)).save_pretrained(folder)
    for spoil in spoils:
        spoil(folder)
    return folder


def a_run(street: Street) -> Path:
    """One that has no versions yet."""
    return Run.create(street.folder / "runs/b", dump(resolve(None, {}))).path


def as_bin(folder: Path, *left_out: str) -> None:
    """The UNet as older bases hold it."""
    import torch

    held = {name: torch.from_numpy(values) for name, values in load_file(folder / UNET).items() if name not in left_out}
    (folder / UNET).unlink()
    torch.save(held, folder / "unet/diffusion_pytorch_model.bin")


def start(name: str, *spoils: Spoil, code: int = 2, shows: str = "", **changed: Any) -> Row:
    return brought(name, lambda street: controlnet(street, *spoils, **changed), code, shows, "--from")
