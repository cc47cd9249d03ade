"""The contract of `train` and `resume`: what starts, what goes on, what is refused, and what is said."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.config.load import read_hparams
from everstep.versions import Run
from program import Ended

Everstep = Callable[..., Ended]


def replaced(words: tuple[object, ...], **values: object) -> tuple[object, ...]:
    """The line with the values of some flags exchanged; a flag may be given only once."""
    line = list(words)
    for flag, value in values.items():
        line[line.index(f"--{flag.replace('_', '.')}") + 1] = value
    return tuple(line)


def test_the_first_version_is_made_before_the_first_step_and_the_last_at_the_end(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    ended = everstep(*words, "--optim.max-steps", 5)
    assert ended.code == 0, ended.out
    run = Run.open(workplace / "runs/a")
    assert [(version.step, version.reason) for version in run.versions()] == [
        (0, "start"),
        (2, "interval"),
        (4, "interval"),
        (5, "final"),
    ]
    assert "version_0: step 0, 0 images" in ended.out
    assert str(run.find("latest").path) in ended.out


def test_every_setting_is_on_disk_before_the_first_step(
    everstep: Everstep, words: tuple[object, ...], workplace: Path, tiny_base: Path
) -> None:
    everstep(*words, "--optim.max-steps", 1)
    config = read_hparams(workplace / "runs/a/hparams.yaml")
    assert config.base.path == str(tiny_base)
    assert config.data.resolution == 16
    assert (workplace / "runs/a/version_0/hparams.yaml").read_text() == (workplace / "runs/a/hparams.yaml").read_text()


def test_the_same_line_goes_on_and_then_says_that_it_is_complete(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    everstep(*words, "--optim.max-steps", 4)
    shutil.rmtree(workplace / "runs/a/version_2")
    again = everstep(*words, "--optim.max-steps", 4)
    assert again.code == 0
    assert "Resumed from version_1 (step 2, 4 images seen), every digest verified" in again.out
    assert "not restored: nothing" in again.out
    assert Run.open(workplace / "runs/a").find("latest").number == 3
    done = everstep(*words, "--optim.max-steps", 4)
    assert done.code == 0
    assert "a is already complete: version_3 is at step 4 of 4" in done.out
    assert "PyTorch" not in done.out


def test_other_settings_are_refused_with_both_ways_on_and_both_work(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    everstep(*words, "--optim.max-steps", 2)
    before = (workplace / "runs/a/hparams.yaml").read_text()
    refused = everstep(*words, "--optim.max-steps", 4, "--optim.learning-rate", "5e-6")
    assert refused.code == 2
    assert "optim.max_steps      2 -> 4" in refused.out
    assert "optim.learning_rate  1e-05 -> 5e-06" in refused.out
    assert (workplace / "runs/a/hparams.yaml").read_text() == before

    ways = [line.partition(": ")[2].strip().removeprefix("everstep ") for line in refused.out.splitlines()[-2:]]
    changed = everstep(*ways[0].split())
    assert changed.code == 0, changed.out
    assert "changed on purpose" in changed.out
    last = Run.open(workplace / "runs/a").find("latest")
    assert last.step == 4
    first_after = Run.open(workplace / "runs/a").versions()[2]
    assert first_after.parent is not None
    assert first_after.parent.changes["optim.learning_rate"] == [1e-05, 5e-06]

    other = everstep(*ways[1].split())
    assert other.code == 0, other.out
    assert Run.open(workplace / "runs/a-2").find("latest").step == 4


def test_what_cannot_change_within_a_run_is_refused_with_the_reason(
    everstep: Everstep, words: tuple[object, ...]
) -> None:
    everstep(*words, "--optim.max-steps", 1)
    refused = everstep("resume", "a", "--set", "optim.seed=3")
    assert refused.code == 2
    assert "optim.seed cannot change within a run: order, noise and timesteps are functions of it" in refused.out
    again = everstep(*words, "--optim.max-steps", 1, "--optim.seed", 3)
    assert "under way" not in again.out
    assert "To start another training: everstep train" in again.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --run x --optim.max-step 3", "Did you mean --optim.max-steps?"),
        ("train --run x --set optim.max_step=3", "Did you mean optim.max_steps?"),
        ("train --run x --optim.max-steps many", "many"),
        ("train --run x --set data.crop=top", "data.crop is 'top', but should be 'centre' or 'random'."),
        ("train --run x --versions.every often", "neither steps nor time"),
        ("train --run x --set optim.seed", "write it as key=value"),
        ("train nothing.yaml", "there is no such file, nor a preset of this name (circles"),
        ("train --run x --data nowhere", "is not a folder"),
        ("train --run x --base nowhere", "is not a folder"),
        ("train --run x --from nowhere", "neither RUN@VERSION nor a folder"),
        ("train --run x --from nowhere@3", "There is no run runs/nowhere"),
        ("train --run x@3", "is no name for a run"),
        ("train --run x --data.resolution 66", "needs a multiple of 16"),
        ("resume x", "There is no run runs/x"),
        ("status x", "There is no run runs/x"),
        ("stop x", "There is no run runs/x"),
        ("sample x --condition a.png --prompt p", "There is no run runs/x"),
        ("frobnicate", "frobnicate"),
    ],
)
def test_wrong_input_exits_2_says_what_is_wrong_and_leaves_nothing(
    everstep: Everstep, workplace: Path, line: str, said: str
) -> None:
    ended = everstep(*line.split())
    assert ended.code == 2, ended.out
    assert said in " ".join(ended.out.split()) or said in ended.out
    assert list(workplace.iterdir()) == []


def test_a_yaml_file_flags_variables_and_assignments_win_in_this_order(
    everstep: Everstep, words: tuple[object, ...], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "optim: {max_steps: 1, learning_rate: 1.0e-3, warmup_steps: 3, beta1: 0.5, weight_decay: 0.3}\n"
    (workplace / "mine.yaml").write_text(settings)
    monkeypatch.setenv("EVERSTEP_OPTIM_LEARNING_RATE", "2e-3")
    monkeypatch.setenv("EVERSTEP_OPTIM_WARMUP_STEPS", "4")
    monkeypatch.setenv("EVERSTEP_OPTIM_BETA1", "0.6")
    ended = everstep(
        *words, "--config", "mine.yaml", "--optim.warmup-steps", 5, "--optim.beta1", 0.7, "--set", "optim.beta1=0.8"
    )
    assert ended.code == 0, ended.out
    optim = read_hparams(workplace / "runs/a/hparams.yaml").optim
    assert (optim.weight_decay, optim.learning_rate, optim.warmup_steps, optim.beta1) == (0.3, 2e-3, 5, 0.8)


def test_an_unknown_key_in_a_file_is_an_error_with_a_suggestion(everstep: Everstep, workplace: Path) -> None:
    (workplace / "mine.yaml").write_text("optim: {stepz: 1, learning_rat: 1}\ntrain: {x: 1}\n")
    ended = everstep("train", "mine.yaml")
    assert ended.code == 2
    assert "mine.yaml: there is no setting optim.learning_rat. Did you mean optim.learning_rate?" in ended.out
    assert "mine.yaml: there is no setting train.x." in ended.out


@pytest.mark.fault("pairs that cannot be used")
def test_bad_pairs_are_refused_before_the_base_is_loaded_and_no_run_is_made(
    everstep: Everstep, words: tuple[object, ...], pairs_folder: Path, workplace: Path
) -> None:
    bad = workplace / "bad"
    shutil.copytree(pairs_folder, bad)
    (bad / "3.png").write_bytes(b"")
    (bad / "5_outline.png").unlink()
    refused = everstep(*replaced(words, data=bad))
    assert refused.code == 2
    assert "2 of 30 pairs" in refused.out
    assert "line 4: 3.png" in refused.out
    assert "line 6: 5_outline.png: is missing" in refused.out
    assert "PyTorch" not in refused.out
    assert not (workplace / "runs").exists()
    skipped = everstep(*replaced(words, data=bad), "--data.bad-pairs", "skip", "--optim.max-steps", 1)
    assert skipped.code == 0, skipped.out
    manifest = Run.open(workplace / "runs/a").find("latest").manifest
    assert list(manifest["data"]["skipped"]) == ["line 4", "line 6"]


@pytest.mark.fault("pairs that changed between two starts")
def test_changed_pairs_are_refused_until_it_is_asked_for(
    everstep: Everstep, words: tuple[object, ...], pairs_folder: Path, workplace: Path
) -> None:
    data = workplace / "data"
    shutil.copytree(pairs_folder, data)
    assert everstep(*replaced(words, data=data), "--optim.max-steps", 1).code == 0
    lines = (data / "metadata.jsonl").read_text().splitlines()
    (data / "metadata.jsonl").write_text("\n".join(lines[:-2]))
    assert everstep("resume", "a", "--set", "optim.max_steps=2").code == 2
    refused = everstep("resume", "a", "--set", "optim.max_steps=2")
    assert "have changed since version_1 was made" in refused.out
    way = refused.out.splitlines()[-1].partition("everstep ")[2].split()
    ended = everstep(*way, "--set", "optim.max_steps=2")
    assert ended.code == 0, ended.out


@pytest.mark.fault("another base under the same path")
def test_another_base_under_the_same_path_is_refused(
    everstep: Everstep, words: tuple[object, ...], tiny_base: Path, workplace: Path
) -> None:
    base = workplace / "base"
    shutil.copytree(tiny_base, base)
    assert everstep(*replaced(words, base=base), "--optim.max-steps", 1).code == 0
    weights = base / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused = everstep("resume", "a", "--set", "optim.max_steps=2")
    assert refused.code == 2
    assert "The base is not the one that version_1 was trained on" in refused.out


@pytest.mark.fault("newest version damaged before a resume")
def test_a_damaged_newest_version_is_set_aside_and_the_one_before_is_used(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    everstep(*words, "--optim.max-steps", 4)
    weights = workplace / "runs/a/version_2/controlnet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = everstep("verify", "a")
    assert found.code == 1
    assert "version_2: damaged" in found.out
    again = everstep(*words, "--optim.max-steps", 4)
    assert again.code == 0, again.out
    assert "version_2 is damaged: it has damage: 1 of" in again.out
    assert "Resumed from version_1" in again.out
    assert len(list((workplace / "runs/a/quarantine").iterdir())) == 1
    assert [version.number for version in Run.open(workplace / "runs/a").versions()] == [0, 1, 3]


def test_going_back_to_a_version_keeps_the_later_ones(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    everstep(*words, "--optim.max-steps", 4)
    ended = everstep("resume", "a@1")
    assert ended.code == 0, ended.out
    versions = Run.open(workplace / "runs/a").versions()
    assert [(version.number, version.step) for version in versions] == [(0, 0), (1, 2), (2, 4), (3, 4)]
    assert versions[3].parent is not None
    assert versions[3].parent.version == 1
    digests = [(version.path / "digests.json").read_text() for version in versions]
    assert digests[2] == digests[3]


def test_a_run_can_start_from_a_version_and_from_a_folder(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    everstep(*words, "--optim.max-steps", 2)
    name = "controlnet/diffusion_pytorch_model.safetensors"
    wanted = json.loads((workplace / "runs/a/version_1/digests.json").read_text())[name]
    for run, start in (("b", "a@latest"), ("c", "runs/a@1"), ("d", "runs/a/version_1/controlnet")):
        ended = everstep(*replaced(words, run=run), "--optim.max-steps", 1, "--from", start)
        assert ended.code == 0, ended.out
        first = Run.open(workplace / "runs" / run).find("0")
        assert json.loads((first.path / "digests.json").read_text())[name] == wanted
        assert first.step == 0
    parent = Run.open(workplace / "runs/b").find("0").parent
    assert parent is not None
    assert parent.version == 1


@pytest.mark.fault("second trainer on one run")
def test_the_program_starts_as_a_module_and_through_its_script() -> None:
    for command in ([sys.executable, "-m", "everstep"], [str(Path(sys.executable).with_name("everstep"))]):
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == "0.1.0"


def test_a_line_that_names_the_latest_version_of_another_run_restarts_when_that_run_has_gone_on(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    assert everstep(*words, "--optim.max-steps", 2).code == 0
    line = (*replaced(words, run="b"), "--optim.max-steps", 2, "--from", "a@latest")
    assert everstep(*line).code == 0
    begun_with = read_hparams(workplace / "runs/b/hparams.yaml").optim.start_from
    assert everstep("resume", "a", "--set", "optim.max_steps=4").code == 0
    again = everstep(*line)
    assert again.code == 0, again.out
    assert "b is already complete" in again.out
    assert read_hparams(workplace / "runs/b/hparams.yaml").optim.start_from == begun_with
    named = everstep(*line[:-1], "a@2")
    assert named.code == 2
    assert "optim.start_from cannot change within a run" in named.out
