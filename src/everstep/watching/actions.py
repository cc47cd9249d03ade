"""What the page's buttons do: each is a verb of the program, run as its own process, answered with what it printed.

Nothing else is run: a button names a verb and its choices, and never a word of the command line.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from everstep.errors import UserError
from everstep.exchange.readers import READERS
from everstep.versions import Run

PROGRAM = (sys.executable, "-m", "everstep")
TIMEOUT_S = 900.0
LONGEST_TEXT = 500  # characters of a label or a note
OUTPUT = "resumed.log"  # in the records: what a training prints that the page has begun


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a button."""

    command: str  # as it would be typed
    code: int | None  # None of one that goes on by itself
    said: str

    def as_json(self) -> dict[str, Any]:
        return {"command": self.command, "code": self.code, "said": self.said}


Words = Callable[[Run, Mapping[str, Any]], list[str]]


def words_of(verb: str, run: Run, given: Mapping[str, Any]) -> list[str]:
    """The command line of a button. Raises: UserError for what is no button, or a choice that it does not have."""
    if verb not in BUTTONS:
        raise UserError(f"There is no button {verb[:40]!r}; there are: {', '.join(BUTTONS)}.")
    return [verb_of(verb), *BUTTONS[verb](run, given)]


def verb_of(button: str) -> str:
    return {"unpin": "pin", "note": "label", "unlabel": "label", "plan-prune": "prune"}.get(button, button)


def act(verb: str, run: Run, given: Mapping[str, Any]) -> Done:
    """Do it, and wait until it is done. Raises: UserError."""
    try:
        words = words_of(verb, run, given)
        return _begin(words, run) if verb == "resume" else _done(words)
    except OSError as error:  # no folder for what it writes, no process
        raise UserError(f"{verb} could not be begun: {error.strerror or error}. Nothing was changed.") from None


def _done(words: list[str]) -> Done:
    command = _typed(words)
    try:
        ended = subprocess.run(
            [*PROGRAM, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Done(command, None, f"It goes on for more than {TIMEOUT_S / 60:.0f} minutes; ask for its state later.")
    return Done(command, ended.returncode, (ended.stdout + ended.stderr).strip())


def _begin(words: list[str], run: Run) -> Done:
    """A training outlives whoever has begun it: a session of its own, and its words in a file."""
    run.layout.records.mkdir(exist_ok=True)
    with (run.layout.records / OUTPUT).open("ab") as file:
        process = subprocess.Popen(
            [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:  # what is refused is refused at once
        code = process.wait(3.0)
    except subprocess.TimeoutExpired:
        process.returncode = 0  # nobody waits for it here
        return Done(_typed(words), None, f"It has begun, process {process.pid}; what it prints is in {file.name}.")
    said = (run.layout.records / OUTPUT).read_text(encoding="utf-8", errors="replace")
    return Done(_typed(words), code, said[-4000:].strip())


def _typed(words: list[str]) -> str:
    return shlex.join(["everstep", *words])


def _text(given: Mapping[str, Any], key: str) -> str:
    text = given.get(key)
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT or not text.isprintable():
        raise UserError(f"The {key} is a line of 1 to {LONGEST_TEXT} characters.")
    if text.startswith("-"):
        raise UserError(f"The {key} begins with a dash, which the command line would take for an option.")
    return text


def _version(run: Run, given: Mapping[str, Any]) -> str:
    number = given.get("version")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise UserError("Which version it is for is a number.")
    return f"{run.path}@{number}"


def _export(run: Run, given: Mapping[str, Any]) -> list[str]:
    if given.get("for") not in READERS:
        raise UserError(f"It is exported for one of: {', '.join(READERS)}.")
    version = _version(run, given)
    out = run.path.parent / "exports" / f"{run.name}-{given['version']}-{given['for']}"
    out.parent.mkdir(exist_ok=True)
    return [version, "--for", str(given["for"]), "--out", str(out)]


def _save(run: Run, given: Mapping[str, Any]) -> list[str]:
    label = ["--label", _text(given, "label")] if given.get("label") else []
    return [str(run.path), *label]


def _branch(run: Run, given: Mapping[str, Any]) -> list[str]:
    """From a version on in this run: later ones stay."""
    return [_version(run, given) if "version" in given else str(run.path)]


BUTTONS: dict[str, Words] = {
    "save": _save,
    "stop": lambda run, given: [str(run.path), "--no-wait"],
    "pin": lambda run, given: [_version(run, given)],
    "unpin": lambda run, given: [_version(run, given), "--off"],
    "label": lambda run, given: [_version(run, given), _text(given, "label")],
    "unlabel": lambda run, given: [_version(run, given), "--off", _text(given, "label")],
    "note": lambda run, given: [_version(run, given), "--note", _text(given, "note")],
    "slim": lambda run, given: [_version(run, given)],
    "plan-prune": lambda run, given: [str(run.path), "--dry-run"],
    "prune": lambda run, given: [str(run.path)],
    "resume": _branch,
    "export": _export,
}
