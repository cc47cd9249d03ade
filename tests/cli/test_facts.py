"""The verbs that print facts, for people and as JSON."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.versions import Run
from program import Ended, Program

Everstep = Callable[..., Ended]
STATUS_KEYS = {
    "state", "step", "max_steps", "last_version", "last_version_path", "next_version_step", "steps_at_risk",
    "images_per_second", "seconds_left", "next_version_in_s", "disk_peak_bytes", "disk_full_after_versions",
    "disk_full_in_s", "control",
}  # fmt: skip
ROW_KEYS = [
    "version", "step", "images_seen", "path", "reason", "size_bytes", "resumable", "parent", "labels", "pinned",
    "scores",
]  # fmt: skip


@pytest.fixture(scope="module")
def _trained(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    words = ("--optim.max-steps", 4, "--optim.batch-size", 2, "--versions.every", 2, "--sampling.pairs", 2)
    program = Program(("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, *words), folder)
    assert program.wait(240) == 0, program.output
    return folder / "runs/a"


@pytest.fixture
def trained(_trained: Path, workplace: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(_trained, workplace / "runs/a"))


def test_list_json_has_one_row_for_each_version_with_these_keys(everstep: Everstep, trained: Path) -> None:
    rows = json.loads(everstep("list", "a", "--json").out)
    assert [list(row) for row in rows] == [ROW_KEYS] * 3
    assert [(row["version"], row["step"], row["images_seen"], row["reason"]) for row in rows] == [
        (0, 0, 0, "start"),
        (1, 2, 4, "interval"),
        (2, 4, 8, "final"),
    ]
    assert [row["parent"] for row in rows] == [None, "a@0", "a@1"]
    assert rows[2]["scores"]["loss"] > 0
    assert all(Path(row["path"]).is_dir() and row["resumable"] and row["size_bytes"] > 1000 for row in rows)


def test_status_json_says_at_least_this(everstep: Everstep, trained: Path) -> None:
    status = json.loads(everstep("status", "a", "--json").out)
    assert status.keys() >= STATUS_KEYS
    assert (status["state"], status["step"], status["max_steps"]) == ("complete", 4, 4)
    assert (status["last_version"], status["steps_at_risk"]) == ("version_2", 0)
    assert status["last_version_path"] == str(trained / "version_2")


def test_tables_name_versions_steps_and_sizes(everstep: Everstep, trained: Path) -> None:
    listed = everstep("list", "a").out
    assert all(word in listed for word in ("version_0", "version_2", "start", "interval", "kB"))
    assert "complete" in everstep("status", "a").out
    shown = everstep("show", "a@1").out
    assert all(word in shown for word in ("sd15", "reason interval", "controlnet/diffusion_pytorch_model.safetensors"))


def test_show_json_is_the_manifest(everstep: Everstep, trained: Path) -> None:
    shown = json.loads(everstep("show", "a@latest", "--json").out)
    assert shown == json.loads((trained / "version_2/manifest.json").read_text())
    assert shown["inputs"] == {"condition_range": [0.0, 1.0], "target_range": [-1.0, 1.0]}
    assert shown["data"]["held_out"]
    assert shown["config"]["optim"]["max_steps"] == 4


def test_verify_exits_1_and_names_the_tensor(everstep: Everstep, trained: Path) -> None:
    assert everstep("verify", "a").code == 0
    weights = trained / "version_1/controlnet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = everstep("verify", "a@1", "--json")
    assert found.code == 1
    fault = json.loads(found.out)["faults"][0]
    assert fault["version"] == "version_1"
    assert fault["tensor"] in json.loads((trained / "version_1/digests.json").read_text())[fault["file"]]
    assert everstep("verify", "a@2").code == 0


def test_a_contact_sheet_is_drawn_at_each_version(trained: Path) -> None:
    drawn = sorted(path.name for path in (trained / "records/samples").glob("*.png"))
    assert drawn == ["version_0.png", "version_1.png", "version_2.png"]


def test_curves_are_written_for_tensorboard(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "records/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Scalars("learning_rate")[0].value == pytest.approx(1e-5)


def test_check_lists_what_it_finds_and_exits_1_where_pairs_cannot_be_used(
    everstep: Everstep, pairs_folder: Path, tmp_path: Path
) -> None:
    assert everstep("check", pairs_folder).code == 0
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/metadata.jsonl").write_text('{"file_name": "a.png", "conditioning_image": "b.png", "text": "c"}')
    found = everstep("check", tmp_path / "bad", "--json")
    assert found.code == 1
    assert [finding["file"] for finding in json.loads(found.out)["findings"]] == ["a.png", "b.png"]


def test_help_of_every_verb_is_there(everstep: Everstep) -> None:
    assert everstep("--help").code == 0
    for verb in ("train", "resume", "status", "list", "show", "verify", "sample", "stop", "check"):
        assert "Usage" in everstep(verb, "--help").out


def test_the_settings_and_flags_are_those_that_are_known(everstep: Everstep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new knob is a decision: it is written down here."""
    from everstep.config.load import known_keys

    golden = Path(__file__).parents[1] / "golden" / "settings.txt"
    assert known_keys() == golden.read_text().split()
    monkeypatch.setenv("COLUMNS", "200")
    flags = everstep("train", "--help").out
    for key in known_keys():
        assert f"--{key.replace('_', '-')}" in flags


def test_a_stopped_and_a_dead_run_are_told_apart(everstep: Everstep, trained: Path) -> None:
    live = json.loads((trained / "records/live.json").read_text())
    Run.open(trained).find("2").path.rename(trained / "elsewhere")
    assert json.loads(everstep("status", "a", "--json").out)["state"] == "stopped"
    (trained / "records/live.json").write_text(json.dumps({**live, "state": "running"}))
    assert json.loads(everstep("status", "a", "--json").out)["state"] == "died"


def test_show_says_what_was_said_of_a_version_and_what_slim_took(everstep: Everstep, trained: Path) -> None:
    assert everstep("label", "a@1", "good hands", "--note", "sky too dark").code == 0
    assert everstep("pin", "a@1").code == 0
    before = everstep("show", "a@1").out
    assert all(word in before for word in ("good hands, pinned", "sky too dark", "control_gain", "loss"))
    assert "gone" not in before
    assert everstep("slim", "a@1").code == 0
    after = everstep("show", "a@1").out
    assert "no, slim: weights only" in after
    assert any("training/optimizer.safetensors" in line and "gone" in line for line in after.splitlines())


def test_a_slim_version_is_not_resumed_and_the_way_that_works_is_named(everstep: Everstep, trained: Path) -> None:
    assert everstep("slim", "a@1").code == 0
    before = (trained / "hparams.yaml").read_bytes()
    ended = everstep("resume", "a@1", "--set", "optim.max_steps=9")
    assert ended.code == 2, ended.out
    assert "version_1 is slim: its weights are there, but not what a resume needs" in ended.out
    assert (trained / "hparams.yaml").read_bytes() == before
    way = ended.out.rpartition("everstep train ")[2].split()
    other = everstep("train", *way, "--optim.max-steps", 1)
    assert other.code == 0, other.out
    assert "optimizer and data start anew" in other.out
