"""Where a base is and what it is: found, identified by its content, and asked for its sizes, without torch.

Must not load weights; that is the family's work.
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import xxhash

from everstep.contracts import Counted
from everstep.errors import UserError
from everstep.places import absolute, as_text, spelled

BUILTINS = ("circles",)
COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class BaseFolder:
    """A base on this disk: its name as the user wrote it, and the folder in diffusers layout that it led to."""

    name: str
    path: Path
    revision: str | None = None

    def config(self, component: str) -> dict[str, Any]:
        """The config.json of a component. Raises: UserError if it cannot be read."""
        path = self.path / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
        try:
            parsed: dict[str, Any] = json.loads(path.read_text())
            return parsed
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} is not a base in diffusers layout: {path} ({error}).") from None

    def vae_factor(self) -> int:
        """By how much the VAE makes pictures smaller, per side."""
        vae = self.config("vae")
        channels = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
        return int(2 ** (len(channels) - 1))

    def native_resolution(self) -> int:
        """Side, in pixels, of the pictures the base was made for."""
        return int(self.config("unet")["sample_size"]) * self.vae_factor()

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture.

        Raises: UserError if the UNet cannot halve them evenly.
        """
        unet = self.config("unet")
        step = self.vae_factor() * 2 ** (len(unet["block_out_channels"]) - 1)
        if resolution % step:
            nearest = max(step, round(resolution / step) * step)
            raise UserError(
                f"data.resolution is {resolution}, but {self.name} needs a multiple of {step}. "
                f"Nothing was started. --data.resolution {nearest} is the nearest."
            )
        side = resolution // self.vae_factor()
        return int(unet["in_channels"]), side, side

    def digest(self, said: Counted = lambda done, total: None) -> str:
        """Content of everything a training reads from the base: equal if and only if the base is.

        Args:
            said: told of bytes.
        """
        total, paths, done = xxhash.xxh3_128(), list(_identifying_files(self.path)), 0
        all_bytes = sum(path.stat().st_size for path in paths)
        for path in paths:
            total.update(str(path.relative_to(self.path)).encode())
            digest = xxhash.xxh3_128()
            for chunk in _chunks(path):
                digest.update(chunk)
                done += len(chunk)
                said(done, all_bytes)
            total.update(digest.digest())
        return f"xxh3-128:{total.hexdigest()}"


def locate(name: str, revision: str | None = None) -> BaseFolder:
    """Find a built-in base, a folder, or a hub id (downloaded if it is not in the cache).

    Raises: UserError with the nearest folder name if there is nothing of this name.
    """
    if name.startswith("builtin:"):
        return BaseFolder(name, _builtin(name.removeprefix("builtin:")))
    path = spelled(name)
    if path.is_dir():
        return BaseFolder(as_text(absolute(path), "The base"), _checked(absolute(path)))
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(f"The base {name} is not a folder{_near(path)}. Nothing was started.")
    return BaseFolder(name, _download(name, revision), revision)


def _builtin(name: str) -> Path:
    if name not in BUILTINS:
        raise UserError(f"There is no built-in base {name}; there are: {', '.join(BUILTINS)}.")
    return _checked(Path(str(files("everstep"))) / "bases" / name)


def _checked(path: Path) -> Path:
    missing = [part for part in COMPONENTS if not (path / part).is_dir()]
    if missing:
        raise UserError(f"{path} is not a base in diffusers layout: {', '.join(missing)} missing.")
    return path


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["model_index.json", *(f"{part}/*" for part in COMPONENTS)]
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*.msgpack", "*.onnx*", "*fp16*"],
        )
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"The base {name} is no folder here and could not be had from the hub: {first}") from None
    return _checked(Path(folder))


def _identifying_files(folder: Path) -> Iterator[Path]:
    for component in COMPONENTS:
        entries = sorted(path for path in (folder / component).iterdir() if path.is_file())
        has_safetensors = any(path.suffix == ".safetensors" for path in entries)
        skipped = {".bin", ".msgpack", ".onnx"} if has_safetensors else {".msgpack", ".onnx"}
        yield from (path for path in entries if path.suffix not in skipped and ".fp16." not in path.name)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
