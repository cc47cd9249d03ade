"""The measure on real networks: nothing for one that adds nothing, and the same number every time."""

import numpy as np
import pytest
import torch
from everstep.evaluation.probe import Probe

from everstep.config import resolve
from everstep.contracts import Pair
from everstep.data import open_source, split
from everstep.evaluation.loading import open_base
from everstep.evaluation.scorer import example_settings


@pytest.fixture(scope="module")
def config(tiny_base, pairs_folder):
    return resolve(None, {"base": str(tiny_base), "data": {"path": str(pairs_folder), "resolution": 16}})


@pytest.fixture(scope="module")
def family(config):
    return open_base(config)


def probe_of(family, config, source, held_out_pairs=8, examples=16):
    pairs = split(source, held_out_pairs)
    settings = example_settings(config, family)
    return Probe(family, source, pairs.held_out, pairs.training, settings, examples, 5)


def speaking(family):
    """A ControlNet whose zero convolutions are no longer zero: it makes something of its condition."""
    controlnet = family.new_controlnet(0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in controlnet.named_parameters():
            if name.startswith(
                ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
            ):
                parameter.normal_(0, 0.1)
    return controlnet


def test_an_untrained_controlnet_gains_exactly_nothing(family, config, pairs_folder):
    found = probe_of(family, config, open_source(str(pairs_folder), 16)).measure(family.new_controlnet(0))
    assert (found.value, found.low, found.high, found.over_blank) == (0.0, 0.0, 0.0, 0.0)
    assert found.by_band == (0.0,) * 4


def test_the_measure_is_the_same_every_time_and_leaves_the_network_alone(family, config, pairs_folder):
    source, controlnet = open_source(str(pairs_folder), 16), speaking(family)
    before = {name: tensor.clone() for name, tensor in controlnet.state_dict().items()}
    first = probe_of(family, config, source).measure(controlnet)
    assert probe_of(family, config, source).measure(controlnet) == first
    assert first.value != 0
    assert controlnet.training
    assert all(torch.equal(before[name], tensor) for name, tensor in controlnet.state_dict().items())
    assert all(parameter.grad is None for parameter in controlnet.parameters())


def test_what_is_lent_is_another_pairs_condition_even_where_there_is_one_held_out_pair(family, config, pairs_folder):
    source = open_source(str(pairs_folder), 16)
    probe = probe_of(family, config, source)  # 5 % of 30 pairs is one
    for some in probe._probed:
        for own, lent in zip(some.own_BHWC, some.lent_BHWC, strict=True):
            assert not np.array_equal(own, lent)
    assert probe.measure(speaking(family)).pairs == 1


class OneCondition:
    """Pairs whose conditions are all the same picture."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def name(self, pair):
        return self._source.name(pair)

    def load(self, pair):
        loaded = self._source.load(pair)
        return Pair(loaded.target, self._source.load(0).condition, loaded.caption)


def test_conditions_that_are_all_alike_tell_nothing(family, config, pairs_folder):
    found = probe_of(family, config, OneCondition(open_source(str(pairs_folder), 16))).measure(speaking(family))
    assert found.value == 0.0
    assert found.over_blank != 0.0
