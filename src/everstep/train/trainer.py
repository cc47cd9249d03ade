"""How a fresh child process becomes the trainer: its own process group, its own signals, one exit code."""

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from everstep.errors import EverstepError, ExitCode
from everstep.keeping.channel import Channel
from everstep.train.intent import Ready
from everstep.train.progress import Reporter
from everstep.versions import Run

STACKS_SIGNAL = signal.SIGUSR1
Trainer = Callable[[Ready, Reporter, Channel], int]


def become_trainer(trainer: Trainer, ready: Ready, reporter: Reporter, channel: Channel) -> NoReturn:
    """In the child: train, and leave with the code. Its own group, so that Ctrl-C reaches it once, from the keeper."""
    code = int(ExitCode.BUG)
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        with stacks_file(ready.run).open("w") as stacks:
            faulthandler.register(STACKS_SIGNAL, stacks)
            code = int(trainer(ready, reporter, channel))
    except EverstepError as error:
        print(error, file=sys.stderr)
        code = int(error.exit_code)
    except BaseException:
        traceback.print_exc()
        print("\nThis is a bug in Everstep, or in a library; versions on disk are whole.", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stacks_file(run: Run) -> Path:
    """Where the stacks of a trainer that hangs are written."""
    return run.layout.records / "stacks.txt"
