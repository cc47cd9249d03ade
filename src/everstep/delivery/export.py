"""A version's ControlNet as a file or a folder for one program: written beside, read back, and only then there."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from everstep.contracts import TensorFile
from everstep.delivery.description import SUFFIX, metadata_of
from everstep.delivery.reread import reread
from everstep.errors import DamageFound, UserError
from everstep.evaluation.loading import weights_drawn_with
from everstep.exchange.keys import Bijection, Plan
from everstep.exchange.readers import Form
from everstep.models.files import AVERAGED, CONTROLNET_CONFIG
from everstep.versions import Version, fsops
from everstep.versions.placing import beside, put
from everstep.versions.tensorfile import TensorImage
from everstep.versions.torch import TorchTensor, read_torch
from everstep.versions.version import read_small

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FOLDER_CONFIG, FOLDER_WEIGHTS = "config.json", f"diffusion_pytorch_model{SUFFIX}"
ENDS = re.compile(r"controlnet_(down_blocks|mid_block)\..*|lllite_.*\.up\.0\..*")  # what begins at zero


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it was found to be.

    Units: size_bytes of all of it; difference of what it computes, over its size
    """

    path: Path
    parameters: int
    bytes_each: int
    size_bytes: int
    is_averaged: bool
    difference: float
    adds_nothing: bool


def export(
    version: Version,
    plan: Plan,
    form: Form,
    target: Path,
    *,
    dtype: str = "fp16",
    averaged: bool = True,
    condition: str | None = None,
    licence: str | None = None,
) -> Exported:
    """Write a version's ControlNet in a reader's form; what is at the target is replaced.

    Raises: DamageFound if the version is damaged, or what was written is not what it should be. OSError.
    Crash: what was there before, or the new one whole; of a folder that is replaced, perhaps the old one aside.
    """
    weights = weights_drawn_with(version, averaged)
    tensors = read_torch(version, weights)
    config = json.loads(read_small(version, CONTROLNET_CONFIG))
    config.pop("_name_or_path", None)  # where it was begun from, on this machine
    bijection = form.layout.expand(plan)
    metadata = metadata_of(version, plan, form.layout, condition, weights == AVERAGED, licence)
    with beside(target) as staging:
        if form.is_folder:
            fsops.make_folder(staging)
            text = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
            fsops.write_file(staging / FOLDER_CONFIG, [text], len(text))
        file = staging / FOLDER_WEIGHTS if form.is_folder else staging
        _write(file, bijection, _rounded(tensors, dtype), metadata)  # let go of before it is read back
        try:
            difference = reread(file, bijection, tensors, config, DTYPES[dtype])
        except (DamageFound, UserError) as fault:
            raise DamageFound(
                f"{target} was not written as it should be: {fault}. It was removed again; {version.name} is whole.\n"
                "--dtype fp32 rounds nothing."
            ) from None
        size_bytes = sum(path.stat().st_size for path in ([*staging.iterdir()] if form.is_folder else [staging]))
        put(staging, target)
    return Exported(
        target,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        bytes_each=DTYPES[dtype].itemsize,
        size_bytes=size_bytes,
        is_averaged=weights == AVERAGED,
        difference=difference,
        adds_nothing=not any(bool(tensor.any()) for name, tensor in tensors.items() if ENDS.fullmatch(name)),
    )


def _rounded(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Raises: UserError if a number is too large for it."""
    rounded = {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}
    if lost := [name for name, tensor in rounded.items() if not torch.isfinite(tensor).all()]:
        raise UserError(
            f"{len(lost):,} tensors have numbers that {dtype} cannot hold (first: {lost[0]}). Nothing was written.\n"
            "--dtype bf16 or fp32 holds them."
        )
    return rounded


def _write(path: Path, bijection: Bijection, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    theirs = {name: TorchTensor(tensor) for name, tensor in bijection.forward(tensors, torch.cat).items()}
    image = TensorImage(TensorFile(path.name, theirs, metadata))
    fsops.write_file(path, image.pieces(), image.size_bytes)
