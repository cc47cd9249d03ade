"""What is told of the loader beside the step."""

import pytest

from everstep.cli.plan_measured import loader_sentence
from everstep.launch.finishing import Feeding
from everstep.train import measuring
from everstep.train.measured import Fed


def test_the_loaders_sentence() -> None:
    enough, most = Fed(4, 71.2), Fed(8, 40.4)
    assert loader_sentence(Feeding(46.0, 38.0, 2, enough, enough)) == (
        "the loader gives 38 images/s with data.workers 2, the step takes 46: data.workers 4 gives 71"
    )
    assert "no number of workers is enough, the most is 40 with data.workers 8" in loader_sentence(
        Feeding(46.0, 38.0, 2, None, most)
    )
    assert loader_sentence(Feeding(4.6, 38.0, 2, Fed(2, 38.0), Fed(2, 38.0))).endswith("takes 4.6: it keeps up")
    assert "it keeps up, but in turn with it" in loader_sentence(Feeding(4.6, 38.0, 0, Fed(0, 38.0), Fed(0, 38.0)))


@pytest.mark.parametrize(
    ("workers", "cores", "counts"), [(2, 2, [2, 4]), (0, 2, [0, 1, 2, 4]), (3, 8, [3, 4, 8, 16]), (64, 4, [64])]
)
def test_more_workers_are_tried_than_are_set(workers: int, cores: int, counts: list[int]) -> None:
    assert measuring.worker_counts(workers, cores) == counts
