"""Every optimizer: kept whole, resumed bit for bit, told beforehand to the byte, and refused where it cannot be had."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from everstep.config.load import resolve
from everstep.launch.footprint import new_footprint
from everstep.launch.step_memory import step_memory
from everstep.models.base import locate
from everstep.models.files import OPTIMIZER, STATE, TENSOR_FILES
from everstep.models.optimizers import ITEM_BYTES
from everstep.models.survey import survey
from everstep.records.steps import read_metrics
from everstep.versions import Run, verify
from everstep.versions.tensorfile import read_header
from law import KillAfter
from program import Ended, Program

Start = Callable[..., Program]
Everstep = Callable[..., Ended]
STEPS = 12
RATES = {"adamw": 1e-3, "adamw8bit": 1e-3, "adafactor": 1e-3, "prodigy": 1.0}
OTHERS = [name for name in RATES if name != "adamw"]


def settings(optimizer: str) -> tuple[object, ...]:
    return (
        *("--optim.optimizer", optimizer, "--optim.learning-rate", RATES[optimizer], "--optim.max-steps", STEPS),
        *("--optim.batch-size", 2, "--optim.seed", 7, "--optim.schedule", "cosine", "--optim.warmup-steps", 3),
        *("--versions.every", 4, "--sampling.pairs", 0, "--keep.everything", "--scoring.overhead", 0),
    )


@pytest.fixture(scope="module", params=OTHERS)
def straight(
    request: pytest.FixtureRequest, tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Trained without a stop; nobody writes to it."""
    folder = tmp_path_factory.mktemp(request.param)
    words = ("train", "--run", request.param, "--base", tiny_base, "--data", pairs_folder, *settings(request.param))
    program = Program(words, folder)
    assert program.wait() == 0, program.output
    return Run.open(folder / "runs" / request.param)


def outcome(run: Run) -> tuple[object, ...]:
    last = run.find("latest")
    assert last.step == STEPS
    assert verify(last) == []
    small = [json.loads((last.path / file).read_text()) for file in ("digests.json", STATE)]
    return *small, read_metrics(run.layout.records)


def header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    with path.open("rb") as file:
        found, _ = read_header(file, path.stat().st_size)
    return {name: (place.dtype, place.shape) for name, place in found.tensors.items()}


@pytest.mark.fault("SIGKILL at step 5 and SIGTERM at step 9, with each optimizer")
def test_stops_change_nothing(
    straight: Run, tiny_base: Path, pairs_folder: Path, start: Start, everstep: Everstep, workplace: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *settings(straight.name))
    for step, number in ((5, signal.SIGKILL), (9, signal.SIGTERM)):
        program = start(*words, prepare=KillAfter(step, number))
        assert program.wait() == 3, program.output
    program = start(*words)
    assert program.wait() == 0, program.output
    assert "not restored: nothing" in program.output
    assert outcome(Run.open(workplace / "runs/a")) == outcome(straight)
    ended = everstep("replay", "a")
    assert ended.code == 0, ended.out
    ended = everstep("resume", "a", "--set", "optim.optimizer=adamw")
    assert ended.code == 2, ended.out
    assert "optim.optimizer cannot change within a run" in ended.out


def test_every_version_has_the_layout_of_the_first_and_the_bytes_that_were_told(straight: Run, tiny_base: Path) -> None:
    versions = straight.versions()
    assert len(versions) == 4
    layouts = [header(version.path / OPTIMIZER) for version in versions]
    assert all(list(layout.items()) == list(layouts[0].items()) for layout in layouts)
    config = resolve(straight.layout.hparams, {}, ())
    base = survey(locate(str(tiny_base)))
    told = new_footprint(config, base)
    assert told is not None
    for version in versions:
        really = {path: entry["size"] for path, entry in version.files.items()}
        assert {path: told.files.get(path) for path in TENSOR_FILES} == {
            path: really.get(path) for path in TENSOR_FILES
        }
        assert really[STATE] <= told.files[STATE]
    memory = step_memory(config, base, None)
    assert memory is not None
    assert memory.moments_bytes == sum(prod(shape) * ITEM_BYTES[dtype] for dtype, shape in layouts[0].values())
    assert ("U8" in {dtype for dtype, _ in layouts[0].values()}) == (straight.name == "adamw8bit")


@pytest.mark.parametrize("kind", OTHERS)
def test_it_lowers_the_loss(kind: str) -> None:
    import torch

    from everstep.config.schema import Optim
    from everstep.train.optim import make_optimizer

    torch.manual_seed(0)
    network, inputs_NC = torch.nn.Linear(128, 64), torch.randn(256, 128)
    targets_NC = torch.nn.Linear(128, 64)(inputs_NC).detach()
    rate = {"prodigy": 1.0}.get(kind, 1e-2)
    optimizer = make_optimizer(network, Optim(optimizer=kind, learning_rate=rate))  # type: ignore[arg-type]
    losses = []
    for _ in range(200):
        loss = torch.nn.functional.mse_loss(network(inputs_NC), targets_NC)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(("optimizer", "library"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_without_its_library_nothing_is_started(
    optimizer: str, library: str, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    blocked = (
        "import sys, importlib.util as u; find = u.find_spec;"
        f"u.find_spec = lambda name, *more: None if name == {library!r} else find(name, *more);"
        "from everstep.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    words = ["train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *settings(optimizer)]
    ended = subprocess.run([sys.executable, "-c", blocked, *map(str, words)], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    told = " ".join((ended.stdout + ended.stderr).split())
    assert f"{library} is not installed. Nothing was started. pip install 'everstep[optimizers]'" in told
    assert not (workplace / "runs").exists()


def test_prodigy_with_a_rate_for_adamw_is_refused(
    tiny_base: Path, pairs_folder: Path, everstep: Everstep, workplace: Path
) -> None:
    ended = everstep(
        *("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--optim.optimizer", "prodigy")
    )
    assert ended.code == 2, ended.out
    assert "optim.learning_rate is 1e-05, but optim.optimizer is prodigy" in ended.out
    assert not (workplace / "runs").exists()


def test_what_is_installed_and_not_used_says_nothing(tiny_base: Path) -> None:
    code = (
        "import sys, everstep.train.session\n"
        "from everstep.config.load import resolve\n"
        "from everstep.models.arithmetic import arithmetic\n"
        "from everstep.models.base import locate\n"
        "from everstep.models.registry import open_family\n"
        "from everstep.train.optim import make_optimizer\n"
        "config = resolve(None, {}, ('compute.device=cpu',))\n"
        "family = open_family(locate(sys.argv[1]), arithmetic(config.compute), config.compute)\n"
        "make_optimizer(family.new_controlnet(0), config.optim)\n"
        "print('prodigyopt' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, tiny_base], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("False\n", "")
