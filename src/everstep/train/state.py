"""Everything that a step changes: gathered into a version's files, and put back from them.

Knows which tensor goes into which file. Knows nothing of manifests, digests or how files are written.
"""

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everstep.keeping import generators
from everstep.keeping.arena import Arena
from everstep.keeping.revision import Revision
from everstep.keeping.snapshots import image_in
from everstep.models.files import AVERAGED, CONTROLNET_CONFIG, METADATA, OPTIMIZER, STATE, WEIGHTS
from everstep.models.optimizers import ADAMW
from everstep.train.ema import Ema
from everstep.train.optim import kept_numbers, kept_tensors, put_numbers
from everstep.versions import Version, read_small
from everstep.versions.torch import fill, fill_from_image
from everstep.versions.verify import load_digests


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
    revision: Revision = field(default_factory=Revision)
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: METADATA)
    exempt: frozenset[str] = frozenset()  # every tensor here has to hold numbers
    kind: str = ADAMW  # of the optimizer, as the settings name it
    _tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _config: bytes = b""

    def __post_init__(self) -> None:
        self.revision.watch(self.optimizer)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.optimizer,)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All live tensors, by file and name, the weights first. Found once: training changes them where they are."""
        if not self._tensors:
            kept = kept_tensors(self.kind, self.optimizer, self.controlnet)
            self._tensors = {WEIGHTS: self.controlnet.state_dict(), OPTIMIZER: dict(kept)}
            if self.ema is not None:
                self._tensors[AVERAGED] = self.ema.shadow
        return self._tensors

    def average(self) -> None:
        """Move the averaged weights towards those of the last step, where there are any."""
        if self.ema is not None:
            with self.revision.changing():
                self.ema.update(self.step)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network computes with the averaged weights, where there are any."""
        if self.ema is None:
            yield
            return
        with contextlib.ExitStack() as changing:
            if self.ema.is_rows:  # the state itself changes, and back: no copy of it may be made meanwhile
                changing.enter_context(self.revision.changing())
            with self.ema.swapped_in():
                yield

    def small_files(self) -> dict[str, bytes]:
        """The version's small files that come from the state: the network's config and the counters."""
        if not self._config:
            self._config = _json(json.loads(self.controlnet.to_json_string()))
        facts = {
            "step": self.step,
            "images_seen": self.images_seen,
            "loss_scaler": self.scaler.state_dict(),
            "threads": torch.get_num_threads(),
            "rng": generators.states(),
        }
        if numbers := kept_numbers(self.optimizer):
            facts["optimizer"] = numbers
        # Not indented: that would take more time at every snapshot than the copy of a small network.
        return {CONTROLNET_CONFIG: self._config, STATE: json.dumps(facts, sort_keys=True).encode()}

    def restore(self, version: Version, memory: Arena | None = None) -> None:
        """Put back everything a version holds, verifying every digest on the way.

        Args:
            memory: in which the version may still lie; then it is taken from there.

        Raises: DamageFound naming the file and tensor; the version is untouched.
        """
        with self.revision.changing():
            self._restore_tensors(version, memory)
        self.restored = ["weights", "optimizer", *(["averaged weights"] if self.ema is not None else [])]
        facts = json.loads(read_small(version, STATE))
        self.step, self.images_seen = facts["step"], facts["images_seen"]
        put_numbers(self.optimizer, facts.get("optimizer", {}))
        if self.scaler.is_enabled() and facts["loss_scaler"]:
            self.scaler.load_state_dict(facts["loss_scaler"])
            self.restored.append("loss scaler")
        generators.restore(facts["rng"])
        self.restored += ["learning rate", "position in the data", "random number generators"]

    def _restore_tensors(self, version: Version, memory: Arena | None) -> None:
        found = None if memory is None else image_in(memory, version)
        digests = {} if found is None else load_digests(version.path, version.files)
        for path, live in self.tensors().items():
            if found is None:
                fill(live, version, path)
            else:
                fill_from_image(live, found.image(path), digests[path])


def _json(facts: Any) -> bytes:
    return (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode()


def seed_process(seed: int) -> None:
    """Begin the process's own generators anew, so that even what user code draws from them can be repeated."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
