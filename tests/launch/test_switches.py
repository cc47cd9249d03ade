"""Which settings would make a training fit: told by the same arithmetic as the step, the least harmful first."""

from pathlib import Path

import pytest

from bases import write_base
from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.launch.step_memory import step_memory
from everstep.launch.switches import Switch, short_of, switches
from everstep.models.base import BaseFolder, locate

GIVEN = {"compute.device": "cpu", "data.resolution": 64, "optim.batch_size": 8, "optim.accumulation_steps": 3}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return locate(str(write_base(tmp_path_factory.mktemp("bases") / request.param, like=request.param)))


def config(words: str = "", **settings: object) -> Config:
    """Of settings, and of words as they are told."""
    flags = [part.split(" ", 1) for part in words.removeprefix("--").split(" --") if part]
    said = {flag[0].replace("-", "_"): flag[1] if len(flag) > 1 else "true" for flag in flags}
    return resolve(None, {}, tuple(f"{name}={value}" for name, value in {**GIVEN, **settings, **said}.items()))


def peak_bytes(of: Config, base: BaseFolder) -> int:
    found = step_memory(of, base, None)
    assert found is not None
    return found.peak_bytes


def told(base: BaseFolder, room_bytes: int, measured_bytes: int | None = None, **settings: object) -> list[Switch]:
    return switches(config(**settings), base, None, room_bytes, measured_bytes)


def test_each_is_what_its_words_come_to_and_trains_as_many_images_a_step(base: BaseFolder) -> None:
    room = peak_bytes(config(), base) - 1
    found = told(base, room)
    assert found[0].words == "--compute.gradient-checkpointing"
    assert found[1].words == "--optim.batch-size 4 --optim.accumulation-steps 6"
    assert len(found) == 3
    for switch in found:
        assert peak_bytes(config(switch.words), base) == switch.peak_bytes <= room
        assert config(switch.words).optim.images_per_step == 24


def test_where_one_is_not_enough_they_are_told_together(base: BaseFolder) -> None:
    both = config("--compute.gradient-checkpointing --optim.batch-size 1 --optim.accumulation-steps 24")
    room = peak_bytes(both, base)
    alone = config("--optim.batch-size 1 --optim.accumulation-steps 24")
    assert peak_bytes(alone, base) > room
    assert told(base, room)[0].words == "--compute.gradient-checkpointing --optim.batch-size 1 " + (
        "--optim.accumulation-steps 24"
    )


def test_what_changes_the_training_comes_last(base: BaseFolder) -> None:
    room = peak_bytes(config("--optim.batch-size 1", **{"compute.gradient_checkpointing": True}), base) - 1
    first = told(base, room)[0].words
    assert "--compute.precision bf16" in first
    assert "resolution" not in first
    assert "control" not in first


def test_what_is_set_already_is_not_told_again(base: BaseFolder) -> None:
    settings = {"compute.gradient_checkpointing": True, "optim.batch_size": 1, "compute.precision": "bf16"}
    for switch in told(base, peak_bytes(config(**settings), base) - 1, **settings):
        assert not {"--compute", "--optim.batch-size"} & {word.partition(" ")[0] for word in switch.words.split()}


def test_nothing_is_told_where_nothing_is_enough(base: BaseFolder) -> None:
    assert told(base, 500_000_000) == []


def test_what_was_measured_corrects_what_is_told(base: BaseFolder) -> None:
    now = peak_bytes(config(), base)
    plain, corrected = (told(base, now + 10_000_000, measured)[0] for measured in (now, now + 20_000_000))
    assert corrected.peak_bytes >= plain.peak_bytes
    exact = told(base, now - 1)[0]
    assert told(base, now + 19_999_999, now + 20_000_000)[0] == Switch(exact.words, exact.peak_bytes + 20_000_000)


def test_where_memory_ran_out_more_was_needed_than_there_was(base: BaseFolder, tmp_path: Path) -> None:
    now = peak_bytes(config(), base)
    for room in (now // 2, 2 * now):
        assert short_of(config(), base, None, room) > max(now, room)
