"""A run that goes on elsewhere or otherwise: what it is made of was moved, and its settings were edited by hand."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.config.load import read_hparams
from everstep.versions import Run
from program import Program
from street import Everstep, Street, Words


@pytest.fixture
def trained(street: Street, everstep: Everstep) -> Run:
    """A run of two steps on a base and pairs of its own, which may then be moved."""
    street.base(), street.pairs()
    ended = everstep(*street.train(base="base", data="pairs"))
    assert ended.code == 0, ended.out
    return Run.open(street.folder / "runs/a")


def moved(street: Street, how: str) -> None:
    (street.folder / "disk").mkdir()
    for name in ("base", "pairs"):
        shutil.move(street.folder / name, street.folder / "disk" / name)
        if how == "link":
            (street.folder / name).symlink_to(street.folder / "disk" / name)


@pytest.mark.parametrize("how", ["move", "link"])
def test_the_same_line_with_the_new_places_goes_on(street: Street, everstep: Everstep, trained: Run, how: str) -> None:
    moved(street, how)
    place = street.folder / "disk" if how == "move" else street.folder
    again = everstep(*street.train(base=place / "base", data=place / "pairs"))
    assert again.code == 0, again.out
    assert f"a: the same base is in another place now: {street.folder}/base -> {street.folder}/disk/base" in again.out
    assert "already complete" in again.out
    assert read_hparams(trained.layout.hparams).base.path == str(street.folder / "disk/base")
    ended = everstep("resume", "a", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out
    parent = trained.find("latest").parent
    assert parent is not None
    assert parent.changes.keys() == {"optim.max_steps", "base.path", "data.path"}


def test_a_resume_says_which_setting_to_give_where_the_base_was_moved(
    street: Street, everstep: Everstep, trained: Run
) -> None:
    moved(street, "move")
    refused = everstep("resume", "a", "--set", "optim.max_steps=3")
    assert refused.code == 2
    assert refused.out.strip() == (
        f"The base of a is not in {street.folder}/base any more. Nothing was changed.\n"
        f"If it was moved: everstep resume {trained.path} --set base.path=NEW"
    )
    condition = ("--condition", street.right_pairs / "3_outline.png", "--prompt", "p", "--out", "drawn.png")
    for words in (("sample", "a@1", *condition), ("compare", "a@0", "a@1")):
        refused = everstep(*words)
        assert refused.code == 2
        assert f"everstep resume {trained.path} --set base.path=NEW" in refused.out
    places = ("--set", "base.path=disk/base", "--set", "data.path=disk/pairs")
    ended = everstep("resume", "a", *places, "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out
    for words in (("sample", "a@1", *condition), ("compare", "a@0", "a@1"), ("replay", "a@1"), ("replay", "a@2")):
        ended = everstep(*words)
        assert ended.code == 0, ended.out


def test_a_base_of_another_content_is_refused_in_every_way(
    street: Street, everstep: Everstep, trained: Run, workplace: Path
) -> None:
    other = street.base("other")
    config = other / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("}", ' , "x": 1}'))
    before = trained.layout.hparams.read_bytes()
    refused = everstep(*street.train(base="other", data="pairs"))
    assert refused.code == 2
    assert "base.path cannot change within a run" in refused.out
    assert everstep("resume", "a", "--set", "base.path=other", "--set", "optim.max_steps=3").code == 2
    assert trained.layout.hparams.read_bytes() == before


def test_a_run_that_was_moved_goes_on_and_what_it_started_from_may_be_gone(
    street: Street, everstep: Everstep, trained: Run
) -> None:
    words = ("train", "--run", "b", "--from", "a@latest", *street.train(base="base", data="pairs")[3:])
    assert everstep(*words).code == 0
    (street.folder / "elsewhere").mkdir()
    shutil.move(trained.path, street.folder / "elsewhere/first")
    there = [*words]
    there[there.index("a@latest")] = "elsewhere/first@0"
    again = everstep(*there)
    assert again.code == 2, "another version of it is another start"
    there[there.index("elsewhere/first@0")] = "elsewhere/first@latest"
    again = everstep(*there)
    assert again.code == 0, again.out
    assert "the version that it started from is in another place now" in again.out
    shutil.rmtree(street.folder / "elsewhere/first")
    shutil.move(street.folder / "runs/b", street.folder / "c")
    ended = everstep("resume", "./c", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out


def test_a_run_goes_on_and_is_replayed_where_the_controlnet_folder_that_it_began_with_is_gone(
    street: Street, everstep: Everstep, trained: Run
) -> None:
    shutil.copytree(trained.version(1).path / "controlnet", street.folder / "mine")
    words = ("train", "--run", "b", "--from", "mine", *street.train(base="base", data="pairs")[3:])
    assert everstep(*words).code == 0
    shutil.rmtree(street.folder / "mine")
    ended = everstep("resume", "b", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out


# --- hparams.yaml ------------------------------------------------------------------------------------------


def test_settings_edited_by_hand_are_shown_and_recorded(street: Street, everstep: Everstep, trained: Run) -> None:
    edit(trained, "learning_rate: 1.0e-05", "learning_rate: 5e-6")
    ended = everstep("resume", "a", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out
    assert "hparams.yaml differs from what version_1 was made with, and is followed" in ended.out
    parent = trained.find("latest").parent
    assert parent is not None
    assert parent.changes == {"optim.learning_rate": [1e-5, 5e-6], "optim.max_steps": [2, 3]}


def test_what_cannot_change_cannot_be_edited_by_hand_either(street: Street, everstep: Everstep, trained: Run) -> None:
    edit(trained, "  seed: 0\n  max_steps", "  seed: 3\n  max_steps")
    for words in (("resume", "a"), ("train", trained.layout.hparams, "--run", "a")):
        refused = everstep(*words)
        assert refused.code == 2
        assert "optim.seed cannot change within a run" in refused.out
        assert "but version_1 was made with 0" in refused.out
    way = refused.out.splitlines()[-1].partition("everstep ")[2].split()
    ended = everstep(*way, "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out


@pytest.mark.parametrize("content", [b"", b"optim: [", b"\xff\xfe", b"optim: {seeds: 3}", b"optim: {seed: -1}", b"3"])
def test_a_spoilt_hparams_is_named_in_a_sentence(
    street: Street, everstep: Everstep, trained: Run, content: bytes
) -> None:
    trained.layout.hparams.write_bytes(content)
    refused = everstep("resume", "a")
    assert refused.code == 2, refused.out
    assert "Traceback" not in refused.out


def edit(run: Run, before: str, after: str) -> None:
    text = run.layout.hparams.read_text()
    assert before in text
    run.layout.hparams.write_text(text.replace(before, after))


# --- starts that come to nothing ---------------------------------------------------------------------------

LONG = ("--set", "keeper.snapshots=auto")


def kill_the_trainer_early() -> None:
    """Before it has made anything."""
    import everstep.train.session as session

    session.state_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,return-value]


def kill_the_trainer_late() -> None:
    """When its records are open, just before its first version."""
    import everstep.train.session as session

    session.Judge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,misc,return-value]


def kill_the_keeper() -> None:
    import everstep.keeping.keeper as keeper

    keeper.Keeper.keep = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign,return-value]


def wait_long() -> None:
    import time

    import everstep.train.session as session

    session.state_of = lambda *_: time.sleep(600)  # type: ignore[assignment,return-value]


@pytest.mark.parametrize("kill", [kill_the_trainer_early, kill_the_trainer_late])
def test_a_trainer_that_is_killed_before_its_first_version_leaves_nothing(
    street: Street, everstep: Everstep, start: Callable[..., Program], kill: Callable[[], None]
) -> None:
    program = start(*street.train(*LONG), prepare=kill)
    assert program.wait() == 3, program.output
    assert list(street.folder.iterdir()) == []
    assert "No version of a was made, so nothing of it is left" in program.output
    assert "everstep resume" not in program.output
    assert everstep(*street.train("--optim.seed", 5)).code == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_before_the_first_version_leaves_nothing(
    street: Street, everstep: Everstep, start: Callable[..., Program], times: int
) -> None:
    program = start(*street.train(), prepare=wait_long)
    program.wait_for(lambda: "2 steps of 2 images" in program.output)
    for _ in range(times):
        program.signal(signal.SIGINT)
        program.wait_for(lambda: "SIGINT" in program.output) if times == 2 else None
    if times == 1:
        program.signal(signal.SIGTERM)
    assert program.wait() == 3, program.output
    assert list(street.folder.iterdir()) == []


def test_a_run_that_a_killed_keeper_left_is_begun_anew_with_other_settings(
    street: Street, everstep: Everstep, start: Callable[..., Program]
) -> None:
    program = start(*street.train("--optim.seed", 4), prepare=kill_the_keeper)
    assert program.wait() == -signal.SIGKILL
    assert (street.folder / "runs/a").is_dir()
    ended = again(everstep, street.train("--optim.seed", 5))
    assert ended.code == 0, ended.out
    run = Run.open(street.folder / "runs/a")
    assert read_hparams(run.layout.hparams).optim.seed == 5
    assert run.find("0").manifest["config"]["optim"]["seed"] == 5


def again(everstep: Everstep, words: Words):  # type: ignore[no-untyped-def]
    """Typed again until nobody holds the run: the trainer that lost its keeper ends by itself."""
    import time

    for _ in range(50):
        ended = everstep(*words)
        if "in use" not in ended.out and "is being" not in ended.out and "held" not in ended.out:
            break
        time.sleep(0.2)
    return ended


def test_a_users_file_in_a_run_that_came_to_nothing_is_never_touched(
    street: Street, everstep: Everstep, start: Callable[..., Program]
) -> None:
    program = start(*street.train(), prepare=wait_long)
    program.wait_for(lambda: "2 steps of 2 images" in program.output)
    (street.folder / "runs/a/notes.txt").write_text("mine")
    program.signal(signal.SIGINT)
    program.wait_for(lambda: "SIGINT" in program.output)
    program.signal(signal.SIGINT)
    assert program.wait() == 3, program.output
    assert (street.folder / "runs/a/notes.txt").read_text() == "mine"
    assert everstep(*street.train("--optim.seed", 5)).code == 0


def test_a_resume_that_is_refused_by_the_trainer_puts_the_settings_back(
    street: Street, everstep: Everstep, trained: Run
) -> None:
    before = trained.layout.hparams.read_bytes()
    refused = everstep("resume", "a", "--set", "compute.device=cuda:7", "--set", "optim.max_steps=3")
    assert refused.code == 2, refused.out
    assert trained.layout.hparams.read_bytes() == before


@pytest.mark.parametrize("name", ["mine@home", "at@all/mine", "mine@2"])
def test_a_start_whose_folder_has_an_at_sign_is_taken_whole(
    street: Street, everstep: Everstep, trained: Run, name: str
) -> None:
    shutil.copytree(trained.version(1).path / "controlnet", street.folder / name)
    words = ("train", "--run", "b", "--from", f"./{name}", *street.train(base="base", data="pairs")[3:])
    for _ in range(2):
        ended = everstep(*words)
        assert ended.code == 0, ended.out
    shutil.rmtree(street.folder / name)
    ended = everstep("resume", "b", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out


def test_a_run_goes_on_where_the_version_that_it_began_with_was_let_go(
    street: Street, everstep: Everstep, trained: Run
) -> None:
    words = ("train", "--run", "b", "--from", "a@1", *street.train(base="base", data="pairs")[3:])
    assert everstep(*words).code == 0
    shutil.rmtree(trained.version(1).path)
    ended = everstep("resume", "b", "--set", "optim.max_steps=3")
    assert ended.code == 0, ended.out
    assert Run.open(street.folder / "runs/b").find("latest").manifest["started_from"]["version"] == 1


def test_a_start_that_is_edited_by_hand_is_refused(street: Street, everstep: Everstep, trained: Run) -> None:
    other = shutil.copytree(trained.version(1).path / "controlnet", street.folder / "other")
    edit(trained, "start_from: null", f"start_from: {other}")
    refused = everstep("resume", "a", "--set", "optim.max_steps=3")
    assert refused.code == 2, refused.out
    assert "optim.start_from cannot change within a run" in refused.out
