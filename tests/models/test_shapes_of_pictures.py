"""Families train on pictures that are no squares: what the network is given has their shape, whatever its memory's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bases import write_base, write_xl_of_circles
from everstep.config.schema import Compute
from everstep.contracts import Batch, ExampleSettings, Framing
from everstep.data import BatchStream, BucketOrder, Framer, open_source
from everstep.data.buckets import shapes_of
from everstep.models.arithmetic import arithmetic
from everstep.models.base import locate
from everstep.models.objective import error_maps, task_of
from everstep.models.objective import loss as loss_of
from everstep.models.registry import open_family
from oblong import write_oblong


@pytest.fixture(scope="module", params=["sd15", "sdxl", "lllite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / kind
    return write_xl_of_circles(folder) if kind == "lllite" else write_base(folder, like=kind)


@pytest.fixture(scope="module")
def batches(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    """One of each shape that there is."""
    source, found = open_source(str(write_oblong(tmp_path_factory.mktemp("data") / "pairs")), None), locate(str(base))
    side, batch_size = found.native_resolution(), 2
    order = BucketOrder(range(len(source)), source.sizes(), shapes_of(side, found.step()), 0, batch_size)
    settings = ExampleSettings(seed=0, latent_shape=found.latent_shape(side), prompt_dropout=0.0)
    stream = BatchStream(Framer(source, Framing(side)), (), 0, batch_size, settings, 0, order=order)
    made = [next(stream) for _ in range(order.epoch_examples // batch_size)]
    return list({batch.targets_BHWC.shape: batch for batch in made}.values())


def family(base: Path, **compute: Any) -> Any:
    settings = Compute(device="cpu", **compute)
    return open_family(locate(str(base)), arithmetic(settings), settings)


def grown(network: Any) -> Any:
    """As if it had learned something: nothing that it adds is zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    "compute",
    [{}, {"channels_last": True}, {"gradient_checkpointing": True}, {"precision": "bf16"}],
    ids=["plain", "channels_last", "checkpointing", "bf16"],
)
def test_every_shape_is_trained_on(base: Path, kind: str, batches: list[Batch], compute: dict[str, Any]) -> None:
    assert len(batches) > 4
    assert {batch.targets_BHWC.shape[1] == batch.targets_BHWC.shape[2] for batch in batches} == {False, True}
    made = family(base, **compute)
    network = grown(made.new_controlnet(0, size="lllite" if kind == "lllite" else "full"))
    for batch in batches:
        network.zero_grad()
        loss = loss_of(made, network, batch)
        loss.backward()
        assert bool(torch.isfinite(loss))
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_what_is_predicted_has_the_shape_of_the_latents(base: Path, kind: str, batches: list[Batch]) -> None:
    made = family(base)
    network = grown(made.new_controlnet(0, size="lllite" if kind == "lllite" else "full"))
    for batch in batches:
        task, conditions = task_of(made, batch), made.conditions(batch.conditions_BHWC)
        errors = [error_maps(made, one, task, conditions) for one in (network, None)]
        assert all(one.shape == batch.noise_BCHW[:, 0].shape for one in errors)
        assert not torch.equal(*errors)


@torch.no_grad()
def test_an_lllite_embeds_each_part_of_a_condition_at_its_own_place(tmp_path: Path) -> None:
    """Row by row, as the UNet lays out what its attentions are given."""
    network = grown(family(write_xl_of_circles(tmp_path / "xl")).new_controlnet(0, size="lllite"))
    plain = torch.zeros(1, 3, 32, 128)
    spotted = plain.clone()
    spotted[:, :, -8:, 64:72] = 1.0
    for name, module in network.modules_by_name.items():
        before, after = module.embed(plain), module.embed(spotted)
        side = round((32 * 128 / before.shape[1]) ** 0.5)  # of the pixels of one place
        rows, columns = 32 // side, 128 // side
        found = (before != after).any(dim=2).reshape(rows, columns).nonzero().tolist()
        wanted = {(row, column) for row in range(24 // side, rows) for column in range(64 // side, -(-72 // side))}
        assert {tuple(place) for place in found} <= wanted, name
        assert found, name
