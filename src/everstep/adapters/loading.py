"""A DataLoader whose order, draws and position are functions of a seed and of the batches that came before.

PyTorch's own begins each epoch with a shuffle that nobody can ask for again, and its workers' random numbers follow
from how many there are. Here an epoch's batches are planned with generators seeded by (seed, epoch), and every example
is made with generators seeded by (seed, number of the example). So a run that goes on sees what it would have seen,
with any number of workers.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from everstep.errors import UserError

Loader = Callable[["DataLoader[Any]"], Any]
CARRIED = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("prefetch_factor", "persistent_workers"),
)


def ordered(loader: "DataLoader[Any]", seed: int = 0) -> "Ordered":
    """The same batches of the same dataset, in an order that a resume finds again. See `Ordered`.

    Args:
        loader: over a dataset that is asked by index; with its sampler, batch size, workers and everything else.

    Raises: UserError for a dataset that is only iterated.
    """
    return Ordered(loader, seed)


class Ordered:
    """Iterates an epoch; the next time the next. Has `state_dict` and `load_state_dict`."""

    def __init__(self, loader: "DataLoader[Any]", seed: int = 0, through: Loader = lambda loader: loader) -> None:
        """
        Args:
            through: what the new loader goes through before it is iterated: moved to a device, say.
        """
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise UserError(
                "The order of a dataset that is only iterated cannot be found again: give the loader a dataset with "
                "__getitem__ and __len__, and a batch size."
            )
        self._plan = _Plan(loader.batch_sampler, seed)
        carried = {name: getattr(loader, name) for name in CARRIED}
        generator = torch.Generator().manual_seed(seed)  # so that no draw is taken from the process's own
        self.dataset, self.batch_size = loader.dataset, loader.batch_size
        self._loader = through(
            DataLoader(_Drawn(loader.dataset, seed), batch_sampler=self._plan, generator=generator, **carried)
        )
        self._is_resumed = False

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Any]:
        plan = self._plan
        if plan.position and not self._is_resumed:  # the last epoch was left
            plan.next_epoch()
        self._is_resumed = False
        for batch in self._loader:
            plan.position += 1
            yield batch
        plan.next_epoch()

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it that were handed over."""
        return {"epoch": self._plan.epoch, "position": self._plan.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._plan.epoch, self._plan.position = state["epoch"], state["position"]
        self._is_resumed = True
        if self._plan.position >= len(self._plan):
            self._plan.next_epoch()


def after_epoch(state: Any) -> Any:
    """The state of a loader whose epoch is over, though not all of it may have been asked for; of others, the same."""
    if isinstance(state, Mapping) and state.keys() == {"epoch", "position"} and state["position"]:
        return {"epoch": state["epoch"] + 1, "position": 0}
    return state


class _Plan(Sampler[list[tuple[int, Any]]]):
    """The batches of an epoch, from a position on: of each example its number in all, and its index."""

    def __init__(self, batches: Any, seed: int) -> None:
        self._batches, self._seed = batches, seed
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return len(self._batches)

    def next_epoch(self) -> None:
        self.epoch, self.position = self.epoch + 1, 0

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        with drawing(self._seed, "epoch", self.epoch):
            for sampler in (self._batches, getattr(self._batches, "sampler", None)):
                if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                    set_epoch(self.epoch)
                if isinstance(own := getattr(sampler, "generator", None), torch.Generator):
                    own.manual_seed(_word(self._seed, "sampler", self.epoch))
            batches = list(self._batches)
        first = self.epoch << 32  # numbers of different epochs are different
        for batch in batches[: self.position]:
            first += len(batch)
        for batch in batches[self.position :]:
            yield [(first + place, index) for place, index in enumerate(batch)]
            first += len(batch)


class _Drawn(Dataset[Any]):
    """A dataset whose random numbers follow from the number of the example."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        if callable(getattr(dataset, "__getitems__", None)):
            self.__getitems__ = self._several  # a whole batch at once, where the dataset is asked so

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, numbered: tuple[int, Any]) -> Any:
        number, index = numbered
        with drawing(self._seed, "example", number):
            return self._dataset[index]

    def _several(self, numbered: Sequence[tuple[int, Any]]) -> Any:
        with drawing(self._seed, "example", numbered[0][0]):
            return self._dataset.__getitems__([index for _, index in numbered])


_legacy: Any = np.random  # whose functions for the process's own generator no stub has
_NUMPY = np.random.MT19937(0)  # in place of the process's own meanwhile: to copy that one's state takes 0.4 ms


@contextmanager
def drawing(seed: int, what: str, number: int) -> Iterator[None]:
    """The process's generators are seeded inside, and afterwards what they were."""
    of_python, of_numpy, of_torch = random.getstate(), _legacy.get_bit_generator(), torch.get_rng_state()
    word = _word(seed, what, number)
    random.seed(word)
    _legacy.set_bit_generator(_NUMPY)
    np.random.seed(word % 2**32)
    torch.default_generator.manual_seed(word)
    try:
        yield
    finally:
        random.setstate(of_python)
        _legacy.set_bit_generator(of_numpy)
        torch.set_rng_state(of_torch)


def _word(seed: int, what: str, number: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed} {what} {number}".encode()) >> 1
