"""Further pictures are drawn as long as there is time for a batch; the contact sheet is in any case."""

import contextlib

import numpy as np
import pytest
import torch

from everstep.config.schema import Config
from everstep.contracts import Framing
from everstep.data import Framer, open_source
from everstep.evaluation.allowance import Allowance
from everstep.evaluation.loading import open_base
from everstep.evaluation.pictures.painter import Painter

PAIRS = range(100, 123)  # 3 on the sheet, 20 further: batches of 8, 8 and 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def config(tiny_base):
    return Config(
        base=str(tiny_base), data={"path": "builtin:circles", "resolution": 16}, sampling={"pairs": 3, "steps": 1}
    )


@pytest.fixture(scope="module")
def family(config):
    return open_base(config)


@pytest.fixture(scope="module")
def controlnet(family):
    torch.manual_seed(0)
    network = family.new_controlnet(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(torch.randn_like(weights) * 0.05)
    return network


def painter(family, config, allowance, during=None):
    source = open_source("builtin:circles", 16, "refuse")
    more = {} if during is None else {"during": during}
    return Painter(family, config, Framer(source, Framing(16)), PAIRS, allowance, **more)


def test_all_are_drawn_where_nothing_limits_them_as_if_at_once(family, config, controlnet):
    both = painter(family, config, None)
    sheet = both.paint_sheet(controlnet)
    shown, further = both.paint_further(controlnet, 1)
    assert (both.numbers, both.further) == (PAIRS[:3], PAIRS[3:])
    assert [len(sheet), len(shown), len(further)] == [3, 20, 20]
    wide = config.model_copy(update={"sampling": config.sampling.model_copy(update={"pairs": 23})})
    at_once = painter(family, wide, None).paint_sheet(controlnet)
    assert np.abs(np.stack([*sheet, *further]) - np.stack(at_once)).max() < 1e-3
    assert np.abs(np.stack(at_once[1:]) - np.stack(at_once[:-1])).max() > 0.01


@pytest.mark.parametrize(("pictures_paid", "drawn"), [(7.9, 0), (8.1, 8), (15.9, 8), (16.1, 16), (20.1, 20), (99, 20)])
def test_whole_batches_are_drawn_as_far_as_time_reaches(family, config, controlnet, pictures_paid, drawn):
    clock = Clock()
    some = painter(family, config, Allowance(0.5, clock, start_s=0.0))
    some.paint_sheet(controlnet)
    some._picture_s = 10.0  # a slow machine
    clock.now += pictures_paid * 10 / 0.5
    assert len(some._affordable(1)) == -(-drawn // 8)
    assert sum(map(len, some._affordable(1))) == drawn
    assert sum(map(len, some._affordable(17))) == (drawn if drawn >= 17 else 0)


def test_the_sheet_is_drawn_without_time_and_its_time_counts(family, config, controlnet):
    clock = Clock()
    account = Allowance(0.5, clock, start_s=0.0)

    @contextlib.contextmanager
    def slow(what, unit=""):
        def said(done, total):
            clock.now += 100

        yield said

    some = painter(family, config, account, slow)
    assert len(some.paint_sheet(controlnet)) == 3
    assert account.left_s == -100  # of its one denoising step
    assert some.paint_further(controlnet, 1) == ([], [])


def test_a_drawing_slower_than_thought_ends_at_the_next_batch(family, config, controlnet):
    clock = Clock()
    account = Allowance(0.5, clock, start_s=1e6)

    @contextlib.contextmanager
    def during(what, unit=""):
        def said(done, total):
            clock.now += 0 if "sheet" in what else 1e7

        yield said

    some = painter(family, config, account, during)
    some.paint_sheet(controlnet)
    shown, further = some.paint_further(controlnet, 1)
    assert len(shown) == len(further) == 8
    assert account.left_s < 0
    assert some.paint_further(controlnet, 1) == ([], [])
