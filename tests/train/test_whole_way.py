"""A set as people have it, from its file to what another program draws with: in one go, with no file between."""

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.records.scores import latest_verdict
from everstep.versions import Run
from law import KillAfter
from oblong import SIZES, ramp
from program import Ended, Program

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
PICTURES = 30


def write_parquet(folder: Path) -> Path:
    """Pictures of many shapes in the file itself, several captions each, and no conditions."""
    rows = []
    for number in range(PICTURES):
        kept = io.BytesIO()
        ramp(SIZES[number % len(SIZES)], number).save(kept, "PNG")
        image = {"bytes": kept.getvalue(), "path": f"{number}.png"}
        rows.append({"image": image, "text": [f"picture {number}", f"number {number}, red"]})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet", row_group_size=8)
    return folder


@pytest.mark.fault("kill -9 of a training on parquet with conditions made, buckets and a cache")
def test_from_parquet_to_a_controlnet_for_diffusers(
    tiny_base: Path, start: Callable[..., Program], everstep: Callable[..., Ended], workplace: Path
) -> None:
    from diffusers import ControlNetModel

    data = ("--data", write_parquet(workplace / "set"), "--data.condition", "canny", "--data.shape", "buckets")
    amounts = ("--optim.max-steps", 6, "--optim.batch-size", 2, "--versions.every", 3, "--optim.learning-rate", 1e-2)
    shown = ("--sampling.pairs", 1, "--sampling.steps", 2, "--scoring.adherence", "canny")
    words = ("train", "--run", "a", "--base", tiny_base, *data, "--data.cache", "ahead", *amounts, *shown)
    checked = everstep("check", workplace / "set", "--condition", "canny", "--buckets", 16, "--base", tiny_base)
    assert checked.code == 0, checked.out
    assert "Pictures are trained in" in checked.out
    killed = start(*words, prepare=KillAfter(4, signal.SIGKILL))
    assert killed.wait(120) == 3, killed.output
    program = start(*words)
    assert program.wait(120) == 0, program.output
    run = Run.open(workplace / "runs/a")
    assert latest_verdict(run) is not None
    scores = run.annotation(run.find("latest").number).scores
    assert {"control_gain", "canny_f1"} <= scores.keys()
    ended = everstep("export", "a", "--for", "diffusers", "--out", "exported", "--condition", "canny")
    assert ended.code == 0, ended.out
    loaded = ControlNetModel.from_pretrained("exported")
    shapes = json.loads((run.find("latest").path / "digests.json").read_text())
    assert len(loaded.state_dict()) == len(shapes["controlnet/diffusion_pytorch_model.safetensors"])
