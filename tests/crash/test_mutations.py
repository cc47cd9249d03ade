"""Each guard is taken out of a copy of the sources once: a test that does not notice is no test of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

import everstep

ROOT = Path(__file__).parents[2]
SOURCES = Path(everstep.__file__).parent
each = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)


@each
def test_the_guard_is_where_the_list_says(mutation: Mutation) -> None:
    found = (SOURCES / mutation.file).read_text().count(mutation.guard)
    assert found == 1, (
        f"{mutation.name}: its text stands {found} times in {mutation.file}. "
        "The guard moved; update tests/crash/mutations.py."
    )


@pytest.fixture(scope="module")
def noticing(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The tests of the list that run here, all of which pass while nothing is taken out."""
    named = sorted({test for mutation in MUTATIONS for test in mutation.tests})
    failed, skipped, said = outcome_of(copied(tmp_path_factory.mktemp("whole")), named)
    assert failed == [], said
    return {test for test in named if not any(found.startswith(test) for found in skipped)}


@pytest.mark.slow
@pytest.mark.guard
@each
def test_a_guard_that_is_taken_out_is_missed(
    mutation: Mutation, noticing: set[str], tmp_path: Path, guards: dict[str, list[str]]
) -> None:
    tests = [test for test in mutation.tests if test in noticing]
    if not tests:
        pytest.skip("the tests that would notice do not run here")
    sources = copied(tmp_path)
    file = sources / "everstep" / mutation.file
    file.write_text(file.read_text().replace(mutation.guard, mutation.without))
    failed, _, said = outcome_of(sources, tests)
    assert failed, f"{mutation.name} is taken out, and nobody notices\n{said}"
    guards[mutation.name] = failed


def copied(folder: Path) -> Path:
    """A copy of the sources, which is what its tests import."""
    shutil.copytree(SOURCES, folder / "src" / "everstep", ignore=shutil.ignore_patterns("__pycache__"))
    asked = [sys.executable, "-c", "import everstep; print(everstep.__file__)"]
    found = subprocess.run(asked, env=surroundings(folder / "src"), capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(folder))
    return folder / "src"


def surroundings(sources: Path) -> dict[str, str]:
    """Few rounds: one test that fails is enough, and it must not write the table."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVERSTEP_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": str(sources), "EVERSTEP_CRASH_ROUNDS": "4"}


def outcome_of(sources: Path, tests: list[str]) -> tuple[list[str], list[str], str]:
    """Run tests on these sources. Returns those that failed, those that were skipped, and what was printed.

    A test that cannot even be set up has not noticed anything.
    """
    words = ["-m", "pytest", "-vv", "--tb=line", "-p", "no:cacheprovider", "--basetemp", str(sources.parent / "tmp")]
    ended = subprocess.run(
        [sys.executable, *words, *tests], cwd=ROOT, env=surroundings(sources), capture_output=True, text=True
    )
    lines = [line for line in ended.stdout.splitlines() if "::" in line]
    failed, skipped = (
        [line.partition(f" {word}")[0] for line in lines if f" {word} " in f"{line} "] for word in ("FAILED", "SKIPPED")
    )
    assert not any(" ERROR " in f"{line} " for line in lines), ended.stdout
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    return failed, skipped, ended.stdout + ended.stderr
