"""Where a base is and what it is: found, identified by its content, and asked for its sizes, without torch.

Must not load weights; that is the family's work.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import xxhash

from everstep.contracts import Counted, During
from everstep.errors import UserError
from everstep.models.brought import SUPPORTED, elsewhere, is_base, kind_of_folder, refuse_file
from everstep.models.families import distilled_name, family_of_folder
from everstep.models.hub import TOKENIZER, download
from everstep.models.one_file import open_one_file
from everstep.models.registry import Row, row_of
from everstep.models.unpacked import unpacked
from everstep.models.weights import (
    DIFFUSERS,
    TEXT_ENCODERS,
    TRANSFORMERS,
    Weights,
    find_weights,
    listed,
    read_json,
    reason,
)
from everstep.places import absolute, as_text, spelled
from everstep.telling import untold

BUILTINS = ("circles",)
ALGORITHM = "xxh3-128"
_DIGESTS: dict[tuple[str, int, int, int], bytes] = {}
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class BaseFolder:
    """A base on this disk: its name as the user wrote it, and the folder in diffusers layout that it led to."""

    name: str
    path: Path
    revision: str | None = None
    notes: tuple[str, ...] = ()  # what is worth saying of it before it is used

    @property
    def row(self) -> Row:
        """Its family."""
        return row_of(self.path)

    def weights(self, component: str) -> Weights:
        """The files of a network that are loaded. Raises: UserError if they are not there."""
        return find_weights(self.path / component, TRANSFORMERS if component in TEXT_ENCODERS else DIFFUSERS)

    def config_path(self, component: str) -> Path:
        """Of a network, or of the scheduler."""
        return self.path / component / ("scheduler_config.json" if component == "scheduler" else "config.json")

    def config(self, component: str) -> dict[str, Any]:
        """The config.json of a component. Raises: UserError if it cannot be read."""
        return read_json(self.config_path(component))

    def vae_factor(self) -> int:
        """By how much the VAE makes pictures smaller, per side."""
        vae = self.config("vae")
        channels = vae.get("encoder_block_out_channels") or vae.get("block_out_channels") or [64]
        return int(2 ** (len(channels) - 1))

    def has_wide_vae(self) -> bool:
        """Whether what its VAE computes passes what float16 can hold."""
        return self.row.may_have_wide_vae and bool(self.config("vae").get("force_upcast", True))

    def native_resolution(self) -> int:
        """Side, in pixels, of the pictures the base was made for."""
        side = self.config("unet").get("sample_size")
        if not isinstance(side, int):
            raise UserError(
                f"{self.name} does not say for which size of pictures it was made: its unet/config.json has no "
                "sample_size. Nothing was started.\nSay it: --data.resolution 512"
            )
        return side * self.vae_factor()

    def step(self) -> int:
        """What both sides of a picture, in pixels, have to be multiples of: the UNet halves its latents evenly."""
        return int(self.vae_factor() * 2 ** (len(self.config("unet")["block_out_channels"]) - 1))

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square picture.

        Raises: UserError if the UNet cannot halve them evenly.
        """
        step = self.step()
        if resolution % step:
            nearest = max(step, round(resolution / step) * step)
            raise UserError(
                f"data.resolution is {resolution}, but {self.name} needs a multiple of {step}. "
                f"Nothing was started. --data.resolution {nearest} is the nearest."
            )
        side = resolution // self.vae_factor()
        return int(self.config("unet")["in_channels"]), side, side

    def loaded_files(self) -> list[Path]:
        """Everything that a training reads, in the order in which it is digested."""
        found = []
        for component in self.row.components:
            if component in self.row.tokenizers:
                paths = [self.path / component / name for name in TOKENIZER]
                found += [path for path in paths if path.is_file()]
            elif component == "scheduler":
                found.append(self.config_path(component))
            else:
                found += sorted([self.config_path(component), *self.weights(component).files])
        return found

    def file_digests(self) -> dict[str, str]:
        """Of each file that is loaded, by its place in the base."""
        return {self._place(path): f"{ALGORITHM}:{_file_digest(path).hex()}" for path in self.loaded_files()}

    def digest(self, recorded: str | None = None, said: Counted = lambda done, total: None) -> str:
        """Content of everything a training reads from the base: equal if and only if that is.

        Args:
            said: told of bytes.

        Earlier programs also digested files that nothing loads. One of theirs is returned where it still holds.
        """
        loaded = self._digest_of(self.loaded_files(), said)
        if recorded is None or recorded == loaded:
            return loaded
        return recorded if self._digest_of(list(_once_digested(self.path)), said) == recorded else loaded

    def _digest_of(self, paths: list[Path], said: Counted = lambda done, total: None) -> str:
        total, all_bytes, done = xxhash.xxh3_128(), sum(path.stat().st_size for path in paths), 0

        def read(chunk_bytes: int) -> None:
            nonlocal done
            done += chunk_bytes
            said(done, all_bytes)

        for path in paths:
            total.update(self._place(path).encode())
            total.update(_file_digest(path, read))
        return f"{ALGORITHM}:{total.hexdigest()}"

    def _place(self, path: Path) -> str:
        return str(path.relative_to(self.path))


