"""The number of the live state: moved by everything that changes it, looked at by everything that copies it.

PyTorch's own counters of changes in place do not see a fused optimizer's step, nor tensors that are exchanged; so
whoever writes says so. Imports no PyTorch.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Steps(Protocol):
    """What is asked of an optimizer: every torch.optim.Optimizer has it."""

    def register_step_pre_hook(self, hook: Callable[..., None]) -> Any: ...
    def register_step_post_hook(self, hook: Callable[..., None]) -> Any: ...


class Revision:
    """Counts changes of the live state. A copy is whole if the number was the same, and nobody writing, all through."""

    def __init__(self) -> None:
        self._number = 0
        self._writing: set[object] = set()
        self._lock = threading.Lock()
        self._hooks: list[Any] = []
        self.before_change: Callable[[], None] | None = None  # waits for a copy that is being made

    def seen(self) -> int | None:
        """The number now, or None while somebody writes."""
        with self._lock:
            return None if self._writing else self._number

    def begin(self, writer: object) -> None:
        """Somebody begins to change the state; returns once no copy of it is being made.

        A writer that begins again without having ended had failed in the middle: what it left is its own to mend.
        """
        if self.before_change is not None:
            self.before_change()
        with self._lock:
            self._number += 1
            self._writing.add(writer)

    def end(self, writer: object) -> None:
        with self._lock:
            self._number += 1
            self._writing.discard(writer)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change the state inside: averages, weights that are loaded, whatever is no optimizer's step."""
        writer = object()
        self.begin(writer)
        try:
            yield
        finally:
            self.end(writer)

    def watch(self, optimizer: Steps) -> None:
        """Every step of this optimizer moves the number, one that raises in the middle included."""
        self._hooks += [
            optimizer.register_step_pre_hook(lambda *_: self.begin(optimizer)),
            optimizer.register_step_post_hook(lambda *_: self.end(optimizer)),
        ]

    def close(self) -> None:
        """Let the optimizers go."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.before_change = None
