"""A whole base in one file, unpacked into diffusers layout: once for each content, in the user's cache.

Never imports torch: bytes are moved, and split where a file keeps several matrices in one.
"""

import fcntl
import json
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from everstep.contracts import Counted, During, TensorFile
from everstep.data.remembered import is_fresh, stamp_of
from everstep.errors import UserError
from everstep.exchange.keys import Layout, Plan, detect
from everstep.exchange.sd import BASES
from everstep.models.hub import fetch_tokenizer
from everstep.models.parts import PROJECTION, text_shapes, unet_shapes, vae_shapes
from everstep.models.weights import DIFFUSERS, TRANSFORMERS, file_shapes, reason
from everstep.models.whole import WHOLES, Whole
from everstep.places import cache_folder
from everstep.telling import untold
from everstep.units import size
from everstep.versions import fsops
from everstep.versions.tensorfile import ITEM_BYTES, Header, TensorImage, read_header

CHUNK_BYTES = 1 << 24
CONTENT, SEEN, STAGING = "content.json", "seen.json", ".new-"
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # what a number is matters to nobody here


def unpacked(path: Path, during: During = untold, wholes: Sequence[Whole] = WHOLES) -> Path | None:
    """The folder with what the file holds; None where it is no whole base of a known architecture.

    Raises: UserError where it is one, but for some of its tensors, or where there is no room for it.
    Crash: the folder whole, or not there; what is left beside it goes with the next unpacking.
    """
    shapes = file_shapes(path) if path.suffix == ".safetensors" else None
    whole = _whole(shapes or {}, wholes)
    if shapes is None or whole is None:
        return None
    cache = cache_folder()
    if cache is None:
        raise UserError(f"{path} is {whole.title} in one file, which is unpacked into the cache of the user; there is "
                        "none here. Set XDG_CACHE_HOME. Nothing was started.")  # fmt: skip
    home, stamp = cache / "everstep/bases", stamp_of(str(path))
    key = f"{path} {'' if stamp is None else stamp.hex()}"
    known = home / _seen(home).get(key, ".")
    if known != home and _is_whole(known):
        return known
    with during(f"Reading {path.name}", count=size) as said:
        folder = home / f"{path.stem[:60]}-{_digest(path, said)[:16]}"
    if not _is_whole(folder):
        try:
            with _alone(home), during(f"Unpacking {path.name}", "networks") as said:
                if not _is_whole(folder):  # another program may have been faster
                    _make(path, folder, whole, said)
        except OSError as error:
            raise UserError(f"{path} is {whole.title} in one file, which could not be unpacked to {folder}: "
                            f"{reason(error)}. Nothing was started.") from None  # fmt: skip
    if stamp is not None and not is_fresh(stamp, time.time_ns()):
        _remember(home, key, folder.name)
    return folder


# --- what is there already ---------------------------------------------------------------------------------


def _seen(home: Path) -> dict[str, str]:
    """Which folder a file led to, by its place, size and times; what is lost of it costs time only."""
    with suppress(OSError, ValueError):
        known = json.loads((home / SEEN).read_bytes())
        if isinstance(known, dict):
            return {key: name for key, name in known.items() if isinstance(name, str) and Path(name).name == name}
    return {}


def _remember(home: Path, key: str, name: str) -> None:
    with suppress(OSError):
        known = {other: folder for other, folder in _seen(home).items() if (home / folder).is_dir()}
        fsops.replace_unflushed(home / SEEN, json.dumps({**known, key: name}).encode())


