"""What a plan measures is what a training does; whatever becomes of the measuring, nothing of it stays."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
import torch

from everstep.contracts import Pair, Smaller, Which
from everstep.data.framing import FIRST
from everstep.data.source import ListedSource
from everstep.errors import UserError
from everstep.launch.apart import run_apart
from everstep.models.base import locate
from everstep.train import measuring
from everstep.versions import Run
from everstep.versions.layout import is_planned
from program import Ended, Program

Everstep = Callable[..., Ended]
Start = Callable[..., Program]
QUICK = {"STEPS": 2, "STEPS_S": 0.0, "LOADER_S": 0.05}


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that measures is forked from here, and counts as few steps."""
    for name, value in QUICK.items():
        monkeypatch.setattr(measuring, name, value)


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    small = ("--optim.batch-size", 2, "--optim.accumulation-steps", 2, "--sampling.pairs", 2, "--sampling.steps", 2)
    return ("--run", "a", "--base", tiny_base, "--data", pairs_folder, "--optim.max-steps", 6, *small)


def planned(everstep: Everstep, *words: object, code: int = 0) -> dict[str, object]:
    ended = everstep("plan", *words, "--json")
    assert ended.code == code, ended.out
    facts: dict[str, object] = json.loads(ended.out[ended.out.index("{") :])
    return facts


def left(place: Path) -> list[str]:
    return [path.name for path in place.rglob("*") if is_planned(path.name)]


