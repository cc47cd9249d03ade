"""What was injected, how often it hit, and what it cost, counted by the tests themselves. A pytest plugin.

A test says which fault it injects with `@pytest.mark.fault("kill -9 of the trainer")`; {names} are filled in from its
parameters. One that injects more than once counts with the fixture `seen`; any other counts once when it passes.
EVERSTEP_FAULT_TABLE names the JSON file that the counts are written to at the end; without it nothing is written.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from chance import ASKED, SEED

HERE = Path(__file__).parent


@dataclass
class Seen:
    """What one test did."""

    injected_times: int = 0
    hit_times: int = 0
    lost_steps: int = 0

    def injected(self, times: int = 1) -> None:
        """It was tried. Whether it met anything is another matter."""
        self.injected_times += times

    def hit(self, times: int = 1) -> None:
        """It met what it was meant for, and what has to hold after it was looked at."""
        self.hit_times += times

    def both(self, times: int = 1) -> None:
        """It was tried and cannot have missed."""
        self.injected(times)
        self.hit(times)

    def lost(self, steps: int) -> None:
        """So many steps are gone that the promise covers."""
        self.lost_steps += max(0, steps)


@dataclass
class Row:
    """A fault over the whole session."""

    injected: int = 0
    hit: int = 0
    survived: int = 0
    steps_lost: int = 0
    where: set[str] = field(default_factory=set)
    not_run: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def facts(self, fault: str) -> dict[str, Any]:
        lists = {key: sorted(getattr(self, key)) for key in ("where", "not_run", "failed")}
        counts = {key: getattr(self, key) for key in ("injected", "hit", "survived", "steps_lost")}
        return {"fault": fault, **counts, **lists}


@dataclass
class Counts:
    """Everything that was counted."""

    rows: dict[str, Row] = field(default_factory=dict)
    guards: dict[str, list[str]] = field(default_factory=dict)  # taken out -> tests that noticed


COUNTS, SEEN = pytest.StashKey[Counts](), pytest.StashKey[Seen]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name): what the test injects, for the table of docs/reliability.md")
    config.stash[COUNTS] = Counts()


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """For counting what this test injects."""
    assert any(request.node.iter_markers("fault")), "a test that counts says what it injects"
    return request.node.stash.setdefault(SEEN, Seen())


@pytest.fixture
def guards(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """For noting which tests noticed that a guard was taken out."""
    return request.config.stash[COUNTS].guards


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    is_last_word = report.when == "call" or (report.when == "setup" and not report.passed)
    for fault in faults_of(item) if is_last_word else ():
        _count(item.config.stash[COUNTS].rows.setdefault(fault, Row()), item, report)
    return report  # type: ignore[return-value]


def faults_of(item: pytest.Item) -> list[str]:
    """What a test injects, in words."""
    given = getattr(item, "callspec", None)
    values = {} if given is None else {name: _word(value) for name, value in given.params.items()}
    return [marker.args[0].format(**values) for marker in item.iter_markers("fault")]


def _word(value: object) -> str:
    return value.name if isinstance(value, Enum) else str(value)


def _count(row: Row, item: pytest.Item, report: pytest.TestReport) -> None:
    row.where.add(Path(item.path).relative_to(item.config.rootpath).as_posix())
    if report.skipped and not hasattr(report, "wasxfail"):
        row.not_run.add(report.longrepr[2].removeprefix("Skipped: "))  # type: ignore[index]
        return
    done = item.stash.get(SEEN, None) or Seen(1, 1)
    if not report.passed and SEEN in item.stash and done.injected_times == done.hit_times:
        done.both()  # the one that it failed at
    row.injected += done.injected_times
    row.hit += done.hit_times
    row.steps_lost += done.lost_steps
    row.survived += done.hit_times - (not report.passed)
    if not report.passed:
        row.failed.add(getattr(report, "wasxfail", "") or item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = os.environ.get("EVERSTEP_FAULT_TABLE")
    if not table:
        return
    counts = session.config.stash[COUNTS]
    facts = {
        **_circumstances(),
        "faults": [row.facts(fault) for fault, row in sorted(counts.rows.items())],
        "guards": [{"guard": name, "noticed_by": tests} for name, tests in sorted(counts.guards.items())],
    }
    Path(table).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _circumstances() -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_changed_since": bool(_git("status", "--porcelain", "--", "src", "tests")),
        "date": datetime.now(UTC).date().isoformat(),
        "seed": SEED,
        "rounds": None if ASKED is None else int(ASKED),
        "machine": {
            "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "python": platform.python_version(),
        },
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=HERE.parents[1], capture_output=True, text=True).stdout.strip()
