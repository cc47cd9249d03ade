"""The law of resuming holds for pairs in tables and in shards too."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import laid_out
from everstep.versions import Run
from law import SETTINGS, KillAfter, outcome
from program import Program


def pairs_of(folder: Path) -> list[laid_out.Brought]:
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    return [
        laid_out.Brought(
            (folder / line["file_name"]).read_bytes(), (folder / line["conditioning_image"]).read_bytes(), line["text"]
        )
        for line in lines
    ]


@pytest.mark.parametrize("layout", [pytest.param("parquet", marks=pytest.mark.slow), "shards"])
def test_a_kill_and_a_stop_change_nothing(
    layout: str, tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> None:
    (workplace / "data").mkdir()
    data = laid_out.LAYOUTS[layout](workplace / "data", pairs_of(pairs_folder))
    words = ("train", "--base", tiny_base, "--data", data, *SETTINGS)
    assert start(*words, "--run", "straight").wait() == 0
    for step, number in ((7, signal.SIGKILL), (19, signal.SIGTERM)):
        program = start(*words, "--run", "a", prepare=KillAfter(step, number))
        assert program.wait() == 3, program.output
    assert Run.open(workplace / "runs/a").find("latest").step == 19
    program = start(*words, "--run", "a")
    assert program.wait() == 0, program.output
    assert outcome(workplace / "runs/a") == outcome(workplace / "runs/straight")
