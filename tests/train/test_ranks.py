"""Several ranks train what one would; whichever of them ends, at whatever moment, the training goes on bit for bit."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from everstep.keeping import stacks
from everstep.records.scores import read_scores
from everstep.records.steps import read_metrics
from everstep.versions import Run
from everstep.versions.layout import RunLayout
from everstep.versions.live import read_live
from law import STEPS, outcome
from program import Program
from ranks import KillRank, processes_of

EXAMPLES = ("--optim.batch-size", 4, "--optim.accumulation-steps", 2, "--optim.seed", 7, "--optim.ema-decay", 0.9)
STEPPING = (*EXAMPLES, "--optim.max-steps", STEPS, "--optim.learning-rate", 1e-3, "--versions.every", 10)
FEW_STEPS = 16  # for what is slow on processors
FEW = ("--set", f"optim.max_steps={FEW_STEPS}")
UNSEEN = ("--sampling.pairs", 0, "--scoring.overhead", 0)
SLOW = pytest.mark.slow  # the same with other numbers
Start = Callable[..., Program]


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    return ("train", "--base", tiny_base, "--data", pairs_folder, *STEPPING, *UNSEEN)


@pytest.fixture(scope="module")
def straight(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """What a training of so many ranks that nothing ends comes to."""
    known: dict[tuple[object, ...], object] = {}

    def of(ranks: object, *more: object) -> object:
        if (ranks, *more) not in known:
            folder = tmp_path_factory.mktemp("straight") / "in"
            folder.mkdir()
            line = ("train", "--base", tiny_base, "--data", pairs_folder, *STEPPING, *UNSEEN)
            program = Program((*line, "--run", "a", "--ranks", ranks, *more), folder)
            assert program.wait() == 0, program.output
            known[ranks, *more] = outcome(folder / "runs/a", FEW_STEPS if FEW[-1] in more else STEPS)
        return known[ranks, *more]

    return of


# --- what is trained -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [(3, "ddp"), *(pytest.param(*case, marks=SLOW) for case in ((2, "fsdp"), (4, "ddp"), (2, "ddp")))],
)
def test_ranks_train_what_one_process_does(
    words: tuple[object, ...], ranks: int, parallel: str, start: Start, workplace: Path
) -> None:
    # Sums in another order, and gradients near zero: what Adam makes of the first steps differs in more than bits.
    few = ("--set", "optim.max_steps=6", "--set", "optim.learning_rate=1e-6")
    assert start(*words, *few, "--run", "one").wait() == 0
    many = start(*words, *few, "--run", "many", "--ranks", ranks, "--compute.parallel", parallel)
    assert many.wait() == 0, many.output
    alone, together = (read_metrics(workplace / "runs" / name / "records") for name in ("one", "many"))
    assert [line["first_example"] for line in together] == [line["first_example"] for line in alone]
    for kind in ("loss", "grad_norm"):
        np.testing.assert_allclose([line[kind] for line in together], [line[kind] for line in alone], rtol=2e-5)
    one, other = (Run.open(workplace / "runs" / name).find("latest") for name in ("one", "many"))
    assert one.files.keys() == other.files.keys()
    weights = "controlnet/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(one.path / weights), load_file(other.path / weights)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(theirs[name], tensor, atol=2e-6 * 6)
    assert other.manifest["machine"]["ranks"] == ranks
    assert "ranks" not in one.manifest["machine"]


def test_scores_are_the_same_numbers_whoever_measures(
    tiny_base: Path, pairs_folder: Path, start: Start, workplace: Path
) -> None:
    line = ("train", "--base", tiny_base, "--data", pairs_folder, *EXAMPLES, "--optim.max-steps", 2)
    line = (*line, "--scoring.overhead", 1, "--sampling.pairs", 3, "--sampling.steps", 2)
    for name, ranks in (("one", 1), ("two", 2)):
        program = start(*line, "--run", name, "--ranks", ranks)
        assert program.wait() == 0, program.output
    alone, together = (read_scores(Run.open(workplace / "runs" / name))[0] for name in ("one", "two"))
    assert (together.version, together.gain) == (alone.version, alone.gain)
    sheets = [workplace / "runs" / name / "records/samples/version_0.json" for name in ("one", "two")]
    one, two = (json.loads(sheet.read_text()) for sheet in sheets)
    assert one["digests"] == two["digests"]


# --- ends ----------------------------------------------------------------------------------------------------

ENDS = [
    (2, 1, "a step", 13),
    *(
        pytest.param(ranks, rank, moment, count, marks=SLOW)
        for moment, count in (("a step", 14), ("an exchange", 31), ("a copy", 3), ("a seal", 4))
        for ranks, rank in ((2, 0), (2, 1), (3, 2), (4, 3))
    ),
]


@pytest.mark.fault("rank {rank} of {ranks} in {moment}")
@pytest.mark.parametrize(("ranks", "rank", "moment", "count"), ENDS)
def test_a_rank_that_is_killed_changes_nothing(
    ranks: int,
    rank: int,
    moment: str,
    count: int,
    words: tuple[object, ...],
    straight: Callable[..., object],
    start: Start,
    workplace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aside = tmp_path_factory.mktemp("aside")
    monkeypatch.setenv("TMPDIR", str(aside))
    line = (*words, "--run", "a", "--ranks", ranks)
    program = start(*line, prepare=KillRank(rank, moment, count))
    assert program.wait() == 3, program.output
    assert f"Rank {rank} of {ranks} was ended by SIGKILL" in program.output
    assert "bug" not in program.output, program.output
    assert not list(aside.glob("everstep-ranks-*"))
    run = Run.open(workplace / "runs/a")
    done = read_live(run.layout).step
    last = run.find("latest")
    # Whoever lives puts the last whole step into memory; of the first one's death its newest snapshot is left.
    assert last.step >= (1 if rank == 0 else max(1, done - 1)), program.output
    again = start(*line)
    assert again.wait() == 0, again.output
    # How often is copied depends on the machine: it may have been the copy of the last step.
    assert ("already complete" if last.step == STEPS else "not restored: nothing") in again.output
    assert outcome(run.path) == straight(ranks)


@pytest.mark.fault("{who} of 2 ranks")
@pytest.mark.parametrize(
    "who", [*(pytest.param(who, marks=SLOW) for who in ("keeper", "launcher")), "keeper and launcher"]
)
def test_the_end_of_those_that_hold_ranks_changes_nothing(
    who: str, words: tuple[object, ...], straight: Callable[..., object], start: Start, workplace: Path
) -> None:
    line = (*words, "--run", "a", "--ranks", 2)
    program = start(*line)

    def is_under_way() -> bool:
        live = read_live(RunLayout(workplace / "runs/a"))
        return live is not None and live.step >= 3

    program.wait_for(is_under_way)
    keeper = program.process.pid
    assert keeper is not None
    launcher, *ranks = processes_of(keeper)
    for pid in {"keeper": [keeper], "launcher": [launcher]}.get(who, [keeper, launcher]):
        os.kill(pid, signal.SIGKILL)
    program.process.join(30)
    wait_for_the_end([launcher, *ranks])
    again = start(*line)
    assert again.wait() == 0, again.output
    assert "not restored: nothing" in again.output
    assert outcome(workplace / "runs/a") == straight(2)


@pytest.mark.fault("SIGUSR1 to keeper, launcher and 2 ranks, while they are asked for their stacks")
def test_what_is_sent_to_all_processes_of_a_job_changes_nothing(
    words: tuple[object, ...], straight: Callable[..., object], start: Start, workplace: Path
) -> None:
    program = start(*words, "--run", "a", "--ranks", 2)
    run, keeper = Run(workplace / "runs/a"), program.process.pid
    program.wait_for(lambda: (live := read_live(run.layout)) is not None and live.step >= 1)
    assert keeper is not None
    launcher, *ranks = processes_of(keeper)
    for _ in range(50):
        with contextlib.suppress(ProcessLookupError):  # it may be done before
            os.killpg(launcher, stacks.ASKED)
            for pid in (keeper, launcher, *ranks):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(0.01)
    assert program.wait() == 0, program.output
    assert outcome(run.path) == straight(2)
    written = (run.layout.records / stacks.NAME).read_text()
    assert all(f"Process {rank}:\n" in written for rank in ranks)


def wait_for_the_end(pids: list[int]) -> None:
    until = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < until, "ranks outlive their training"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@SLOW
def test_a_training_is_restarted_by_itself_when_a_rank_dies(
    words: tuple[object, ...], straight: Callable[..., object], start: Start, workplace: Path
) -> None:
    program = start(*words, "--run", "a", "--ranks", 2, "--restarts", 1, prepare=KillRank(1, "a step", 13))
    assert program.wait() == 3, program.output  # it is patched to die in each process that begins
    assert program.output.count("Rank 1 of 2 was ended by SIGKILL") == 2
    assert "Starting the trainer again, 1 of 1 times." in program.output


@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=SLOW), "fsdp"])
def test_a_stop_commits_the_last_step_and_another_number_of_ranks_goes_on(
    parallel: str, words: tuple[object, ...], start: Start, workplace: Path
) -> None:
    line = (*words, "--run", "a", "--ranks", 2, "--compute.parallel", parallel, *FEW)
    program = start(*line, prepare=KillRank(0, "a step", 12, signal.SIGTERM))
    assert program.wait() == 3, program.output
    assert Run.open(workplace / "runs/a").find("latest").step == 12
    again = start(*words, "--run", "a", "--ranks", 3, *FEW)
    assert again.wait() == 0, again.output
    assert "2 ranks then, 3 now" in again.output
    numbers = [line["first_example"] for line in read_metrics(workplace / "runs/a/records")]
    assert numbers == [8 * step for step in range(FEW_STEPS)]


def test_what_is_shared_out_resumes_bit_for_bit(
    words: tuple[object, ...], straight: Callable[..., object], start: Start, workplace: Path
) -> None:
    shared = ("--compute.parallel", "fsdp", *FEW)
    line = (*words, "--run", "a", "--ranks", 2, *shared)
    assert start(*line, prepare=KillRank(1, "a copy", 3)).wait() == 3
    again = start(*line)
    assert again.wait() == 0, again.output
    assert outcome(workplace / "runs/a", FEW_STEPS) == straight(2, *shared)


# --- wrong input ---------------------------------------------------------------------------------------------


def test_what_ranks_cannot_do_is_refused_and_leaves_nothing(
    words: tuple[object, ...], start: Start, workplace: Path
) -> None:
    for more, why in (
        (("--ranks", 5), "optim.batch_size is 4, fewer than the 5 ranks"),
        (("--ranks", 2, "--compute.parallel", "fsdp", "--optim.optimizer", "adafactor"), "ddp does it"),
    ):
        program = start(*words, "--run", "a", *more)
        assert program.wait() == 2, program.output
        assert program.output.count(why) == 1, program.output
        assert not (workplace / "runs").exists()
