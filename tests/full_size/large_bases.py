"""Bases with random weights at the true shapes of those that people train on, written tensor by tensor.

Weights keep the size of what passes through them, so that nothing in a step is infinite.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everstep.contracts import TensorFile
from everstep.models.parts import PROJECTION, network_shapes
from everstep.models.shapes import Shape
from everstep.models.weights import DIFFUSERS, TEXT_ENCODERS, TRANSFORMERS
from everstep.models.whole import Whole
from everstep.versions.tensorfile import TensorImage
from small_base.tokenizer import write_tokenizer

CAPTIONS = ("red circle with blue background", "green lime teal navy white black")


@dataclass(frozen=True)
class Drawn:
    """A tensor that is drawn when it is written, the same every time.

    Matrices and kernels are normal with a variance of one over what they sum; scales are 1, biases 0.
    """

    name: str
    shape: Shape
    dtype: str = "F16"
    seed: int = 0

    def buffer(self) -> memoryview:
        dtype = np.float16 if self.dtype == "F16" else np.float32
        if len(self.shape) < 2:
            return np.full(self.shape, float(self.name.endswith("weight")), dtype).reshape(-1).view(np.uint8).data
        generator = np.random.default_rng((self.seed, zlib.crc32(self.name.encode())))
        drawn = generator.standard_normal(math.prod(self.shape), np.float32)
        drawn *= 1 / math.sqrt(math.prod(self.shape[1:]))
        return drawn.astype(dtype, copy=False).view(np.uint8).data


def write_large_base(folder: Path, whole: Whole) -> Path:
    """Write a base of float16 in diffusers layout, and return its folder; one tensor is in memory at a time."""
    for part, config in whole.parts.items():
        (folder / part).mkdir(parents=True)
        _write_json(folder / part / "config.json", config)
        names = TRANSFORMERS if part.startswith("text_encoder") else DIFFUSERS
        path = folder / part / f"{names[0]}.safetensors"
        tensors = {name: Drawn(name, shape) for name, shape in stored_shapes(part, config).items()}
        with path.open("wb") as file:
            file.writelines(TensorImage(TensorFile(path.name, tensors, {"format": "pt"})).pieces())
    for name in whole.pads:
        _write_tokenizer(folder / name)
    _write_json(folder / "scheduler/scheduler_config.json", whole.scheduler)
    _write_json(folder / "model_index.json", whole.pipeline)
    return folder


def stored_shapes(part: str, config: Mapping[str, Any]) -> Mapping[str, Shape]:
    """Every tensor of a part, under the name that its file has."""
    found = network_shapes(part, config)
    assert found is not None, f"{part} of a known base"
    if part not in TEXT_ENCODERS:
        return found
    return {name if name == PROJECTION else f"text_model.{name}": shape for name, shape in found.items()}


def _write_tokenizer(folder: Path) -> None:
    """As long as CLIP's own, though it knows fewer words."""
    write_tokenizer(folder, CAPTIONS)
    path = folder / "tokenizer_config.json"
    _write_json(path, {**json.loads(path.read_text()), "model_max_length": 77})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
