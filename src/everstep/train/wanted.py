"""Whoever asks to stop does not wait for what is being measured: `everstep score` can measure it later."""

import contextlib
from collections.abc import Callable, Iterator

from everstep.config.schema import Config
from everstep.contracts import Counted, During


def until_asked(config: Config, is_asked: Callable[[], bool]) -> Callable[[], bool]:
    """Whether what is measured is wanted: until somebody asks to stop; always, where it decides how long is trained."""
    return lambda: config.scoring.patience is not None or not is_asked()


class CutShort(Exception):
    """Somebody has asked to stop."""


def go_on_while(is_wanted: Callable[[], bool]) -> Counted:
    """Told of what is done, it raises CutShort once nobody wants the rest."""

    def said(done: int, total: int) -> None:
        if not is_wanted():
            raise CutShort("this process is asked to stop")

    return said


def while_wanted(during: During, is_wanted: Callable[[], bool]) -> During:
    """The same, but what is done inside ends with CutShort once nobody wants it."""
    go_on = go_on_while(is_wanted)

    @contextlib.contextmanager
    def call(what: str, unit: str = "", count: Callable[[int], str] = "{:,}".format) -> Iterator[Counted]:
        def told(done: int, total: int) -> None:
            said(done, total)
            go_on(done, total)

        go_on(0, 0)
        with during(what, unit, count) as said:
            yield told

    return call
