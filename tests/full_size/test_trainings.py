"""Networks of the true sizes, trained, killed, rescued, handed on and taken back, with the program as its user has it.

Weights are random, as many as there truly are. A row of CASES is one kind of ControlNet on one kind of base.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from watched import Watched, everstep, note, training

from everstep.contracts import Reason
from everstep.launch.step_memory import LIBRARIES_BYTES
from everstep.models.files import WEIGHTS
from everstep.models.whole import SD1, SDXL, Whole
from everstep.versions import Run, Version, read_live

BaseOf = Callable[[Whole], Path]
WITHIN = 0.1  # of what a step was told to take
NETWORKS = 3  # in float32, as much memory as an export or an import may have: a whole one of XL fits 24 GB well


@dataclass(frozen=True)
class Case:
    """What is trained at its true size, in which numbers."""

    name: str
    whole: Whole
    control: str = "full"
    resolution: int = 128
    batch_size: int = 1
    precision: str = "bf16"
    more: tuple[object, ...] = ()
    programs: tuple[str, ...] = ("diffusers", "comfyui")  # that draw with it

    def words(self, base: Path) -> tuple[object, ...]:
        """Nothing is drawn or measured beside the training."""
        return (
            *("--base", base, "--data", "builtin:circles", "--data.resolution", self.resolution),
            *("--optim.control", self.control, "--optim.batch-size", self.batch_size),
            *("--compute.precision", self.precision, "--compute.device", "cpu"),
            *("--sampling.pairs", 0, "--scoring.overhead", 0, *self.more),
        )


# A ControlNet of another size is a row of its own.
CASES = (
    Case("Stable Diffusion 1.5, full", SD1),
    Case("Stable Diffusion XL, small", SDXL, control="small"),
    Case("Stable Diffusion XL, LLLite", SDXL, control="lllite", programs=("comfyui",)),
)
# What a step takes, where more of it is the batch's.
STEPS = (
    Case("1.5, 256 px, batch 2, fp32", SD1, resolution=256, batch_size=2, precision="fp32"),
    Case("1.5, 256 px, batch 2, bf16", SD1, resolution=256, batch_size=2),
    Case("1.5, 512 px, batch 1, bf16", SD1, resolution=512),
    Case(
        "1.5, 256 px, batch 2, fp32, checkpointing, averaged weights",
        SD1,
        resolution=256,
        batch_size=2,
        precision="fp32",
        more=("--compute.gradient-checkpointing", "--optim.ema-decay", 0.9),
    ),
    Case("XL small, 256 px, batch 2, bf16", SDXL, control="small", resolution=256, batch_size=2),
    Case(
        "XL small, 128 px, batch 1, bf16, checkpointing",
        SDXL,
        control="small",
        more=("--compute.gradient-checkpointing",),
    ),
)


@pytest.mark.parametrize("case", [*CASES, *STEPS], ids=lambda case: case.name)
def test_a_step_takes_the_memory_that_was_told(case: Case, large_base: BaseOf, place: Path) -> None:
    """The most that the trainer has up to its second step, and of that the steps alone; no memory for snapshots."""
    line = ("--run", "a", *case.words(large_base(case.whole)), "--optim.max-steps", 3)
    told = json.loads(everstep(place, "plan", *line, "--quick", "--json").out)["memory"]
    with training(place, *line, slots=()) as watched:
        watched.wait_for(lambda: step_of(place) >= 0)
        loading_bytes, watched.most_bytes = watched.most_bytes, 0
        watched.wait_for(lambda: step_of(place) >= 2)
        step_bytes = watched.most_bytes
    most_bytes = max(loading_bytes, step_bytes)
    note(
        f"step of {case.name}",
        told_step_bytes=told["step_bytes"],
        step_bytes=step_bytes,
        told_peak_bytes=told["peak_bytes"],
        peak_bytes=most_bytes,
    )
    assert told["step_bytes"] == pytest.approx(step_bytes, rel=WITHIN)
    assert told["peak_bytes"] == pytest.approx(most_bytes, rel=WITHIN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_training_of_true_size_is_killed_rescued_and_handed_on(case: Case, large_base: BaseOf, place: Path) -> None:
    began = time.monotonic()
    line = ("--run", "a", *case.words(large_base(case.whole)), "--optim.max-steps", 100)
    with training(place, *line, "--versions.every", 2, "--keeper.snapshots", 1) as watched:
        rescued = killed_and_rescued(place, watched)
    run = Run.open(place / "runs/a")
    committed = [version.step for version in run.versions()]
    assert committed[:2] == [0, 2]
    assert rescued.manifest["reason"] == Reason.RESCUE
    trained_s = time.monotonic() - began
    for version in run.versions():
        everstep(place, "verify", f"a@{version.number}")
    handed = handed_on(place, rescued, case.programs)
    note(
        case.name,
        version_bytes=rescued.size_bytes,
        memory_of_trainer_bytes=watched.most_bytes,
        train_and_rescue_s=round(trained_s),
        verify_and_hand_on_s=round(time.monotonic() - began - trained_s),
        **handed,
    )


def killed_and_rescued(place: Path, watched: Watched) -> Version:
    """Kill the trainer once it has a snapshot that no version has; the keeper makes one of it, and ends."""
    run = Run(place / "runs/a")

    def is_ahead() -> bool:
        live = read_live(run.layout) if run.path.is_dir() else None
        versions = run.versions() if live is not None else []
        return bool(versions) and versions[-1].step >= 2 and (live.snapshot_step or 0) > versions[-1].step

    watched.wait_for(is_ahead)
    os.kill(watched.trainer, signal.SIGKILL)
    assert watched.keeper.wait(600) != 0
    rescued = run.find("latest")
    assert f"{rescued.name} (step {rescued.step:,}) was rescued from memory" in watched.log.read_text()
    return rescued


def step_of(place: Path) -> int:
    run = Run(place / "runs/a")
    live = read_live(run.layout) if run.path.is_dir() else None
    return -1 if live is None else live.step


def handed_on(place: Path, version: Version, programs: Sequence[str] = ("diffusers", "comfyui")) -> dict[str, Any]:
    """Export for these programs, import what the one of a single file takes, and compare every tensor on the way."""
    outs = {"diffusers": "for-diffusers", "comfyui": "for-comfyui.safetensors"}
    exported = [
        everstep(place, "export", f"a@{version.number}", "--for", program, "--out", outs[program])
        for program in programs
    ]
    imported = everstep(place, "import", "for-comfyui.safetensors", "--out", "again")
    ours = version.path / WEIGHTS
    most_bytes = max(ended.most_bytes for ended in (*exported, imported))
    assert most_bytes < LIBRARIES_BYTES + NETWORKS * ours.stat().st_size
    for name in ("again", *(["for-diffusers"] if "diffusers" in programs else [])):
        assert differing(ours, place / name / Path(WEIGHTS).name) == []
    return {
        "file_for_comfyui_bytes": (place / "for-comfyui.safetensors").stat().st_size,
        "memory_of_export_bytes": max(ended.most_bytes for ended in exported),
        "memory_of_import_bytes": imported.most_bytes,
    }


def differing(ours: Path, theirs: Path) -> list[str]:
    """Tensors that are not what ours are in 16 bits, or that only one has; a pair is in memory at a time."""
    with safe_open(ours, "pt") as one, safe_open(theirs, "pt") as other:
        names, others = set(one.keys()), set(other.keys())
        halved = (
            name for name in names & others
            if not torch.equal(one.get_tensor(name).half(), other.get_tensor(name).half())
        )  # fmt: skip
        return sorted([*(names ^ others), *halved])