def differing_files(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which files of a base differ from what was recorded, one line each."""
    lines = [f"  {name} is not there any more" for name in then if name not in now]
    lines += [f"  {name} is other" for name in then if name in now and then[name] != now[name]]
    lines += [f"  {name} was not there" for name in now if name not in then]
    return "\n".join(lines)


def locate(name: str, revision: str | None = None, during: During = untold) -> BaseFolder:
    """Find a built-in base, a folder, one file (unpacked once), or a hub id (downloaded if it is not in the cache).

    Raises: UserError with the nearest folder name if there is nothing of this name, and what it is if it is no base.
    """
    if name.startswith("builtin:"):
        return BaseFolder(name, _builtin(name.removeprefix("builtin:")))
    path = _path_of(name)
    if path.is_dir():
        return BaseFolder(as_text(absolute(path), "The base"), _checked(absolute(path), name))
    if path.is_file() and (found := open_one_file(absolute(path))) is not None:
        as_text(found.path, "The base")
        folder = unpacked(found, during)
        note = f"{path} is one file; what is in it is used as it lies in {folder}."
        return BaseFolder(str(found.path), _checked(folder, path.stem), notes=(note, *found.notes))
    if path.exists():
        raise refuse_file(path.absolute(), "a base is a folder in diffusers layout, or one file with all of it")
    if path.is_symlink():
        raise UserError(f"The base {name} is a link to {path.readlink()}, which is not there. Nothing was started.")
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(f"The base {name} is not a folder{_near(path)} Nothing was started.")
    return BaseFolder(name, _checked(download(name, revision), name), revision)


def _path_of(name: str) -> Path:
    """Raises: UserError for what cannot be one: a name that is too long, or a folder that may not be entered."""
    try:
        path = spelled(name)
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The base {name[:80]} cannot be looked at: {reason(error)}. Nothing was started.") from None
    return path


def _builtin(name: str) -> Path:
    if name not in BUILTINS:
        raise UserError(f"There is no built-in base {name}; there are: {', '.join(BUILTINS)}.")
    return _checked(Path(str(files("everstep"))) / "bases" / name, name)


def _checked(path: Path, name: str) -> Path:
    """Raises: UserError saying what it is instead, and where the base is, if it is near."""
    try:
        missing = [part for part in row_of(path).components if not (path / part).is_dir()]
        if other := family_of_folder(path) or distilled_name(name):
            raise UserError(f"{path} is {other}. {SUPPORTED} Nothing was started.")
        if not missing:
            return path
        kind = kind_of_folder(path)
        near = elsewhere(path, is_base)
    except OSError as error:
        raise UserError(f"{path} cannot be looked into: {reason(error)}. Nothing was started.") from None
    if kind == "a base":
        kind = None
    is_one = (
        f"{path} is {kind}, not a base in diffusers layout" if kind else f"{path} is not a base in diffusers layout"
    )
    told = "" if kind == "an empty folder" else f": {listed(missing)} missing"
    hint = f"\nThe base is {near}" if near else ""
    if kind in ("a ControlNet", "a run of Everstep", "a version of a run"):
        hint += "\nA ControlNet to start from goes to --from; --base is what it is trained against."
    raise UserError(f"{is_one}{told}. Nothing was started.{hint}")


def _near(path: Path) -> str:
    if str(path) in BUILTINS:
        return f"; did you mean builtin:{path}?"
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else "."


def _once_digested(folder: Path) -> Iterator[Path]:
    """What earlier programs digested: every file that lies in a component's folder, but for some forms of weights."""
    for component in row_of(folder).components:
        entries = sorted(path for path in (folder / component).iterdir() if path.is_file())
        has_safetensors = any(path.suffix == ".safetensors" for path in entries)
        skipped = {".bin", ".msgpack", ".onnx"} if has_safetensors else {".msgpack", ".onnx"}
        yield from (path for path in entries if path.suffix not in skipped and ".fp16." not in path.name)


def _file_digest(path: Path, read: Callable[[int], None] = lambda chunk_bytes: None) -> bytes:
    """Read once in a process, and in the trainer that is forked from it, for as long as the file is the same."""
    about = path.stat()
    key = (str(path), about.st_size, about.st_mtime_ns, about.st_ino)
    if key not in _DIGESTS:
        digest = xxhash.xxh3_128()
        for chunk in _chunks(path):
            digest.update(chunk)
            read(len(chunk))
        _DIGESTS[key] = digest.digest()
    return _DIGESTS[key]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