def _is_whole(folder: Path) -> bool:
    """Whether all that was written is there: others tidy caches, too, file by file."""
    try:
        sizes = json.loads((folder / CONTENT).read_bytes())
        return bool(sizes) and all((folder / name).stat().st_size == sizes[name] for name in sizes)
    except (OSError, ValueError, TypeError, KeyError):
        return False


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One unpacks at a time, so what lies there unfinished is nobody's. The system lets go of it with the process."""
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in home.glob(f"{STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


# --- unpacking ---------------------------------------------------------------------------------------------


def _whole(shapes: Mapping[str, tuple[int, ...]], wholes: Sequence[Whole]) -> Whole | None:
    """Told by the width of the text that the UNet hears."""
    widths = {shape[-1] for name, shape in shapes.items() if name.startswith("model.diffusion_model.")
              and name.endswith("attn2.to_k.weight")}  # fmt: skip
    networks = {layout.network for layout in detect(BASES, shapes)}
    fitting = (whole for whole in wholes if widths == {whole.text_width} and networks == set(whole.parts))
    return next(fitting, None)


def _make(path: Path, folder: Path, whole: Whole, said: Counted) -> None:
    words = _vocabulary(path)  # first, for it may not be had
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder.parent))
    try:
        with _opened(path) as tensors:
            layouts = {layout.network: layout for layout in detect(BASES, tensors.shapes)}
            for done, (part, config) in enumerate(whole.parts.items()):
                said(done, len(whole.parts))
                _write_part(staging / part, config, tensors, layouts[part], _plan(part, config), path)
            scheduler = _scheduler(whole, tensors.header.tensors)
        _write_json(staging / "scheduler/scheduler_config.json", scheduler)
        for name, pad in whole.pads.items():
            _write_tokenizer(words, staging / name, pad)
        _write_json(staging / "model_index.json", whole.pipeline)
        written = [file for file in sorted(staging.rglob("*")) if file.is_file()]
        _write_json(staging / CONTENT, {str(file.relative_to(staging)): file.stat().st_size for file in written})
        for inside in staging.iterdir():
            if inside.is_dir():
                fsops.flush_folder(inside)
        fsops.flush_folder(staging)
        if folder.is_dir():  # it has lost a file
            fsops.remove_tree(folder)
        fsops.rename(staging, folder)
        fsops.flush_folder(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _plan(part: str, config: Mapping[str, Any]) -> Plan:
    if part == "unet":
        found = unet_shapes(config)
    elif part == "vae":
        found = vae_shapes(config)
    else:
        found = text_shapes(config, projects=part == "text_encoder_2")
    assert found is not None, f"{part} of a known base"
    return found


def _write_part(
    folder: Path, config: Mapping[str, Any], tensors: "_Tensors", layout: Layout, plan: Plan, path: Path
) -> None:
    """Raises: UserError naming what is missing or too much."""
    own = layout.own({name: tensors.array(name) for name in tensors.header.tensors if name.startswith(layout.prefix)})
    try:
        bijection = layout.expand(plan)
        arrays = bijection.back(own, np.concatenate)
    except UserError as fault:
        raise UserError(f"{path}: {fault} Nothing was started.") from None
    dtypes = {ours: tensors.header.tensors[link.theirs].dtype for link in bijection.links for ours in link.ours}
    is_text = folder.name.startswith("text_encoder")
    file = f"{TRANSFORMERS[0] if is_text else DIFFUSERS[0]}.safetensors"
    stored = {
        f"text_model.{name}" if is_text and name != PROJECTION else name: _Array(array, dtypes[name])
        for name, array in arrays.items()
    }
    image = TensorImage(TensorFile(file, stored, {"format": "pt"}))
    fsops.make_folder(folder)
    fsops.write_file(folder / file, image.pieces(), image.size_bytes)
    _write_json(folder / "config.json", config)


def _scheduler(whole: Whole, names: Container[str]) -> dict[str, Any]:
    """Bases that predict velocity, and those whose last step is noise alone, say so with an empty tensor."""
    settings = dict(whole.scheduler)
    if "v_pred" in names:
        settings["prediction_type"] = "v_prediction"
    if "ztsnr" in names:
        settings["rescale_betas_zero_snr"] = True
    return settings


def _vocabulary(path: Path) -> dict[str, bytes]:
    """That of a tokenizer beside the file, or CLIP's own from the hub: all these bases have it."""
    beside = path.parent / "tokenizer"
    source = beside if (beside / "vocab.json").is_file() else fetch_tokenizer(path)
    return {name: (source / name).read_bytes() for name in ("vocab.json", "merges.txt")}


def _write_tokenizer(words: Mapping[str, bytes], folder: Path, pad: str) -> None:
    fsops.make_folder(folder)
    for name, content in words.items():
        fsops.write_file(folder / name, [content], len(content))
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", {**marks, "pad_token": pad})
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", {**settings, **marks, "pad_token": pad})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    fsops.write_file(path, [text], len(text))


def _digest(path: Path, said: Counted) -> str:
    digest = xxhash.xxh3_128()
    all_bytes = path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            said(file.tell(), all_bytes)
    return digest.hexdigest()


# --- bytes of the file -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Array:
    """A tensor to be written. Shapes: any, of words as wide as its numbers."""

    array: np.ndarray[Any, Any]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def buffer(self) -> memoryview:
        return np.ascontiguousarray(self.array).reshape(-1).view(np.uint8).data


@dataclass(frozen=True, slots=True)
class _Tensors:
    """What a file holds, where it lies in memory that the system reads as it is needed."""

    memory: mmap.mmap
    header: Header

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self.header.tensors.items()}

    def array(self, name: str) -> np.ndarray[Any, Any]:
        place = self.header.tensors[name]
        count = (place.end - place.begin) // ITEM_BYTES[place.dtype]
        words = np.dtype(WORDS[ITEM_BYTES[place.dtype]])
        return np.frombuffer(self.memory, words, count, self.header.data_start + place.begin).reshape(place.shape)


@contextmanager
def _opened(path: Path) -> Iterator[_Tensors]:
    with path.open("rb") as file:
        header, _ = read_header(file, path.stat().st_size)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    yield _Tensors(memory, header)  # unmapped once no array is left