def test_what_is_measured_is_what_a_training_does(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    line = (*words, "--versions.every", 2, "--optim.ema-decay", 0.9)
    told = planned(everstep, *line)
    assert list(workplace.iterdir()) == []
    found = told["measured"]
    assert isinstance(found, dict)
    assert (found["failed"], found["left_out"], told["fits_memory"], told["switches"]) == (None, [], True, [])
    assert found["steps"]["counted"] == 2
    for phase in ("start", "step", "evaluation", "version"):
        assert 0 < found["peak_bytes"][phase] < found["room_bytes"]
    # A step's peak on a CPU is the whole process, of which PyTorch alone is hundreds of MB.
    assert found["peak_bytes"]["step"] > 200_000_000
    assert found["evaluated"]["failed"] == {}
    assert found["evaluated"]["gain_s"] > 0
    assert found["evaluated"]["pictures_s"] > 0
    assert found["finish"]["versions"] == told["versions"] == 4
    assert found["finish"]["steps_s"] == pytest.approx(6 * found["finish"]["step_s"])
    assert found["images_per_second"] == pytest.approx(4 / found["finish"]["step_s"])
    ended = everstep("train", *line)
    assert ended.code == 0, ended.out
    real = Run.open(workplace / "runs/a").find("latest")
    assert found["committed"]["version_bytes"] == pytest.approx(real.size_bytes, abs=200)  # counters in state.json
    going_on = planned(everstep, *line)["measured"]
    assert going_on["left_out"] == ["nothing was measured: the training is complete"]  # type: ignore[index]


def test_a_run_that_is_there_is_measured_from_where_it_is_and_nothing_of_it_changes(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    line = (*words, "--keep.everything", "--versions.every", 3)
    assert everstep("train", *line).code == 0
    (workplace / "runs/a/version_2").rename(workplace / "version_2")
    before = {path: path.stat() for path in (workplace / "runs").rglob("*") if path.is_file()}
    told = planned(everstep, *line)
    assert told["goes_on_from"] == "version_1"
    assert told["steps_left"] == 3
    found = told["measured"]
    assert isinstance(found, dict)
    assert found["failed"] is None
    assert found["finish"]["steps_s"] == pytest.approx(3 * found["finish"]["step_s"])
    after = {path: path.stat() for path in (workplace / "runs").rglob("*") if path.is_file()}
    assert {path: stat.st_mtime_ns for path, stat in after.items()} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }


def test_a_cache_is_told_from_what_was_encoded(everstep: Everstep, words: tuple[object, ...], tiny_base: Path) -> None:
    found = planned(everstep, *words, "--data.flip-probability", 0.5)["measured"]
    assert isinstance(found, dict)
    encoded, cache = found["encoded"], found["cache"]
    latents_bytes = 2 * 4 * prod(locate(str(tiny_base)).latent_shape(16))  # mean and deviation, float32
    assert latents_bytes < encoded["picture_bytes"] < latents_bytes + 16 * 16 * 3 + 256  # as the cache packs it
    assert cache["pictures"] == 2 * 30
    assert cache["size_bytes"] >= 60 * encoded["picture_bytes"] + encoded["prompt_bytes"]
    assert 0 < cache["share_of_step"] <= 1


def test_what_would_take_too_long_is_left_out_or_told_from_its_beginning(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVALUATION_S", "LONG_STEP_S"):
        monkeypatch.setattr(measuring, name, 0.0)
    found = planned(everstep, *words)["measured"]
    assert isinstance(found, dict)
    steps, sheet, gain = found["left_out"]
    assert (steps.startswith("the first step took "), found["steps"]["counted"]) == (True, 0)
    assert sheet.startswith("the contact sheet, which would take about ")
    assert gain.startswith("control gain was not measured to its end")
    assert (found["evaluated"]["is_gain_whole"], found["evaluated"]["gain_s"] > 0) == (False, True)
    assert found["finish"]["step_s"] >= found["steps"]["first_s"]
    # Two pictures in two denoising steps with guidance, each of which is two forwards, of which training takes 2.5.
    assert found["evaluated"]["pictures_s"] == pytest.approx(2 * 2 * 2 * found["steps"]["first_s"] / 4 / 2.5)


def test_it_is_told_in_words(everstep: Everstep, words: tuple[object, ...]) -> None:
    ended = everstep("plan", *words)
    assert ended.code == 0, ended.out
    for part in (
        "measured   on cpu in fp32, in a hidden run that is gone again: 3 steps, one evaluation, one version;",
        "peak       a step ",
        " s a step, ",
        "written and flushed to the disk in",
        "the loader gives",
        " to the end (6 steps ",
        "30 pictures and their captions, encoded once (data.cache): ",
    ):
        assert part in ended.out, ended.out
    quick = everstep("plan", *words, "--quick")
    assert ended.out.startswith(quick.out.split("snapshots")[0])
    assert "measured" not in quick.out


# --- what does not fit -------------------------------------------------------------------------------------


@pytest.fixture
def wide(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """A batch that is most of what a step takes, so that a smaller one helps. In a file, which flags win over."""
    path = tmp_path_factory.mktemp("wide") / "wide.yaml"
    path.write_text("optim: {batch_size: 64}\ndata: {resolution: 64}\n")
    return (path, "--run", "a", "--base.path", tiny_base, "--data.path", pairs_folder, "--compute.device", "cpu")


def test_memory_that_runs_out_is_told_with_the_switches_that_help(
    everstep: Everstep, wide: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setattr(measuring, "take_step", lambda *given: torch.empty(1 << 50, dtype=torch.uint8))
    need = planned(everstep, *wide, "--quick")["memory"]["peak_bytes"]  # type: ignore[index]
    monkeypatch.setattr("everstep.launch.plan.available_bytes", lambda: need + 1)
    told = planned(everstep, *wide, code=1)
    found = told["measured"]
    assert isinstance(found, dict)
    assert (found["failed_in"], found["is_out_of_memory"], found["steps"]) == ("in a step", True, None)
    assert found["failed"] == "memory ran out"
    assert "can't allocate memory" in found["error"]
    assert (told["fits"], told["fits_disk"], told["fits_memory"]) == (False, True, False)
    first, *_ = told["switches"]  # type: ignore[misc]
    assert "--compute.gradient-checkpointing" in first["words"] or "--optim.batch-size" in first["words"]
    shown = everstep("plan", *wide)
    assert shown.code == 1
    assert "failed     in a step: memory ran out. A training" in shown.out
    assert f"fits with  {first['words']}: " in shown.out
    assert left(workplace) == []


def test_a_switch_is_taken_as_it_is_told(
    everstep: Everstep, wide: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    need = planned(everstep, *wide, "--quick")["memory"]["peak_bytes"]  # type: ignore[index]
    monkeypatch.setattr("everstep.launch.plan.available_bytes", lambda: round(need * 0.9))
    told = planned(everstep, *wide, code=1)
    assert "more memory than this machine has" in told["measured"]["left_out"][0]  # type: ignore[index]
    assert told["switches"]
    for switch in told["switches"]:  # type: ignore[attr-defined]
        again = planned(everstep, *wide, *switch["words"].split(), "--quick")
        assert again["memory"]["peak_bytes"] == switch["peak_bytes"] <= round(need * 0.9)  # type: ignore[index]
        assert again["images_seen"] == told["images_seen"]


def kill_itself(*given: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_a_finding(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setattr(measuring, "take_step", kill_itself)
    found = planned(everstep, *words, code=1)["measured"]
    assert isinstance(found, dict)
    assert found["failed"] == "killed, as the system does where memory runs out"
    assert found["built"]["device"] == "cpu"
    assert list(workplace.iterdir()) == []


def fail(*given: object) -> None:
    raise ArithmeticError("nothing of the kind")


def test_a_process_that_fails_is_a_finding_without_a_trace(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setattr(measuring, "take_step", fail)
    ended = everstep("plan", *words)
    assert ended.code == 1
    assert "failed     in a step: ArithmeticError: nothing of the kind. A training" in ended.out
    assert "Traceback" not in ended.out
    assert "fits with" not in ended.out
    assert list(workplace.iterdir()) == []


def refuse(*given: object) -> None:
    raise UserError("The base cannot be begun with.")


def test_what_train_refuses_once_it_is_put_together_is_refused_too(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setattr("everstep.train.session._refuse_sick_start", refuse)
    ended = everstep("plan", *words)
    assert (ended.code, ended.out.splitlines()[-1]) == (2, "The base cannot be begun with.")
    assert list(workplace.iterdir()) == []


# --- killed, and stopped -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slowly:
    """In the process that measures, a step never ends; it says that it has come to it."""

    mark: Path

    def __call__(self) -> None:
        for name, value in QUICK.items():
            setattr(measuring, name, value)
        measuring.take_step = self.step  # type: ignore[assignment]

    def step(self, *given: object) -> None:
        self.mark.write_text(str(os.getpid()))
        time.sleep(600)


@pytest.fixture
def under_way(start: Start, words: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, int]:
    """A plan that is measuring, and the process that does it."""
    mark = tmp_path_factory.mktemp("mark") / "pid"
    program = start("plan", *words, prepare=Slowly(mark))
    program.wait_for(lambda: mark.exists() and mark.read_text())
    return program, int(mark.read_text())


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_plan_that_is_killed_takes_what_measures_with_it_and_the_next_one_cleans_up(
    under_way: tuple[Program, int], everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    program, child = under_way
    assert len(left(workplace)) == 1
    program.signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    until = time.monotonic() + 30
    while not has_ended(child):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(left(workplace)) == 1
    assert everstep("plan", *words, "--quick").code == 0
    assert planned(everstep, *words)["fits"] is True
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_plan_that_is_stopped_leaves_nothing(
    under_way: tuple[Program, int], workplace: Path, number: signal.Signals
) -> None:
    program, child = under_way
    program.signal(number)
    assert program.wait() == 3
    assert "Stopped measuring; nothing of it is left." in program.output
    assert has_ended(child)
    assert list(workplace.iterdir()) == []


def test_what_another_plan_works_in_is_left_alone(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    from everstep.config.load import resolve

    with run_apart(workplace / "runs/b", resolve(None, {})) as run:
        assert planned(everstep, *words)["fits"] is True
        assert run.layout.hparams.is_file()
    assert list(workplace.iterdir()) == []


# --- the loader --------------------------------------------------------------------------------------------


def test_a_loader_that_is_slow_is_told_with_the_workers_that_are_enough_or_that_none_are(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ListedSource.load

    def slowly(self: ListedSource, pair: int, which: Which = FIRST, smaller: Smaller | None = None) -> Pair:
        time.sleep(0.2)
        return load(self, pair, which, smaller)

    monkeypatch.setattr(ListedSource, "load", slowly)
    line = (*words, "--data.workers", 1, "--scoring.overhead", 0)
    told = planned(everstep, *line)["measured"]
    assert isinstance(told, dict)
    loader = told["loader"]
    rates = {int(workers): rate for workers, rate in loader["images_per_second"].items()}
    assert rates[1] <= 5 < loader["wanted_images_per_second"]
    assert rates[2] > rates[1]  # they wait side by side
    assert loader["enough_workers"] is None
    assert told["finish"]["step_s"] == pytest.approx(4 / rates[1])
