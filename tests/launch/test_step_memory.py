"""What a step takes of memory: what stays is told to the byte, and the rest goes with what it depends on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bases import write_base
from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.launch import step_memory as told
from everstep.launch.step_memory import LIBRARIES_BYTES, StepMemory, step_memory
from everstep.models.arithmetic import arithmetic
from everstep.models.base import BaseFolder, locate
from everstep.models.registry import open_family
from everstep.train.ema import Ema
from everstep.train.optim import make_optimizer

LARGE = {"data.resolution": 64, "optim.batch_size": 4}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return locate(str(write_base(tmp_path_factory.mktemp("bases") / request.param, like=request.param)))


def config(**settings: Any) -> Config:
    given = {"compute.device": "cpu", **LARGE, **settings}
    return resolve(None, {}, tuple(f"{name}={value}" for name, value in given.items()))


def memory(base: BaseFolder, **settings: Any) -> StepMemory:
    found = step_memory(config(**settings), base, None)
    assert found is not None
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("control", ["full", "small"])
def test_what_stays_is_told_to_the_byte(base: BaseFolder, precision: str, control: str) -> None:
    if control not in base.row.sizes:
        pytest.skip("this family has one size")
    settings = config(**{"compute.precision": precision, "optim.control": control, "optim.ema_decay": 0.9})
    family: Any = open_family(base, arithmetic(settings.compute), settings.compute)
    controlnet = family.new_controlnet(0, size=control)
    optimizer = make_optimizer(controlnet, settings.optim)
    found = step_memory(settings, base, None)
    assert found is not None
    parts = [family.vae.network, *(getattr(family, part) for part in base.row.networks if part != "vae")]
    assert found.base_bytes == sum(one.nbytes for part in parts for one in part.parameters())
    assert found.weights_bytes == found.gradients_bytes == sum(one.nbytes for one in controlnet.parameters())
    moments = (one for of_one in optimizer.state.values() for one in of_one.values())
    assert found.moments_bytes == sum(one.nbytes for one in moments)
    assert found.averaged_bytes == sum(one.nbytes for one in Ema(controlnet, 0.9).shadow.values())


def test_without_averaged_weights_there_are_none(base: BaseFolder) -> None:
    assert memory(base).averaged_bytes == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "more",
    [{"optim.batch_size": 8}, {"data.resolution": 128}, {"compute.precision": "fp32"}],
    ids=["batch", "resolution", "precision"],
)
def test_larger_batches_larger_pictures_and_wider_numbers_take_more(
    base: BaseFolder, device: str, more: dict[str, Any]
) -> None:
    few = {"compute.device": device, "compute.precision": "bf16"}
    one, other = memory(base, **few), memory(base, **{**few, **more})
    assert one.gradients_bytes + one.batch_bytes < other.gradients_bytes + other.batch_bytes
    assert one.peak_bytes < other.peak_bytes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_computing_again_takes_less(base: BaseFolder, device: str, precision: str) -> None:
    given = {"compute.device": device, "compute.precision": precision, "data.resolution": 256}
    plain, again = memory(base, **given), memory(base, **{**given, "compute.gradient_checkpointing": True})
    assert again.batch_bytes < plain.batch_bytes
    assert replace(again, batch_bytes=0) == replace(plain, batch_bytes=0)


def test_on_a_gpu_gradients_take_the_place_of_what_they_were_made_from(base: BaseFolder) -> None:
    here, there = (
        memory(base, **{"compute.precision": "fp32"}),
        memory(base, **{"compute.device": "cuda", "compute.precision": "fp32"}),
    )
    assert (here.libraries_bytes, there.libraries_bytes, there.loading_bytes) == (LIBRARIES_BYTES, 0, 0)
    assert there.batch_bytes < here.batch_bytes


def test_gradients_of_an_earlier_pass_are_there_all_along(base: BaseFolder) -> None:
    given = {"compute.device": "cuda", "data.resolution": 256}
    one, several = memory(base, **given), memory(base, **{**given, "optim.accumulation_steps": 2})
    assert one.batch_bytes < several.batch_bytes


def test_while_a_base_is_read_its_file_lies_beside_it(base: BaseFolder) -> None:
    """Where little is trained that is the most there ever is."""
    small = memory(base, **{"data.resolution": 16, "optim.batch_size": 1})
    file = next((base.path / "unet").glob("*.safetensors")).stat().st_size
    assert small.loading_bytes >= LIBRARIES_BYTES + 2 * file - 200_000  # headers
    assert replace(small, loading_bytes=1 << 40).peak_bytes == 1 << 40
    assert replace(small, loading_bytes=1 << 40).step_bytes == small.step_bytes


@pytest.mark.parametrize(
    ("files", "torch", "found"), [(True, "2.13.0", "cuda"), (True, "2.13.0+cpu", "cpu"), (False, "2.13.0", "cpu")]
)
def test_where_it_would_be_is_told_without_pytorch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: bool, torch: str, found: str
) -> None:
    monkeypatch.setattr(told, "NVIDIA", tmp_path if files else tmp_path / "none")
    monkeypatch.setattr(told, "version", lambda name: torch)
    assert told.device_of(config(**{"compute.device": "auto"}).compute) == found
    assert told.device_of(config(**{"compute.device": "cuda:1"}).compute) == "cuda"


def test_nothing_is_told_of_what_is_not_known(base: BaseFolder, tmp_path: Path) -> None:
    assert step_memory(config(**{"compute.device": "mps"}), base, None) is None
    (tmp_path / "config.json").write_text('{"down_block_types": ["KDownBlock2D"], "block_out_channels": [8]}')
    assert step_memory(config(), base, tmp_path) is None
