"""everstep diff: settings, lineage, weights; on real runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from program import Ended

Everstep = Callable[..., Ended]
WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"


def test_json_has_sides_settings_facts_lineage_and_weights(everstep: Everstep, branched: Path) -> None:
    found = json.loads(everstep("diff", "a@2", "a@4", "--json").out)
    assert list(found) == ["versions", "settings", "facts", "lineage", "errors", "weights"]
    assert [(side["version"], side["step"], side["images_seen"]) for side in found["versions"]] == [
        ("a@2", 4, 8),
        ("a@4", 6, 12),
    ]
    assert found["settings"] == {"optim.max_steps": [4, 6], "optim.learning_rate": [0.001, 0.002]}
    assert found["facts"].keys() == {"code.command"}
    assert found["lineage"] == {"relation": "related", "common": f"{branched}/a@1", "from_first": 1, "from_second": 2}


def test_weights_are_measured_as_numpy_does(everstep: Everstep, branched: Path) -> None:
    found = json.loads(everstep("diff", "a@0", "a@4", "--json").out)["weights"]
    one, other = (load_file(branched / f"a/version_{number}" / WEIGHTS) for number in (0, 4))
    assert sum(block["tensors"] for block in found["blocks"].values()) == len(one)
    assert found["blocks"].keys() == {
        "conv_in", "time_embedding", "controlnet_cond_embedding", "down_blocks.0", "down_blocks.1",
        "controlnet_down_blocks", "mid_block", "controlnet_mid_block",
    }  # fmt: skip
    for block, told in found["blocks"].items():
        flat = [np.concatenate([w[n].ravel() for n in w if f"{n}.".startswith(f"{block}.")]) for w in (one, other)]
        assert told["norm_first"] == pytest.approx(np.linalg.norm(flat[0]), rel=1e-5)
        assert told["norm_second"] == pytest.approx(np.linalg.norm(flat[1]), rel=1e-5)
        assert told["norm_difference"] == pytest.approx(np.linalg.norm(flat[0] - flat[1]), rel=1e-5)
    assert found["blocks"]["controlnet_down_blocks"]["relative"] is None  # zero at first
    assert found["whole"]["relative"] > 0
    assert not found["identical"]


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("a@1", "a@4", "a@4 went on from a@1, over 2 versions."),
        ("a@3", "a@1", "a@3 went on from a@1, over one version."),
        ("a@2", "a@3", "Neither went on from the other; both go back to"),
    ],
)
def test_lineage_in_words(everstep: Everstep, branched: Path, first: str, second: str, sentence: str) -> None:
    assert sentence in everstep("diff", first, second).out


def test_across_runs_weights_settings_and_origin_are_told(everstep: Everstep, branched: Path) -> None:
    """b@0 has the very weights of a@2."""
    ended = everstep("diff", "a@2", "b@0")
    assert "Weights: identical" in ended.out
    assert "b@0 went on from a@2, over one version. Between the runs only weights were taken over." in ended.out
    assert "optim.start_from" in ended.out
    found = json.loads(everstep("diff", "a@2", "b@0", "--json").out)
    assert found["weights"]["identical"]
    assert found["weights"]["whole"]["equal"] == found["weights"]["whole"]["tensors"]
    assert found["settings"]["optim.ema_decay"] == [0.0, 0.9]


def test_a_damaged_version_is_named(everstep: Everstep, branched: Path) -> None:
    weights = branched / "a/version_2" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ended = everstep("diff", "a@1", "a@2")
    assert ended.code == 1
    assert "version_2" in ended.out
    assert "fails its digest in tensor" in ended.out


def test_one_version_is_not_compared_with_itself(everstep: Everstep, branched: Path) -> None:
    ended = everstep("diff", "a@2", "a@version_2")
    assert ended.code == 2
    assert "a@2 is named twice" in ended.out


def test_it_loads_no_torch(branched: Path) -> None:
    asked = (
        "import sys; from everstep.cli.main import run; code = run(sys.argv[1:]);"
        "sys.exit(code or 10 * ('torch' in sys.modules or 'diffusers' in sys.modules))"
    )
    for words in (("diff", "a@1", "b@1"), ("list", "a", "--tree")):
        ended = subprocess.run(
            [sys.executable, "-c", asked, *words], cwd=branched.parent, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_what_each_denoises_better_is_told_where_both_were_measured(everstep: Everstep, branched: Path) -> None:
    assert "Error on held-out pairs: " in everstep("diff", "a@0", "a@4").out
    found = json.loads(everstep("diff", "a@0", "a@4", "--json").out)["errors"]
    assert found["low"] <= found["less"] <= found["high"]
    (branched / "a/records/errors/version_4.json").unlink()
    assert json.loads(everstep("diff", "a@0", "a@4", "--json").out)["errors"] is None
    assert "Error on held-out pairs" not in everstep("diff", "a@0", "a@4").out
