"""The state of a plain loop: its modules, optimizers, and whatever else has a state dict, as files of a version."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from everstep.errors import DamageFound, EverstepError, UserError
from everstep.keeping import generators
from everstep.keeping.revision import Revision
from everstep.keeping.trees import check_kind, put_together, take_apart
from everstep.versions import Version, read_small, verify
from everstep.versions.torch import fill, read_torch

TENSORS, STATE = "training/state.safetensors", "training/state.json"
OWN = "own."  # before the names of tensors that belong to none of the parts
EXTRA = "modules"  # what modules keep besides tensors


class HasState(Protocol):
    """An optimizer, a scheduler, a scaler, a loader."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Any, /) -> object: ...


@dataclass(slots=True)
class Parts:
    """What a loop is made of. `step` and `images_seen` are what has been done."""

    modules: Mapping[str, nn.Module]
    others: Mapping[str, HasState]  # optimizers first: schedulers look at them
    tensors_of_own: Mapping[str, Tensor]
    step: int = 0
    images_seen: int = 0
    revision: Revision = field(default_factory=Revision)
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exempt: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if OWN.removesuffix(".") in self.others:
            raise UserError("No optimizer or other part can be named own: that is how tensors of your own are filed.")
        self.metadata = {_file(name): {"format": "pt"} for name in self.modules}
        for optimizer in self.optimizers:
            self.revision.watch(optimizer)
        # What is no number from the start is meant: a mask of minus infinities, the best loss so far.
        buffers = (item for module in self.modules.values() for item in module.named_buffers())
        own = ((OWN + name, tensor) for name, tensor in self.tensors_of_own.items())
        self.exempt = frozenset(name for name, tensor in (*buffers, *own) if not _is_finite(tensor))

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return [other for other in self.others.values() if isinstance(other, torch.optim.Optimizer)]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By file and name, as they are now: optimizers make theirs at the first step."""
        return {**self._weights(), TENSORS: self._taken_apart()[1]}

    def small_files(self) -> dict[str, bytes]:
        trees, extra = self._taken_apart()[0], self._extra()
        facts = {
            "step": self.step,
            "images_seen": self.images_seen,
            "threads": torch.get_num_threads(),
            "parts": trees,
            **({EXTRA: extra} if extra else {}),
            "rng": generators.states(),
        }
        return {STATE: json.dumps(facts).encode()}

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        weights: dict[str, dict[str, Tensor]] = {}
        for name, module in self.modules.items():
            state = module.state_dict()
            weights[_file(name)] = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            for key, value in weights[_file(name)].items():
                check_kind(value, f"{name}.{key}")
        return weights

    def _extra(self) -> dict[str, Any]:
        """What modules keep by get_extra_state, where it is no tensor."""
        found = {}
        for name, module in self.modules.items():
            plain = {key: value for key, value in module.state_dict().items() if not isinstance(value, Tensor)}
            if plain:
                tensors: dict[str, Tensor] = {}
                found[name] = take_apart(plain, name, tensors)
                if tensors:
                    raise UserError(f"{min(tensors)} is a tensor in a module's extra state, which cannot be kept.")
        return found

    def _taken_apart(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.tensors_of_own.items():
            check_kind(tensor, name)
            tensors[OWN + name] = tensor
        trees = {name: take_apart(other.state_dict(), name, tensors) for name, other in self.others.items()}
        return trees, tensors

    # --- putting back ---------------------------------------------------------------------------------------

    def restore(self, version: Version) -> None:
        """Put back everything a version holds, verified.

        Raises: DamageFound; UserError if the version is whole, but of other parts. What is live is worth nothing then.
        """
        facts = json.loads(read_small(version, STATE))
        self._check_names(version, facts["parts"])
        with self.revision.changing(), _fitting(version):
            self._restore(version, facts)
        self.count_from(version)

    def count_from(self, version: Version) -> None:
        """Put back steps and generators alone, where somebody else has put back the rest, or will."""
        facts = json.loads(read_small(version, STATE))
        self.step, self.images_seen = facts["step"], facts["images_seen"]
        generators.restore(facts["rng"])

    def _check_names(self, version: Version, parts: Mapping[str, Any]) -> None:
        files = [path for path in version.files if path.endswith(".safetensors") and "/" not in path]
        _same(version, "modules", [path.removesuffix(".safetensors") for path in files], self.modules)
        _same(version, "optimizers and others", parts, self.others)

    def _restore(self, version: Version, facts: Mapping[str, Any]) -> None:
        weights = self._weights()
        for path, live in weights.items():
            fill(live, version, path)
        self._load_unshared(weights)
        for name, extra in facts.get(EXTRA, {}).items():
            self.modules[name].load_state_dict(put_together(extra, {}), strict=False)
        found = _tensors(version)
        _same(
            version, "tensors", [name.removeprefix(OWN) for name in found if name.startswith(OWN)], self.tensors_of_own
        )
        for name, part in self.others.items():
            _load(part, put_together(facts["parts"][name], found))
        with torch.no_grad():
            for name, tensor in self.tensors_of_own.items():
                if tensor.shape != found[OWN + name].shape:
                    raise ValueError(f"{name} is {tuple(found[OWN + name].shape)} there, {tuple(tensor.shape)} here")
                tensor.copy_(found[OWN + name])

    def _load_unshared(self, filled: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Where a module's state dict is a copy, what was filled is not the module's own."""
        for name, module in self.modules.items():
            live, now = filled[_file(name)], module.state_dict()
            copies = {key: value for key, value in live.items() if value.data_ptr() != now[key].data_ptr()}
            if copies:
                module.load_state_dict(copies, strict=False)


