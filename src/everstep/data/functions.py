"""A function of the user's own that makes conditions: loaded from its file, and tried before a training starts.

It is tried in a process of its own, which may load and compute what it likes: the keeper forks afterwards.
"""

import hashlib
import inspect
import io
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from everstep.contracts import Uint8Array
from everstep.data.conditions import Draws, wrong_with
from everstep.data.recipe import Recipe
from everstep.errors import UserError

PATIENCE_S = 300.0
CODE = "import sys; from everstep.data.functions import answer; answer(*sys.argv[1:])"
SIGN = b"\0fault:"  # before the answer, after whatever else was printed


class OwnFunction:
    """A user's, given a picture of its own, and draws where it has room for two; one call at a time."""

    def __init__(self, function: Callable[..., Uint8Array]) -> None:
        self._function, self.takes_draws = function, _takes_draws(function)
        self._lock = threading.Lock()  # whether it may be called by several threads, nobody knows

    def __call__(self, picture_HWC: Uint8Array, draws: Draws | None) -> Uint8Array:
        given = (picture_HWC.copy(), draws) if self.takes_draws else (picture_HWC.copy(),)
        with self._lock:
            return self._function(*given)


def load_function(path: Path, name: str) -> OwnFunction:
    """The function of a file. Raises: UserError saying why there is none."""
    return OwnFunction(_function_of(path, name))


def try_function(recipe: Recipe, picture_HWC: Uint8Array) -> None:
    """Make one condition, twice. Raises: UserError with what is wrong with it."""
    assert recipe.path is not None
    npy = io.BytesIO()
    np.save(npy, picture_HWC)
    words = [sys.executable, "-c", CODE, str(recipe.path.absolute()), recipe.function]
    try:
        ended = subprocess.run(words, input=npy.getvalue(), capture_output=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        fault = f"made no condition within {PATIENCE_S / 60:.0f} minutes"
    else:
        _, sign, answered = ended.stdout.rpartition(SIGN)
        fault = answered.decode(errors="replace") if sign else f"ended its process ({ended.returncode})"
    if fault:
        raise UserError(f"data.condition is {recipe.path}:{recipe.function}, but it {fault}. Nothing was started.")


def answer(path: str, name: str) -> None:
    """In the process in which it is tried: print what is wrong with the function, or nothing after the sign."""
    picture_HWC = np.load(io.BytesIO(sys.stdin.buffer.read()))
    try:
        fault = _tried(load_function(Path(path), name), picture_HWC)
    except UserError as error:
        fault = str(error)
    except BaseException as error:  # SystemExit too
        fault = _raised(error)
    sys.stdout.flush()
    sys.stdout.buffer.write(SIGN + fault.encode(errors="replace"))
    sys.stdout.buffer.flush()


def _tried(make: OwnFunction, picture_HWC: Uint8Array) -> str:
    """What is wrong, in words that follow "it"; empty where nothing is."""
    made = []
    for _ in range(2):
        made.append(make(picture_HWC, _draws()))
        if (fault := wrong_with(made[-1], picture_HWC)) is not None:
            return fault
    if not np.array_equal(made[0], made[1]):
        return (
            "made two different conditions of one picture and the same draws; what is random must come from its second "
            "argument, a numpy Generator, or no resume would be exact"
        )
    return ""


def _draws() -> Draws:
    return np.random.Generator(np.random.Philox(key=[0, 0]))


def _function_of(path: Path, name: str) -> Callable[..., Uint8Array]:
    # A name of its own for each file, so that two called alike do not meet; what lies beside it can be imported.
    named = f"everstep_condition_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = ModuleType(named)
    module.__file__ = str(path)
    sys.modules[named] = module  # dataclasses and pickles of the file look there
    if (beside := str(path.parent)) not in sys.path:
        sys.path.append(beside)
    try:
        # Never from bytecode that lies about, which may be that of lines of a second before.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except Exception as error:
        raise UserError(f"cannot be loaded: its file {_raised(error)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == named]
        raise UserError(f"is not there: the file has {', '.join(own) or 'no function'}")
    found: Callable[..., Uint8Array] = function
    return found


def _takes_draws(function: Callable[..., Uint8Array]) -> bool:
    """Whether it can be given two things. Raises: UserError where it takes neither one nor two."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of compiled code, which says nothing about itself
        return False
    for given in (2, 1):
        try:
            signature.bind(*[None] * given)
        except TypeError:
            continue
        return given == 2
    raise UserError(f"takes {signature}; wanted is (picture) or (picture, draws)")


def _raised(error: BaseException) -> str:
    told = " ".join(str(error).split())
    return f"raised {type(error).__name__}{': ' if told else ''}{told}"
