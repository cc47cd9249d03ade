"""Habits and slips of whoever starts a training: each works, or one sentence says why and nothing is left behind."""

from collections.abc import Callable

import pytest

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
    # the others are in test_conditions.py
    Row("condition_that_draws_nothing", line("--data.condition", "grey", "--data.condition-random")),
    Row("condition_is_never_resized", line("--data.condition", "canny", "--data.condition-resize", "nearest")),
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
