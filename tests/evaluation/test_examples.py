"""The measure on real networks: nothing for one that adds nothing, and the same number every time."""

import numpy as np
import pytest
import torch

from everstep.config.load import resolve
from everstep.contracts import Framing, Pair
from everstep.data import Framer, open_source, split
from everstep.evaluation.examples import Examples
from everstep.evaluation.loading import open_base
from everstep.evaluation.scorer import example_settings


@pytest.fixture(scope="module")
def config(tiny_base, pairs_folder):
    return resolve(None, {"base": str(tiny_base), "data": {"path": str(pairs_folder), "resolution": 16}})


@pytest.fixture(scope="module")
def family(config):
    return open_base(config)


def examples_of(family, config, source, held_out_pairs=8, examples=64):
    pairs = split(source, held_out_pairs)
    settings = example_settings(config, family)
    return Examples(family, Framer(source, Framing(16)), pairs.held_out, pairs.training, settings, examples, 5)


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


def test_an_untrained_controlnet_is_the_base_and_gains_exactly_nothing(family, config, pairs_folder, monkeypatch):
    examples = examples_of(family, config, open_source(str(pairs_folder), 16))
    found = examples.measure(family.new_controlnet(0))
    assert (found.gain.value, found.gain.low, found.gain.high, found.gain.p) == (0.0, 0.0, 0.0, 1.0)
    assert (found.gain.benefit, found.gain.benefit_low, found.gain.seen_benefit) == (0.0, 0.0, 0.0)
    assert found.gain.by_band == found.gain.benefit_by_band == (0.0,) * 4
    # It is not even run; run, it says the same.
    monkeypatch.setattr(type(family), "adds_nothing", lambda family, controlnet: False)
    assert examples.measure(family.new_controlnet(0)).gain == found.gain


def test_the_measure_is_the_same_every_time_and_leaves_the_network_alone(family, config, pairs_folder):
    source, controlnet = open_source(str(pairs_folder), 16), speaking(family)
    before = {name: tensor.clone() for name, tensor in controlnet.state_dict().items()}
    first = examples_of(family, config, source).measure(controlnet).gain
    assert examples_of(family, config, source).measure(controlnet).gain == first
    assert first.value != 0
    assert first.benefit < 0  # what it adds is noise
    assert controlnet.training
    assert all(torch.equal(before[name], tensor) for name, tensor in controlnet.state_dict().items())
    assert all(parameter.grad is None for parameter in controlnet.parameters())


def test_what_is_lent_is_another_pairs_condition_even_where_there_is_one_held_out_pair(family, config, pairs_folder):
    source = open_source(str(pairs_folder), 16)
    examples = examples_of(family, config, source, held_out_pairs=1)
    assert examples.measure(speaking(family)).gain.pairs == 1
    for some in examples._ready.values():
        for own, lent in zip(some.own_BHWC, some.lent_BHWC, strict=True):
            assert not np.array_equal(own, lent)


def test_training_pairs_are_looked_at_too_and_are_others(family, config, pairs_folder):
    examples = examples_of(family, config, open_source(str(pairs_folder), 16))
    examples.measure(speaking(family))
    held_out, seen = (
        {condition.tobytes() for some in examples._ready.values() for condition in conditions(some)}
        for conditions in (lambda some: some.own_BHWC, lambda some: some.seen_BHWC)
    )
    assert len(held_out) == len(seen) == 3
    assert not held_out & seen


def test_what_decides_on_the_examples_is_in_their_digest(family, config, pairs_folder):
    source, network = open_source(str(pairs_folder), 16), family.new_controlnet(0)

    def digest(source=source, **others):
        return examples_of(family, config, source, **others).measure(network).gain.design

    digests = {digest(), digest(held_out_pairs=2), digest(examples=96), digest(OneCondition(source))}
    assert len(digests) == 4  # the last has the same names
    assert digest() in digests


class OneCondition:
    """Pairs whose conditions are all the same picture."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def name(self, pair):
        return self._source.name(pair)

    def load(self, pair, which, smaller=None):
        loaded = self._source.load(pair)
        return Pair(loaded.target, self._source.load(0).condition, loaded.caption)


def test_conditions_that_are_all_alike_tell_nothing(family, config, pairs_folder):
    source = OneCondition(open_source(str(pairs_folder), 16))
    found = examples_of(family, config, source).measure(speaking(family)).gain
    assert (found.value, found.p) == (0.0, 1.0)
    assert found.benefit != 0.0
