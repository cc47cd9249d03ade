"""Drawing from the page: a process with PyTorch that is started when somebody asks, and leaves by itself.

While a training holds a run here, it draws on the processor with one thread: the memory of a GPU is the training's.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from everstep.errors import UserError
from everstep.records.tried import keep_tried
from everstep.versions import Run

PROGRAM = (sys.executable, "-m", "everstep.evaluation.trying")
MOST_VERSIONS, REMEMBERED = 3, 20
TOLD = ("done", "total", "png", "error")
LARGEST_CONDITION = 20_000_000  # bytes
LONGEST_PROMPT = 2000  # characters
SETTINGS = ("condition_scale", "guidance_scale", "steps", "seed")
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # threads of two programs wait for each other by spinning


class Asked:
    """What somebody wants drawn. Raises: UserError for what it cannot be."""

    def __init__(self, run: Run, given: Mapping[str, Any]) -> None:
        self.run, self.versions = run, _versions(given.get("versions"))
        self.prompt = _prompt(given.get("prompt"))
        self.condition = _condition(given.get("condition"))
        self.is_made = given.get("made") is True
        self.sampling = _sampling(given.get("sampling") or {})

    def line(self, version: int) -> str:
        """As the process is told it."""
        condition = base64.b64encode(self.condition).decode()
        told = {"run": str(self.run.path), "version": version, "condition": condition, "prompt": self.prompt}
        return json.dumps({**told, "made": self.is_made, "sampling": self.sampling})


class Studio:
    """The process that draws, one picture after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None  # as long as it was last seen there
        self._is_beside = False
        self._drawn: dict[str, dict[int, dict[str, Any]]] = {}  # by name: what each version answered

    def draw(self, asked: Asked, is_beside: bool) -> Iterator[dict[str, Any]]:
        """What the page is told: version with done and total, then with png (base64); error, which is the last; or at
        the end the name by which it can be kept.

        Whoever stops asking ends the drawing.

        Args:
            is_beside: whether something is trained here meanwhile.
        """
        if not self._lock.acquire(blocking=False):
            yield {"error": "Something else is being drawn. Nothing was begun."}
            return
        is_over, drawn = False, dict[int, dict[str, Any]]()
        try:
            for version in asked.versions:
                for told in self._answers(asked.line(version), is_beside):
                    is_over = "done" not in told
                    if "png" in told:
                        drawn[version] = told
                    yield {"version": version, **{key: told[key] for key in TOLD if key in told}}
                    if "error" in told:
                        return
            yield {"name": self._remember(drawn)}
        finally:
            if not is_over:
                self.close()
            self._lock.release()

    def keep(self, run: Run, name: object) -> Path:
        """Make a record of what was drawn. Raises: UserError, DiskFull."""
        drawn = self._drawn.get(str(name))
        if drawn is None:
            raise UserError("That drawing is not remembered any more; drawn again it can be kept.")
        first = next(iter(drawn.values()))
        shared = {key: first["facts"][key] for key in ("prompt", "sampler", "base")}
        facts = {**shared, "versions": {number: told["facts"] for number, told in drawn.items()}}
        pictures = {number: base64.b64decode(told["png"]) for number, told in drawn.items()}
        return keep_tried(run, facts, base64.b64decode(first["condition"]), pictures)

    def _remember(self, drawn: dict[int, dict[str, Any]]) -> str:
        name = secrets.token_hex(8)
        self._drawn[name] = drawn
        while len(self._drawn) > REMEMBERED:
            del self._drawn[next(iter(self._drawn))]
        return name

    def _answers(self, line: str, is_beside: bool) -> Iterator[dict[str, Any]]:
        """Until the picture is there, or is not to be had."""
        stdin, stdout = self._pipes(is_beside)
        try:
            stdin.write(f"{line}\n")
            stdin.flush()
        except BrokenPipeError:  # it left in this very moment
            self.close()
            stdin, stdout = self._pipes(is_beside)
            stdin.write(f"{line}\n")
            stdin.flush()
        for told in map(json.loads, stdout):
            yield told
            if "done" not in told:
                return
        code = None if self.process is None else self.process.wait()
        self.close()
        yield {"error": f"The process that draws ended (exit code {code}); memory may not hold it."}

    def _pipes(self, is_beside: bool) -> tuple[IO[str], IO[str]]:
        process = self.process
        if process is None or process.poll() is not None or self._is_beside != is_beside:
            self.close()
            process = self.process = subprocess.Popen(
                [*PROGRAM, *(("--device", "cpu") if is_beside else ())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the page; this one leaves when nobody is there to ask it
                env={**os.environ, **(ALONE if is_beside else {})},
            )
            self._is_beside = is_beside
        assert process.stdin is not None
        assert process.stdout is not None
        return process.stdin, process.stdout

    def close(self) -> None:
        """End it, whatever it does."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _versions(given: Any) -> list[int]:
    good = isinstance(given, list) and 0 < len(given) <= MOST_VERSIONS and all(type(one) is int for one in given)
    if not good or min(given) < 0:
        raise UserError(f"It is drawn with 1 to {MOST_VERSIONS} versions, by their numbers.")
    return list(dict.fromkeys(given))


def _prompt(given: Any) -> str:
    if not isinstance(given, str) or len(given) > LONGEST_PROMPT:
        raise UserError(f"The prompt is a text of at most {LONGEST_PROMPT} characters.")
    return given


def _condition(given: Any) -> bytes:
    try:
        content = base64.b64decode(str(given).rpartition(",")[2], validate=True)
    except ValueError:
        content = b""
    if not 0 < len(content) <= LARGEST_CONDITION:
        raise UserError(f"The condition is a picture of at most {LARGEST_CONDITION / 1e6:.0f} MB.")
    return content


def _sampling(given: Any) -> dict[str, int | float]:
    is_good = isinstance(given, dict) and all(
        key in SETTINGS and isinstance(value, int | float) and not isinstance(value, bool)
        for key, value in given.items()
    )
    if not is_good:
        raise UserError(f"Numbers can be given for: {', '.join(SETTINGS)}.")
    return dict(given)


def is_trained_beside(runs: Iterable[Run]) -> bool:
    """Whether somebody writes one of them now."""
    return any(run.holder() is not None for run in runs)
