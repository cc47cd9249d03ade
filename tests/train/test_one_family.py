"""Runs made when one family was known go on bit for bit now that there are several."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bases import write_base
from everstep.records.steps import read_metrics
from everstep.versions import Run, verify
from program import Program

KEPT = Path(__file__).parents[1] / "golden/one-family"
EXPECTED = json.loads((KEPT / "expected.json").read_text())
MAKER = "GenuineIntel"  # libraries of linear algebra sum in another order on other makers' processors
PROCESSOR = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
SETTINGS = (
    *("--optim.batch-size", 2, "--optim.accumulation-steps", 2, "--optim.seed", 7, "--optim.learning-rate", 1e-3),
    *("--optim.schedule", "constant", "--optim.warmup-steps", 5, "--optim.ema-decay", 0.9, "--data.resolution", 16),
    *("--versions.every", 10, "--sampling.pairs", 0, "--scoring.overhead", 0, "--optim.max-steps", 20),
)


def assert_as_before(run: Path, like: str) -> None:
    """Losses and gradients to the last bit where the arithmetic is that of the machine that made them, else nearly."""
    last = Run.open(run).find("latest")
    assert (last.step, verify(last)) == (20, [])
    steps, then = read_metrics(run / "records"), EXPECTED[like]
    for key, before in (("loss", then["losses"]), ("grad_norm", then["grad_norms"])):
        np.testing.assert_allclose([step[key] for step in steps], before, rtol=1e-3)
    if torch.backends.cpu.get_cpu_capability() != EXPECTED["cpu_capability"] or MAKER not in PROCESSOR:
        pytest.skip("another CPU: equal within 0.1 %; bits are compared on Intel's with AVX-512")
    assert [step["loss"] for step in steps] == then["losses"]
    digests = json.loads((last.path / "digests.json").read_text())["controlnet/diffusion_pytorch_model.safetensors"]
    assert hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest() == then["weights"]


def test_a_stored_run_is_resumed_to_the_same_bits(workplace):
    write_base(workplace / "sd15", like="sd15")
    shutil.copytree(KEPT / "sd15", workplace / "runs/sd15")
    settings = workplace / "runs/sd15/hparams.yaml"
    settings.write_text(settings.read_text().replace("/tmp/old/sd15", str(workplace / "sd15")))
    program = Program(("resume", "sd15", "--set", "optim.max_steps=20"), workplace)
    assert program.wait() == 0, program.output
    assert_as_before(workplace / "runs/sd15", "sd15")


def test_velocity_shifted_timesteps_and_weights_are_as_they_were(workplace):
    base = write_base(workplace / "sd21", like="sd21")
    more = ("--optim.timestep-shift", 3, "--optim.min-snr-gamma", 5)
    program = Program(("train", "circles", "--run", "a", "--base", base, *SETTINGS, *more), workplace)
    assert program.wait() == 0, program.output
    assert_as_before(workplace / "runs/a", "sd21")
