"""Everything that a step changes: gathered into a version's files, and put back from them.

Knows which tensor goes into which file. Knows nothing of manifests, digests or how files are written.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everstep.contracts import TensorFile
from everstep.errors import NotFinite
from everstep.models.files import AVERAGED, CONTROLNET_CONFIG, METADATA, MOMENTS, OPTIMIZER, STATE, WEIGHTS
from everstep.train.ema import Ema
from everstep.versions import Version, read_small
from everstep.versions.torch import TorchTensor, fill


@dataclass(slots=True)
class TrainState:
    """The live training: networks, moments and counters. `step` and `images_seen` are what has been done."""

    controlnet: Any
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    step: int = 0
    images_seen: int = 0
    restored: list[str] = field(default_factory=list)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All live tensors, by file and name, the weights first."""
        live = {WEIGHTS: self.controlnet.state_dict(), OPTIMIZER: dict(self._moments())}
        if self.ema is not None:
            live[AVERAGED] = self.ema.shadow
        return live

    def tensor_files(self) -> list[TensorFile]:
        """The version's tensors, read from this state only when they are written."""
        return [
            TensorFile(path, {name: TorchTensor(tensor) for name, tensor in live.items()}, METADATA.get(path, {}))
            for path, live in self.tensors().items()
        ]

    def check_finite(self) -> None:
        """Raises: NotFinite naming the first weight that is no number."""
        for name, tensor in self.controlnet.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NotFinite(f"{name} is not finite after step {self.step:,}.")

    def small_files(self) -> dict[str, bytes]:
        """The version's small files that come from the state: the network's config and the counters."""
        config = json.loads(self.controlnet.to_json_string())
        facts = {
            "step": self.step,
            "images_seen": self.images_seen,
            "loss_scaler": self.scaler.state_dict(),
            "threads": torch.get_num_threads(),
            "rng": _rng_states(),
        }
        return {CONTROLNET_CONFIG: _json(config), STATE: _json(facts)}

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.controlnet.named_parameters():
            for key in MOMENTS:
                yield f"{name}.{key}", self.optimizer.state[parameter][key]

    def restore(self, version: Version) -> None:
        """Put back everything a version holds, verifying every digest on the way.

        Raises: DamageFound naming the file and tensor; the version is untouched.
        """
        fill(self.controlnet.state_dict(), version, WEIGHTS)
        fill(dict(self._moments()), version, OPTIMIZER)
        self.restored = ["weights", "optimizer"]
        if self.ema is not None:
            fill(self.ema.shadow, version, AVERAGED)
            self.restored.append("averaged weights")
        facts = json.loads(read_small(version, STATE))
        self.step, self.images_seen = facts["step"], facts["images_seen"]
        if self.scaler.is_enabled() and facts["loss_scaler"]:
            self.scaler.load_state_dict(facts["loss_scaler"])
            self.restored.append("loss scaler")
        _restore_rng(facts["rng"])
        self.restored += ["learning rate", "position in the data", "random number generators"]


def _json(facts: Any) -> bytes:
    return (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode()


def seed_process(seed: int) -> None:
    """Begin the process's own generators anew, so that even what user code draws from them can be repeated."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _rng_states() -> dict[str, Any]:
    """States of the process's own generators, which training does not use but the user's code may."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [state.numpy().tobytes().hex() for state in torch.cuda.get_rng_state_all()],
    }


def _restore_rng(states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_byte_tensor(states["torch"]))
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_byte_tensor(state) for state in states["cuda"]])


def _byte_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
