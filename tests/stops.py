"""An end of the process right after a step."""

import os
import signal


def kill_after(step: int, number: signal.Signals) -> None:
    """Let the process end itself by a signal right after a step: the moment is exact."""
    from everstep.train.loop import Loop

    original = Loop._step

    def stepped(self: Loop) -> None:
        original(self)
        if self.state.step == step:
            os.kill(os.getpid(), number)

    Loop._step = stepped  # type: ignore[method-assign]


class KillAfter:
    """Can be sent to another process."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    def __call__(self) -> None:
        kill_after(self.step, self.number)
