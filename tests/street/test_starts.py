"""Habits and slips of whoever starts a training: each works, or one sentence says why and nothing is left behind."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.config import read_hparams
from everstep.versions import Run
from program import Program
from street import Everstep, Row, Street, Words, read_golden, walk

Right = Callable[[Street], Words]


def file(name: str, content: str | bytes) -> Callable[[Street], Words]:
    """A file of settings, and the line that takes it."""

    def build(street: Street) -> Words:
        (street.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return ("train", name, *street.train()[1:])

    return build


def line(*more: object) -> Callable[[Street], Words]:
    return lambda street: street.train(*more)


def named(name: str) -> Callable[[Street], Words]:
    """The line for a run of this name."""
    return lambda street: ("train", "--run", name, *street.train()[3:])


def users_folder(street: Street) -> Words:
    (street.folder / "runs/a").mkdir(parents=True)
    (street.folder / "runs/a/thesis.txt").write_text("years of work")
    return street.train()


def users_file(street: Street) -> Words:
    (street.folder / "runs").mkdir()
    (street.folder / "runs/a").write_text("years of work")
    return street.train()


def looped(street: Street) -> Words:
    (street.folder / "loop").symlink_to("loop")
    return street.train(data="loop")


def other_name(street: Street) -> Words:
    return ("train", "--run", "b", *street.train()[3:])


LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}, *{before}, *{before}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

ROWS = [
    Row("base_is_not_there", lambda street: street.train(base=street.folder / "bse")),
    Row("data_is_not_there", lambda street: street.train(data=street.folder / "pars")),
    # numbers
    Row("rate_is_infinite", line("--set", "optim.learning_rate=.inf")),
    Row("rate_is_inf_as_a_flag", line("--optim.learning-rate", "inf")),
    Row("rate_is_nan", line("--set", "optim.learning_rate=.nan")),
    Row("rate_is_zero", line("--optim.learning-rate", "0")),
    Row("rate_is_negative", line("--optim.learning-rate=-1e-5")),
    Row("decay_is_nan", line("--optim.weight-decay", "nan")),
    Row("steps_with_an_exponent_as_a_flag", line("--optim.warmup-steps", "1e1")),
    Row("steps_beyond_all_reason", line("--set", "optim.max_steps=1e30")),
    Row("half_a_step", line("--set", "optim.max_steps=1.5")),
    Row("keep_every_endless", line("--keep.every", "9" * 400)),
    # files of settings
    Row("file_is_not_there", lambda street: ("train", "setings.yaml", *street.train()[1:])),
    Row("file_is_a_folder", lambda street: ("train", str(street.right_pairs), *street.train()[1:])),
    Row("file_name_too_long", lambda street: ("train", "x" * 300, *street.train()[1:])),
    Row("file_with_tabs", file("mine.yaml", "optim:\n\tseed: 3\n")),
    Row("file_with_a_key_twice", file("mine.yaml", "optim:\n  seed: 3\n  beta1: 0.5\n  seed: 4\n")),
    Row("file_with_several_documents", file("mine.yaml", "optim: {seed: 3}\n---\noptim: {seed: 4}\n")),
    Row("file_is_binary", file("mine.yaml", bytes(range(256)))),
    Row("file_in_utf16", file("mine.yaml", "optim: {seed: 3}\n".encode("utf-16"))),
    Row("file_is_a_list", file("mine.yaml", "- optim\n- seed\n")),
    Row("file_with_a_list_for_a_section", file("mine.yaml", "optim: [seed, 3]\n")),
    Row("file_with_a_number_as_key", file("mine.yaml", "optim: {3: 4}\n")),
    Row("file_with_an_object", file("mine.yaml", "optim: !!python/object:os.system {}\n")),
    Row("file_that_grows", file("mine.yaml", LAUGHS)),
    Row("file_nested_deeply", file("mine.yaml", "[" * 100_000)),
    Row("file_that_holds_itself", file("mine.yaml", "optim: &a {seed: *a}\n")),
    Row("file_with_an_unknown_key", file("mine.yaml", "optim: {learning_rat: 1e-5}\n")),
    Row("file_with_a_mark_at_its_beginning", file("mine.yaml", b"\xef\xbb\xbfoptim: {seed: 3}\n"), 0, "^Complete"),
    Row("file_with_an_empty_section", file("mine.yaml", "optim:\n# nothing yet\ndata:\n"), 0, "^Complete"),
    Row(
        "file_as_people_write_it",
        file("mine.yaml", "optim: {learning_rate: 1e-5, warmup_steps: 1e1, seed: 010}\nkeeper: {snapshots: off}\n"),
        0,
        "^Complete",
    ),
    # --set
    Row("set_without_a_value", line("--set", "optim.seed")),
    Row("set_at_the_end", line("--set")),
    Row("set_that_is_no_yaml", line("--set", "optim.seed=[3")),
    Row("set_of_a_section", line("--set", "optim=3")),
    Row("set_of_nothing", line("--set", "=3")),
    Row("set_of_an_unknown_key", line("--set", "optim.learning_rat=1e-5")),
    Row("flag_twice", line("--optim.seed", 3, "--optim.seed", 4)),
    Row("verb_with_a_slip", lambda street: ("trian", *street.train()[1:])),
    # names
    Row("name_is_empty", named("")),
    Row("name_with_an_at", named("a@3")),
    Row("name_is_a_dot", named(".")),
    Row("name_is_the_folder_above", named("..")),
    Row("name_of_256_bytes", named("n" * 256)),
    Row("name_with_odd_letters", named("läuft – 走る 🏃"), 0, "^Complete"),
    Row("name_with_a_slash_at_its_end", named("runs/a/"), 0, "^Complete"),
    Row("name_of_a_users_folder", users_folder, right=other_name),
    Row("name_of_a_users_file", users_file, right=other_name),
    Row("name_in_nobodys_home", named("~nobody-of-this-name/a")),
    # places that can be none
    Row("base_name_too_long", line("--set", f"base.path={'x' * 300}")),
    Row("data_in_nobodys_home", line("--set", "data.path=~nobody-of-this-name/pairs")),
    Row("data_in_a_loop_of_links", looped),
    # starts
    Row("from_a_run_that_is_not_there", line("--from", "b@3")),
    Row("from_itself", line("--from", "a@0")),
    Row("from_no_controlnet", lambda street: street.train("--from", street.right_pairs)),
    Row("device_that_is_not_there", line("--compute.device", "cuda:7")),
    Row("device_that_is_none", line("--compute.device", "gpu")),
]
VARIABLES = [
    Row("variable_with_a_slip", line()),
    Row("variable_with_a_wrong_value", line()),
    Row("variable_in_small_letters", line()),
]
SURROUNDINGS = {
    "variable_with_a_slip": ("EVERSTEP_OPTIM_LEARNING_RAT", "1e-5"),
    "variable_with_a_wrong_value": ("EVERSTEP_OPTIM_SEED", "seven"),
    "variable_in_small_letters": ("everstep_optim_seed", "7"),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_brought_works_or_one_sentence_says_why(row: Row, street: Street, everstep: Everstep) -> None:
    walk(row, "starts", street, everstep)


@pytest.mark.parametrize("row", VARIABLES, ids=lambda row: row.name)
def test_a_variable_that_is_wrong_is_named(
    row: Row, street: Street, everstep: Everstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = SURROUNDINGS[row.name]
    monkeypatch.setenv(name, value)

    def typed(*words: object) -> object:
        ended = everstep(*words)
        monkeypatch.delenv(name, raising=False)  # the right line is typed without it
        return ended

    walk(row, "starts", street, typed)  # type: ignore[arg-type]


def test_every_message_has_its_row() -> None:
    assert set(read_golden("starts")) == {row.name for row in (*ROWS, *VARIABLES)}


# --- moved, linked, mounted elsewhere ----------------------------------------------------------------------


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
    for words in (("sample", "a@1", *condition), ("compare", "a@0", "a@1")):  # whose manifests name the old place
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