def states_of(version: Version) -> dict[str, Any]:
    """The state dicts of a version's modules and other parts, by name, for whoever puts them back otherwise.

    Raises: DamageFound.
    """
    facts, found = json.loads(read_small(version, STATE)), _tensors(version)
    states = {name: put_together(tree, found) for name, tree in facts["parts"].items()}
    for path in version.files:
        if path.endswith(".safetensors") and "/" not in path:
            name = path.removesuffix(".safetensors")
            states[name] = {**read_torch(version, path), **put_together(facts.get(EXTRA, {}).get(name, {}), {})}
    return states


def _tensors(version: Version) -> dict[str, Tensor]:
    """As PyTorch makes them: where memory begins may decide the last bit of a product of matrices."""
    read = read_torch(version, TENSORS)
    return {name: read.pop(name).clone() for name in list(read)}


def _file(name: str) -> str:
    return f"{name}.safetensors"


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach().double()).all())


def _same(version: Version, what: str, there: Collection[str], here: Collection[str]) -> None:
    """Raises: UserError unless both are the same names."""
    if set(there) != set(here):
        held, has = (", ".join(sorted(names)) or "none" for names in (there, here))
        raise UserError(f"{version.name} was made by a loop with other {what}: {held} there, {has} here.")


@contextmanager
def _fitting(version: Version) -> Iterator[None]:
    """What does not fit is damage only where the version is damaged. Raises: DamageFound, UserError."""
    try:
        yield
    except UserError:
        raise
    except DamageFound as error:
        if verify(version):
            raise
        raise UserError(f"{version.name} is whole, but does not fit this loop: {error}") from None
    except EverstepError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"{version.name} does not fit this loop: {type(error).__name__}: {error}") from error


def _load(part: HasState, state: Any) -> None:
    part.load_state_dict(state)
    if isinstance(part, torch.optim.Optimizer):
        _keep_dtypes(part, state)


def _keep_dtypes(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """PyTorch casts what it loads to the parameter's dtype: moments of more bits than the weights would lose them, and
    those of eight bits be no such moments any more.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, saved in state["state"].items():
        if isinstance(number, int) and number < len(parameters) and parameters[number] in optimizer.state:
            live = optimizer.state[parameters[number]]
            for key, value in saved.items():
                live[key] = _as_saved(value, live.get(key))


def _as_saved(saved: Any, live: Any) -> Any:
    """What is live, with the dtypes that were saved."""
    if isinstance(saved, Tensor) and isinstance(live, Tensor):
        return live if live.dtype == saved.dtype else saved.to(live.device)
    if isinstance(saved, Mapping) and isinstance(live, Mapping):
        return {key: _as_saved(value, live.get(key)) for key, value in saved.items()}
    if isinstance(saved, list | tuple) and isinstance(live, list | tuple) and len(saved) == len(live):
        return type(saved)(_as_saved(*pair) for pair in zip(saved, live, strict=True))
    return live if isinstance(live, Tensor) else saved  # PyTorch takes a string apart as if it were a list
