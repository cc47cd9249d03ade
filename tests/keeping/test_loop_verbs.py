"""What other shells ask of a loop that is kept, and what `everstep keep` says of commands."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loops import ALL_MADE, EVERSTEP, Running, everstep, latest, run_through, script, wait_until_gone
from PIL import Image

from everstep.versions import Run

Start = Callable[..., Running]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a loop that ran to its end."""
    folder = tmp_path_factory.mktemp("ended")
    run_through(script(folder, first=ALL_MADE))
    return folder


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A loop that would go on for minutes."""
    loop = Running(script(tmp_path), "beside", steps=10_000, pause_s=0.02)
    loop.wait_for_step(3)
    yield loop
    loop.end()


def test_looking_at_it_takes_no_settings_of_ours(ended: Path) -> None:
    told = everstep(ended, "status", "own")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[0].split() == ["state", "complete"]
    assert "60 of 60, 120 images seen" in told.stdout
    rows = json.loads(everstep(ended, "list", "own", "--json").stdout)
    assert [(row["step"], row["reason"]) for row in rows] == [
        (0, "start"),
        (20, "interval"),
        (40, "interval"),
        (60, "final"),
    ]
    shown = everstep(ended, "show", "own@latest")
    assert "weights.safetensors" in shown.stdout
    assert "reason final" in shown.stdout
    assert everstep(ended, "verify", "own").returncode == 0
    fates = json.loads(everstep(ended, "prune", "own", "--dry-run", "--json").stdout)
    assert [(row["version"], row["fate"]) for row in fates] == [(0, "slim"), (1, "keep"), (2, "keep"), (3, "keep")]
    resumed = everstep(ended, "resume", "own")
    assert resumed.returncode == 2
    assert resumed.stderr == "own is a loop of its own: start the program that made it again, and it goes on.\n"
    assert (ended / "runs/own/hparams.yaml").read_text() == "lr: 0.01\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score own@3", "does not say how it was trained"),
        ("score own --all", "does not say how it was trained"),
        ("sample own@3 --condition edges.png --prompt red", "does not say how it was trained"),
        ("reproduce own@3", "has no contact sheet"),
        ("compare own@1 own@3", "does not say how it was trained"),
        ("replay own@3", "not made by everstep train"),
        ("export own@3 --for comfyui", "holds no ControlNet"),
    ],
)
def test_what_has_no_meaning_for_it_is_said_in_a_sentence(ended: Path, words: str, said: str) -> None:
    Image.new("RGB", (8, 8)).save(ended / "edges.png")
    before = sorted(ended.rglob("*"))
    asked = everstep(ended, *words.split())
    assert asked.returncode == 2, asked.stderr
    assert said in asked.stderr
    assert "bug" not in asked.stderr
    assert sorted(ended.rglob("*")) == before


def test_the_folder_says_what_was_trained(ended: Path) -> None:
    text = (ended / "runs/own/README.txt").read_text()
    assert "This folder is one training of a PyTorch loop, kept by Everstep." in text
    assert "controlnet" not in text.lower()
    assert "start the program that made it again" in text


def test_a_running_loop_saves_and_stops_when_asked(running: Running) -> None:
    told = everstep(running.folder, "status", "own")
    assert told.stdout.splitlines()[0].split()[:3] == ["state", "running,", "process"]
    assert "of 10,000" in told.stdout
    saved = everstep(running.folder, "save", "own", "--label", "good")
    assert saved.returncode == 0, saved.stderr
    assert Run(running.run.path).find("good").reason == "asked"
    stopped = everstep(running.folder, "stop", "own")
    assert stopped.returncode == 0, stopped.stderr
    assert "own has ended" in stopped.stdout
    assert running.wait() == 0
    assert f"ended asked {latest(running.folder).step}" in running.out
    told = everstep(running.folder, "status", "own")
    assert told.stdout.splitlines()[0].split() == ["state", "stopped"]


def test_a_version_that_is_asked_for_within_a_step_is_of_that_step(tmp_path: Path) -> None:
    run_through(script(tmp_path, within="step == 7 and kept.save('seven')"))
    assert Run(tmp_path / "runs/own").find("seven").step == 8


def test_a_loop_may_end_itself_and_go_on_in_phases(tmp_path: Path) -> None:
    phases = """
with everstep_keep as kept:
    for until in (10, 20, 60):
        for step in kept.steps(until):
            train(kept, step)
            if step == 30:
                kept.stop()
    print("ended", kept.ended, kept.step)
"""
    assert "ended early 31" in run_through(script(tmp_path, phases))
    found = [(version.step, version.reason) for version in Run(tmp_path / "runs/own").versions()]
    assert found == [(0, "start"), (10, "final"), (20, "final"), (31, "early")]


def test_two_loops_of_one_process_are_kept_one_after_the_other_in_both_ways(tmp_path: Path) -> None:
    two = """
for name in ("own", "other"):
    with everstep.keep(name, network, optimizer, every=5) as kept:
        for step in kept.steps(10):
            optimizer.step()
    print("ended", name, kept.ended)
