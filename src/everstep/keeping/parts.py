"""The state of a plain loop: its modules, optimizers, and whatever else has a state dict, as files of a version."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from everstep.errors import DamageFound
from everstep.keeping import generators
from everstep.keeping.revision import Revision
from everstep.keeping.trees import put_together, take_apart
from everstep.versions import Version, read_small
from everstep.versions.torch import fill, read_torch

TENSORS, STATE = "training/state.safetensors", "training/state.json"


class HasState(Protocol):
    """An optimizer, a scheduler, a scaler, a loader."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Any, /) -> object: ...


@dataclass(slots=True)
class Parts:
    """What a loop is made of. `step` and `images_seen` are what has been done."""

    modules: Mapping[str, nn.Module]
    others: Mapping[str, HasState]  # optimizers first
    tensors_of_own: Mapping[str, Tensor]
    step: int = 0
    images_seen: int = 0
    revision: Revision = field(default_factory=Revision)
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exempt: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.metadata = {_file(name): {"format": "pt"} for name in self.modules}
        for optimizer in self.optimizers:
            self.revision.watch(optimizer)
        # Buffers may hold what is no number from the start: a mask of minus infinities.
        self.exempt = frozenset(
            name
            for module in self.modules.values()
            for name, buffer in module.named_buffers()
            if buffer.is_floating_point() and not bool(torch.isfinite(buffer.float()).all())
        )

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return [other for other in self.others.values() if isinstance(other, torch.optim.Optimizer)]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By file and name, as they are now: optimizers make theirs at the first step."""
        return {**self._weights(), TENSORS: self._taken_apart()[1]}

    def small_files(self) -> dict[str, bytes]:
        facts = {
            "step": self.step,
            "images_seen": self.images_seen,
            "threads": torch.get_num_threads(),
            "parts": self._taken_apart()[0],
            "rng": generators.states(),
        }
        return {STATE: json.dumps(facts).encode()}

    def restore(self, version: Version) -> None:
        """Put back everything a version holds, verified. Raises: DamageFound; UserError if it is of other parts."""
        with self.revision.changing():
            for path, live in self._weights().items():
                fill(live, version, path)
            found = read_torch(version, TENSORS)
            facts = json.loads(read_small(version, STATE))
            if facts["parts"].keys() != self.others.keys():
                raise DamageFound(
                    f"{version.name} holds {', '.join(facts['parts'])}, but this loop has {', '.join(self.others)}."
                )
            for name, part in self.others.items():
                _load(part, put_together(facts["parts"][name], found))
            with torch.no_grad():
                for name, tensor in self.tensors_of_own.items():
                    tensor.copy_(found[f"own.{name}"])
        self.step, self.images_seen = facts["step"], facts["images_seen"]
        generators.restore(facts["rng"])

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {
            _file(name): {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
            for name, module in self.modules.items()
        }

    def _taken_apart(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        trees = {name: take_apart(other.state_dict(), name, tensors) for name, other in self.others.items()}
        tensors |= {f"own.{name}": tensor for name, tensor in self.tensors_of_own.items()}
        return trees, tensors


def _file(name: str) -> str:
    return f"{name}.safetensors"


def _load(part: HasState, state: Any) -> None:
    part.load_state_dict(state)
    if isinstance(part, torch.optim.Optimizer):
        _keep_dtypes(part, state)


def _keep_dtypes(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """PyTorch casts what it loads to the parameter's dtype: moments of more bits than the weights would lose them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, saved in state["state"].items():
        live = optimizer.state[parameters[int(number)]]
        for key, value in saved.items():
            if isinstance(value, Tensor) and isinstance(live.get(key), Tensor) and live[key].dtype != value.dtype:
                live[key] = value.to(live[key].device)
