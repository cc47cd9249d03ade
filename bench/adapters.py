"""How long other people's trainers wait for a save of 4.34 GB: with their own way, and kept by Everstep.

    python bench/adapters.py [PLACE] [--millions 361]

The same module (as many numbers as a ControlNet of SD 1.5) is trained with AdamW by Lightning and on Accelerate, each
in a process of its own: once with ModelCheckpoint or save_state every few steps, once kept, as many versions. A wait is
what the step with a save and the next one take longer than two others do, from batch to batch; the first save of each,
which makes its files and memory, is left out. Theirs are not synced, ours are durable soon after, beside the training.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import record

STEPS, EVERY = 18, 4
ASKED = {"lightning": 20, "accelerate": 5}
NAMES = {"lightning": "Lightning's ModelCheckpoint", "accelerate": "Accelerate's save_state"}
PARTS = 20
COMMON = """
import json, sys, time, torch
from everstep.keeping.settings import Settings
STEPS, EVERY, count, way = STEPS_, EVERY_, int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ParameterList(torch.randn(count) for _ in range(PARTS_))

    def forward(self, x):
        return sum((part * x).sum() for part in self.parts)

times = []
"""
LIGHTNING = """
import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from everstep.adapters import lightning as everstep
from everstep.adapters.loading import ordered

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network()

    def training_step(self, batch, index):
        times.append(time.perf_counter())
        return self.network(batch.mean()) * 1e-6

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-6)

theirs = ModelCheckpoint("theirs", every_n_train_steps=EVERY, save_top_k=-1)
kept = everstep.keep("ours", every=EVERY) if way == "ours" else theirs
trainer = pl.Trainer(max_steps=STEPS, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[kept])
trainer.fit(Module(), ordered(torch.utils.data.DataLoader(torch.rand(STEPS, 1))))
print(json.dumps(times))
"""
ACCELERATE = """
from accelerate import Accelerator
from everstep.adapters import accelerate as everstep

accelerator = Accelerator(cpu=True)
network = Network()
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
loader = torch.utils.data.DataLoader(torch.rand(STEPS, 1))
network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
if way == "ours":
    kept = everstep.keep(accelerator, "ours", every=EVERY)
    loader = kept.loader(loader)
for step, batch in enumerate(loader, start=1):
    times.append(time.perf_counter())
    accelerator.backward(network(batch.mean()) * 1e-6)
    optimizer.step()
    optimizer.zero_grad()
    if way == "theirs" and step % EVERY == 0:
        accelerator.save_state(f"theirs/checkpoint-{step}")
accelerator.end_training()
print(json.dumps(times))
"""
PROGRAMS = {"lightning": LIGHTNING, "accelerate": ACCELERATE}


def waits(trainer: str, way: str, numbers: int, place: Path) -> tuple[float, float]:
    """Seconds that a save takes, and a step without one, in a process of its own."""
    filled = {"STEPS_": STEPS, "EVERY_": EVERY, "PARTS_": PARTS}
    common = COMMON
    for name, value in filled.items():
        common = common.replace(name, str(value))
    folder = place / f"{trainer}-{way}"
    folder.mkdir()
    (folder / "train.py").write_text(common + PROGRAMS[trainer])
    words = [sys.executable, "train.py", str(numbers // PARTS), way]
    try:
        said = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    times = next(json.loads(line) for line in said.splitlines() if line.startswith("["))
    steps = [after - before for before, after in itertools.pairwise(times)]
    plain = statistics.median(took for number, took in enumerate(steps, start=1) if number % EVERY not in (0, 1))
    saves = range(2 * EVERY, len(steps), EVERY)
    return statistics.median(steps[save - 1] + steps[save] - 2 * plain for save in saves), plain


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", nargs="?", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--millions", type=int, default=361)
    asked = parser.parse_args()
    numbers, busy = asked.millions * 10**6, os.getloadavg()[0]
    rows = []
    for trainer, name in NAMES.items():
        place = Path(tempfile.mkdtemp(prefix="adapters-", dir=asked.place))
        try:
            theirs, step = waits(trainer, "theirs", numbers, place)
            ours, kept_step = waits(trainer, "ours", numbers, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        times = f"{theirs / ours:.0f}" if ours > 0.01 else "no wait that could be measured"
        rows.append(
            f"| {name} | {theirs:.2f} | {ours:.2f} | {times} | {ASKED[trainer]} | {step:.2f}, {kept_step:.2f} |"
        )
        print(rows[-1], flush=True)
    head = [
        f"{12 * numbers / 1e9:.2f} GB of weights and AdamW's moments; load of the machine {busy:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after. Median of {STEPS // EVERY - 1} saves.",
        "",
        "| | waits, s | kept, s | times less | asked | a step without a save, s: theirs, kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    record("What other trainers wait for a save (bench/adapters.py)", "\n".join([*head, *rows]))


if __name__ == "__main__":
    main()
