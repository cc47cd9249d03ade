"""Commands whose standard streams are closed, full or without letters: real shells, real pipes."""

import subprocess
import sys
from pathlib import Path

import pytest
from drafts import draft

from everstep.config.load import dump, resolve
from everstep.versions import Run

EVERSTEP = f"{sys.executable} -m everstep"


@pytest.fixture
def run(workplace: Path) -> Run:
    """Three versions, for listings."""
    made = Run.create(workplace / "runs" / "a", dump(resolve(None, {})))
    for step in (0, 10, 20):
        made.commit(draft(step))
    return made


def shell(line: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """What a person types."""
    import os

    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **surroundings}, timeout=60
    )


@pytest.mark.parametrize("verb", ["list a", "--help", "train --help"])
def test_a_reader_who_has_had_enough_is_no_error(run: Run, verb: str) -> None:
    ended = shell(f"{EVERSTEP} {verb} | head -1; echo ${{PIPESTATUS[0]}}")
    assert (ended.stdout.splitlines()[-1], ended.stderr) == ("0", "")
    assert shell(f"{EVERSTEP} {verb} | true; echo ${{PIPESTATUS[0]}}").stdout == "0\n"


def test_an_answer_that_could_not_be_written_is_said_and_ends_with_4(run: Run) -> None:
    ended = shell(f"{EVERSTEP} list a > /dev/full")
    assert ended.returncode == 4
    assert ended.stderr == "What this command had to say could not be written ([Errno 28] No space left on device).\n"


@pytest.mark.parametrize("stderr", ["2> /dev/full", "2>&-", "2>&1 | true; exit ${PIPESTATUS[0]}"])
def test_an_error_that_nobody_reads_keeps_its_exit_code(run: Run, stderr: str) -> None:
    assert shell(f"{EVERSTEP} lst {stderr}").returncode == 2
    assert shell(f"{EVERSTEP} status b {stderr}").returncode == 2


def test_a_closed_stdout_does_not_lend_its_number_to_a_file(run: Run) -> None:
    ended = shell(f"{EVERSTEP} label a@1 --note 'written to records, not into them' >&- 2>&-")
    assert ended.returncode in (0, 4)
    assert run.annotation(1).note == "written to records, not into them"
    assert run.annotation(1).is_readable


def test_an_encoding_without_the_letters_costs_the_letters(run: Run) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    assert shell(f"{EVERSTEP} label a@1 --note 'crêpe · ångström' && {EVERSTEP} show a@1").returncode == 0
    ended = shell(f"{EVERSTEP} show a@1", **plain)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "cr?pe" in ended.stdout
