"""Batches are what they would have been: whatever the workers, whenever it goes on, whatever else draws."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from everstep.adapters.loading import Ordered, drawing, ordered
from everstep.errors import UserError

EPOCHS = 3


class Drawn(Dataset):
    """Draws from all generators of the process."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random() + float(np.random.rand()) + torch.rand(()).item()


class Together(Drawn):
    """Is asked for batches, as those of the datasets library are."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def loaders(workers=0):
    own = torch.Generator().manual_seed(5)
    yield DataLoader(Drawn(), batch_size=3, shuffle=True, num_workers=workers)
    yield DataLoader(Drawn(), batch_size=4, num_workers=workers, drop_last=True)
    yield DataLoader(Together(), batch_size=3, sampler=RandomSampler(range(10), generator=own), num_workers=workers)
    yield DataLoader(Drawn(), batch_size=3, sampler=WeightedRandomSampler([1.0] * 10, 10), num_workers=workers)


KINDS = range(len(list(loaders())))


def read(loader: Ordered, most: int = 1000) -> list[tuple[list[int], list[float]]]:
    """To the end, or so many batches."""
    found = []
    while loader.state_dict()["epoch"] < EPOCHS:
        for indices, draws in loader:
            found.append((indices.tolist(), draws.tolist()))
            if len(found) == most:
                return found
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_whenever_it_goes_on_the_rest_is_the_same(kind: int) -> None:
    whole = read(ordered(list(loaders())[kind], 7))
    for most in range(1, len(whole)):
        first, second = (ordered(list(loaders())[kind], 7) for _ in range(2))
        begun = read(first, most)
        torch.rand(3), np.random.rand(3), random.random()
        second.load_state_dict(first.state_dict())
        assert begun + read(second) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_workers_change_nothing(kind: int) -> None:
    assert read(ordered(list(loaders(2))[kind], 7)) == read(ordered(list(loaders())[kind], 7))


def test_epochs_and_seeds_are_different_and_every_example_has_its_turn() -> None:
    batches = read(ordered(next(loaders()), 7))
    epochs = [[index for indices, _ in batches[first : first + 4] for index in indices] for first in (0, 4, 8)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * EPOCHS
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
    draws = [draw for _, drawn in batches for draw in drawn]
    assert len(set(draws)) == len(draws)
    assert read(ordered(next(loaders()), 8)) != batches


def test_an_epoch_that_is_left_is_over() -> None:
    loader = ordered(next(loaders()), 7)
    next(iter(loader))
    assert [len(indices) for indices, _ in loader] == [3, 3, 3, 1]
    assert loader.state_dict() == {"epoch": 2, "position": 0}


def test_the_processs_own_generators_are_left_alone() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    list(ordered(next(loaders()), 7))
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == expected
    with pytest.raises(ValueError, match="of the dataset"), drawing(0, "example", 0):
        raise ValueError("of the dataset")
    assert np.random.get_state()[0] == "MT19937"


def test_what_is_only_iterated_is_refused() -> None:
    class Iterated(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(UserError, match="is only iterated"):
        ordered(DataLoader(Iterated(), batch_size=2))
    with pytest.raises(UserError, match="batch size"):
        ordered(DataLoader(Drawn(), batch_size=None))
