"""A small loop kept by Everstep with its interval found by itself, as bench/useful_time.py has it die again and again.

    everstep keep --restarts 100000 -- python bench/dying_loop.py RUN MEGABYTES STEP_S MTBF_S EVERY_S MEMORY STEPS_FILE

A step is a pause and little arithmetic, so that neighbours on the machine hardly change it. Each writes its number, the
clock of the machine, and the newest step that is whole in memory, as one line into STEPS_FILE.
"""

import sys
import time

import torch

import everstep
from everstep.keeping import intervals
from everstep.keeping.intervals import Economy
from everstep.keeping.settings import Settings

ENDLESS = 10**9


def main(run: str, numbers: list[float], memory: str, steps_file: str) -> None:
    """Train until somebody ends it.

    Args:
        numbers: megabytes of state, seconds a step, mean seconds between failures of the machine, and between versions,
            0 where the interval is to be found.
    """
    megabytes, step_s, mtbf_s, every_s = numbers
    intervals.SHORTEST_S = 1.0  # time is scaled, so what is too often for a person is, too
    torch.manual_seed(0)
    network = torch.nn.Linear(round(megabytes * 1e6 / 4 / 3 / 1000), 1000, bias=False)  # two moments each
    with torch.no_grad():
        network.weight.mul_(0.5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    economy = Economy(mtbf_s=mtbf_s, bytes_a_day=10**18)
    keeping = Settings(ram_dir=memory, deaths_s=economy.deaths_s)
    every = None if every_s else economy
    with (
        open(steps_file, "a", buffering=1) as lines,
        everstep.keep(run, network, optimizer, every=every, every_s=every_s or None, keeping=keeping) as kept,
    ):
        for step in kept.steps(ENDLESS):
            time.sleep(step_s)
            if network.weight.grad is None:
                network.weight.grad = torch.full_like(network.weight, 1e-3)
            if step % 10 == 0:  # so that the state is another one, at little arithmetic
                optimizer.step()
            saver = kept._saver
            assert saver is not None
            sealed = None if saver.snapshots is None else saver.snapshots.sealed_step
            lines.write(f"{step} {time.monotonic():.4f} {sealed or 0} {saver.clock.every_s:.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1], [float(word) for word in sys.argv[2:6]], *sys.argv[6:8])