"""
    for way in ("beside", "under"):
        out = run_through(script(tmp_path, two), way)
        assert "ended own final" in out
        assert "ended other final" in out
    assert Run(tmp_path / "runs/other").find("latest").step == 10


def test_a_state_that_grows_is_given_other_memory_and_loses_nothing(tmp_path: Path) -> None:
    grows = """
def build(sizes):
    network.extend([torch.nn.Linear(1, 1) for _ in range(sizes - len(network))])
    optimizer.param_groups[0]["params"][:] = network.parameters()

if os.path.exists("once"):
    build(5)
with everstep.keep("own", network, optimizer, every=1000, keeping=Settings(snapshots=1)) as kept:
    for step in kept.steps(40):
        kept._saver.snapshots.wait()  # a step during which the copy before is still being sealed gets none
        if step == 20:
            with kept.changing():
                build(5)
        network[0].weight.data = network[0].weight.data.clone()
        loss = network(torch.ones(4, 4) * step).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 30 and not os.path.exists("once"):
            open("once", "w")
            time.sleep(0.3)  # to be looked at
            os.kill(os.getpid(), signal.SIGKILL)
print("ended", kept.step)
"""
    path = script(tmp_path, grows)
    loop = Running(path, "beside")
    loop.wait_for(lambda: (tmp_path / "once").exists())
    keeper = loop.keeper
    loop.wait()
    wait_until_gone(keeper)
    assert latest(tmp_path).step == 30
    # What lay in the memory of the old shape became a version before there was new.
    assert [version.step for version in Run(tmp_path / "runs/own").versions()] == [0, 20, 30]
    assert "ended 40" in run_through(path)


def test_small_state_that_grows_is_given_more_room(tmp_path: Path) -> None:
    grows = """
class Seen:
    def __init__(self): self.names = []
    def state_dict(self): return {"names": self.names}
    def load_state_dict(self, state): self.names = state["names"]

seen = Seen()
with everstep.keep("own", network, others={"seen": seen}, every=1000, keeping=Settings(snapshots=1)) as kept:
    for step in kept.steps(40):
        seen.names.append("x" * 10_000)
print("ended", kept.ended)
"""
    out = run_through(script(tmp_path, grows))
    assert "could not be sealed" not in out
    assert "ended final" in out
    state = json.loads((latest(tmp_path).path / "training/state.json").read_bytes())
    assert len(state["parts"]["seen"]["names"]) == 40


@pytest.mark.fault("a tensor of a loop of somebody's own with a flipped bit")
def test_a_damaged_version_is_set_aside_and_the_one_before_is_gone_on_with(tmp_path: Path) -> None:
    path = script(tmp_path)
    run_through(path)
    *_, before, last = Run.open(tmp_path / "runs/own").versions()  # a machine that is busy may leave one out
    file = last.path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    refused = subprocess.run([sys.executable, str(path), "60", "0"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "fails its digest in tensor" in refused.stderr
    assert f"Resumed from {before.name} (step {before.step})" in run_through(path)
    assert [entry.name[:9] for entry in (tmp_path / "runs/own/quarantine").iterdir()] == [last.name]


# --- everstep keep ---------------------------------------------------------------------------------------------


def keep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EVERSTEP, "keep", *words], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("code", [0, 1, 5, 77])
def test_a_command_that_never_asks_to_be_kept_ends_as_it_ends(tmp_path: Path, code: int) -> None:
    ended = keep(tmp_path, "--", sys.executable, "-c", f"raise SystemExit({code})")
    assert ended.returncode == code
    assert "ended without asking to be kept: it has to call everstep.keep()." in ended.stdout
    assert ended.stderr == ""


def test_a_command_that_is_no_program_is_one_sentence(tmp_path: Path) -> None:
    ended = keep(tmp_path, "--", "./no-such-program", "--flag")
    assert ended.returncode == 2
    assert ended.stderr == "./no-such-program cannot be started: No such file or directory. Nothing was started.\n"
    nothing = keep(tmp_path)
    assert nothing.returncode == 2
    assert nothing.stderr == "There is no command to keep: everstep keep -- python loop.py\n"


def test_a_program_that_fails_after_its_loop_ends_as_it_ends(tmp_path: Path) -> None:
    loop = Running(script(tmp_path, "with everstep_keep as kept:\n    list(kept.steps(3))\nsys.exit(9)\n"), "under")
    assert loop.wait() == 9


def test_other_parts_than_before_are_one_sentence(tmp_path: Path, ended: Path) -> None:
    other = "everstep_keep = everstep.keep('own', network)\nwith everstep_keep: pass\n"
    path = script(tmp_path, other)
    refused = subprocess.run([sys.executable, str(path), "60", "0"], cwd=ended, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith(
        "version_3 was made by a loop with other optimizers and others: optimizer, schedule there, none here."
    )
    assert Run(ended / "runs/own").holder() is None
    assert not (ended / "runs/own/quarantine").exists()


def test_a_command_may_start_another_everstep(tmp_path: Path) -> None:
    ended = keep(tmp_path, "--", *EVERSTEP, "plan", "circles", "--quick", "--set", "optim.max_steps=10")
    assert ended.returncode == 0, ended.stderr
