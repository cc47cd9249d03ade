"""What is done after an end, as a table of ends and deaths."""

import signal

import pytest

from everstep.errors import ExitCode
from everstep.keeping.restart import NEAR_STEPS, End, Next, Whole, next_after

WHOLES = [Whole(0, 0), Whole(1, 10), Whole(2, 40)]
KILLED = -signal.SIGKILL


@pytest.mark.parametrize("code", [0, 2, 3, 5])
def test_an_end_that_was_meant_is_the_programs_end_however_many_starts_are_left(code: int) -> None:
    assert next_after(End(code, 50), True, False, 9, [50], WHOLES) == Next(code)


@pytest.mark.parametrize(("code", "program"), [(KILLED, 3), (-signal.SIGSEGV, 3), (None, 3), (70, 70), (4, 4), (1, 1)])
def test_a_death_without_a_start_left_is_told_by_its_code(code: int | None, program: int) -> None:
    assert next_after(End(code, 50), True, False, 0, [50], WHOLES) == Next(program)


@pytest.mark.parametrize("code", [0, 3, 5, 70, KILLED, None])
@pytest.mark.parametrize("left", [0, 5])
def test_what_could_not_be_committed_is_told_by_4_whatever_the_end_was(code: int | None, left: int) -> None:
    assert next_after(End(code, 50), False, False, left, [50], WHOLES) == Next(int(ExitCode.DISK_FULL))


def test_whoever_asked_to_stop_gets_no_other_start() -> None:
    assert next_after(End(KILLED, 50), True, True, 5, [50], WHOLES) == Next(3)


@pytest.mark.parametrize("code", [KILLED, -signal.SIGSEGV, None, 4, 70, 99, 1])
def test_a_death_with_a_start_left_goes_on_from_the_newest(code: int | None) -> None:
    assert next_after(End(code, 100), True, False, 1, [100], WHOLES) == Next(None, 2)


@pytest.mark.parametrize(
    ("deaths", "version", "gave_up_on"),
    [
        ([], 2, None),
        ([41], 2, None),  # one death speaks against nothing
        ([41, 45], 1, 2),
        ([40, 40 + NEAR_STEPS], 1, 2),  # at it, and as far as near goes
        ([41, 41 + NEAR_STEPS], 2, None),
        ([39, 41], 2, None),  # one of them was before it
        ([12, 15, 41], 2, None),  # against version_1, which is not the newest
        ([12, 15, 41, 45], 0, 2),
        ([0, 1, 12, 15, 41, 45], 0, 2),  # there is none before the first
        ([1000, 1000], 2, None),
    ],
)
def test_two_deaths_soon_after_a_version_speak_against_it(
    deaths: list[int], version: int, gave_up_on: int | None
) -> None:
    step = deaths[-1] if deaths else 0
    assert next_after(End(KILLED, step), True, False, 3, deaths, WHOLES) == Next(None, version, gave_up_on)


def test_without_any_version_it_begins_anew() -> None:
    assert next_after(End(KILLED, 0), True, False, 1, [0, 0], []) == Next(None, None)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "has ended"),
        (70, "ended with exit code 70"),
        (KILLED, "was ended by SIGKILL"),
        (-40, "was ended by signal 40"),  # a real-time signal: most have no name
    ],
)
def test_an_end_is_told_in_words_whatever_ended_it(code: int | None, words: str) -> None:
    assert End(code, 50).words == words
