"""Small trainings by other people's trainers, as programs that are killed and started again."""

import signal
import time
from pathlib import Path

from everstep.versions import Run, verify
from everstep.versions.torch import read_torch
from program import WAIT_FOR_VERSION, Script

STEPS = 30
DATA = """
import os, signal, sys, time, torch
from torch.utils.data import DataLoader, Dataset
from everstep.keeping.settings import Settings

class Pairs(Dataset):
    def __len__(self): return 20
    def __getitem__(self, index): return {"x": torch.full((4,), index / 20) + torch.randn(4) * 0.1}

def die_at(step):
    time.sleep(float(os.environ.get("PAUSE_S", 0)))
    if step in (12, 24) and os.path.isdir("runs/own"):
        wait_for_version(step)
    dies_at = int(os.environ.get("DIE_AT", -9))
    if step in (dies_at - 1, dies_at):  # copies that overlap are left out
        time.sleep(0.2)
    if step == dies_at:
        os.kill(os.getpid(), int(os.environ["DIE_BY"]))

def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
"""
# As the original ControlNet's tutorial_train.py: one Trainer, a module that configures its optimizer, pairs.
LIGHTNING = """
import PACKAGE as pl
from everstep.adapters import lightning as everstep
from everstep.adapters.loading import ordered

class ControlLDM(pl.LightningModule):
    def __init__(self, learning_rate):
        super().__init__()
        self.save_hyperparameters()
        self.net = network()
        self.register_buffer("average", torch.zeros(8, 4))

    def training_step(self, batch, index):
        die_at(self.global_step)
        noisy = batch["x"] + torch.randn_like(batch["x"]) * 0.01
        return (self.net(noisy).sum(1) - batch["x"].sum(1)).square().mean()

    def on_train_batch_end(self, *given):
        self.average.lerp_(self.net[0].weight.detach(), 0.1)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3), "interval": "step"}]

pl.seed_everything(1)
model = ControlLDM(0.01)
loader = DataLoader(Pairs(), batch_size=3, shuffle=True)
LINES
trainer.fit(model, loader, ckpt_path="last")
print("ended at", trainer.global_step, flush=True)
"""
OWN_LOGS = 'trainer = pl.Trainer(max_steps=30, accelerator="cpu", enable_progress_bar=False)\n'
KEPT = """
kept = everstep.keep("own", every=12, keeping=Settings(snapshots=1))
loader = ordered(loader)
trainer = pl.Trainer(max_steps=30, accelerator="cpu", enable_progress_bar=False, callbacks=[kept])
"""
# As diffusers' train_controlnet.py does it.
ACCELERATE = """
from accelerate import Accelerator
from accelerate.utils import set_seed
from everstep.adapters import accelerate as everstep

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=int(os.environ.get("ACCUMULATE", 1)))
set_seed(3)
model = network()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
loader = DataLoader(Pairs(), batch_size=3, shuffle=True)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
kept = everstep.keep(accelerator, "own", settings={"learning_rate": 0.01}, every=12, keeping=Settings(snapshots=1),
                      max_steps=30)
loader = kept.loader(loader)
torch.rand(3)
global_step = kept.step
for epoch in range(100):
    for batch in loader:
        with accelerator.accumulate(model):
            die_at(global_step)
            noisy = batch["x"] + torch.randn_like(batch["x"]) * 0.01
            accelerator.backward((model(noisy).sum(1) - batch["x"].sum(1)).square().mean())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            global_step += 1
        if global_step == 10 and accelerator.sync_gradients:
            accelerator.save_state("out/checkpoint-10")
        if global_step >= 30:
            break
    if global_step >= 30 or kept.kept.ended:
        break
END
print("ended at", global_step, flush=True)
"""


def lightning(package: str = "lightning.pytorch", lines: str = KEPT) -> str:
    return WAIT_FOR_VERSION + DATA + LIGHTNING.replace("PACKAGE", package).replace("LINES", lines)


def accelerate(end: str = "accelerator.end_training()") -> str:
    return WAIT_FOR_VERSION + DATA + ACCELERATE.replace("END", end)


def start(folder: Path, program: str, **environ: str) -> tuple[Script, Path]:
    """Begin one; returns it, and where it prints."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(program)
    log = folder / f"log-{time.monotonic_ns()}"
    return Script(folder / "train.py", (), folder, log, OMP_NUM_THREADS="1", **environ), log


def wait_for_its_keeper(folder: Path) -> None:
    """Which puts away what memory holds, after the program's end."""
    own = Run(folder / "runs/own")
    while Run.exists(own.path) and own.holder() is not None:
        time.sleep(0.01)


def run(folder: Path, program: str, *, die_at: int | None = None, by: int = signal.SIGKILL, **environ: str) -> str:
    """To its end, or to its death in a step. Returns what it printed."""
    dying = {} if die_at is None else {"DIE_AT": str(die_at), "DIE_BY": str(int(by))}
    started, log = start(folder, program, **dying, **environ)
    code = started.wait(120)
    wait_for_its_keeper(folder)
    said = log.read_text()
    if die_at is None:
        assert code == 0, said
    elif by == signal.SIGKILL:
        assert code == -by, said
    return said


def weights(folder: Path) -> dict[str, list[float]]:
    """Of the newest version of a run that is whole."""
    run = Run.open(folder / "runs/own")
    assert [fault for version in run.versions() for fault in verify(version)] == []
    newest = run.versions()[-1]
    assert newest.step == STEPS
    assert newest.reason == "final"
    return {name: tensor.tolist() for name, tensor in read_torch(newest, "weights.safetensors").items()}
