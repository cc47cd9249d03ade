"""What is told before a training starts, and what it comes to."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bases import write_base
from everstep.models.files import AVERAGED, OPTIMIZER, WEIGHTS
from everstep.units import size
from everstep.versions import Run
from program import Ended

Everstep = Callable[..., Ended]
SMALL = ("--optim.batch-size", 2, "--sampling.pairs", 0, "--scoring.overhead", 0)
SMALL_FILES_BYTES = 100_000  # what is allowed for them together, and not used up


@pytest.fixture
def words(tiny_base: Path, pairs_folder: Path) -> tuple[object, ...]:
    return ("--run", "a", "--base", tiny_base, "--data", pairs_folder, *SMALL, "--versions.every", 2)


def planned(everstep: Everstep, *words: object) -> dict[str, object]:
    ended = everstep("plan", *words, "--quick", "--json")
    assert ended.code == 0, ended.out
    facts: dict[str, object] = json.loads(ended.out)
    return facts


@pytest.mark.parametrize(("like", "decay"), [("sd15", 0), ("sd21", 0.9)])
def test_versions_weigh_what_was_told(
    everstep: Everstep, tmp_path: Path, pairs_folder: Path, workplace: Path, like: str, decay: float
) -> None:
    base = write_base(tmp_path / "base", like)
    words = ("--run", "a", "--base", base, "--data", pairs_folder, *SMALL, "--optim.ema-decay", decay)
    told = planned(everstep, *words, "--optim.max-steps", 1)
    assert not (workplace / "runs").exists()
    ended = everstep("train", *words, "--optim.max-steps", 1)
    assert ended.code == 0, ended.out
    version = Run.open(workplace / "runs/a").find("0")
    tensor_files = [WEIGHTS, OPTIMIZER, *([AVERAGED] if decay else [])]
    for path in tensor_files:
        assert told["file_bytes"][path] == (version.path / path).stat().st_size  # type: ignore[index]
    for key, real in (("version_bytes", version.size_bytes), ("slim_bytes", version.slim_bytes)):
        assert real <= told[key] <= real + SMALL_FILES_BYTES  # type: ignore[operator]
    assert told["versions"] == 2


def test_an_interval_that_will_be_found_is_expected_with_its_reason(
    everstep: Everstep, words: tuple[object, ...]
) -> None:
    line = (*words[:-1], "auto", "--versions.bytes-a-day", "50MB", "--optim.max-steps", 10)
    told = planned(everstep, *line)
    interval, weighs = told["interval"], told["version_bytes"]
    assert isinstance(interval, dict)
    assert isinstance(weighs, int)
    assert interval["seconds"] == pytest.approx(weighs * 86_400 / 50e6)
    ended = everstep("plan", *line, "--quick")
    assert "as often as costs least, found while it trains; from sizes alone, every" in ended.out
    assert "and a day may have 50.0 MB (versions.bytes_a_day)" in ended.out
    assert planned(everstep, *words, "--optim.max-steps", 10)["interval"] is None


def test_what_the_policy_holds_is_the_most_that_was_ever_there(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    told = planned(everstep, *words, "--optim.max-steps", 24, "--keep.last", 1, "--keep.every", "4 versions")
    ended = everstep("train", *words, "--optim.max-steps", 24, "--keep.last", 1, "--keep.every", "4 versions")
    assert ended.code == 0, ended.out
    run = Run.open(workplace / "runs/a")
    whole, slim = run.find("latest").size_bytes, run.find("latest").slim_bytes
    most = 2 * whole + 3 * slim  # version_12 is there, version_11 has not gone yet, 0, 4 and 8 are slim
    assert most <= told["policy_bytes"] <= most + 5 * SMALL_FILES_BYTES  # type: ignore[operator]
    *older, last = (version.number for version in run.versions())
    assert set(older) <= {0, 4, 8, 12}
    assert last <= 12  # fewer where the disk could not keep up
    assert "One version is" in ended.out.split("Loading PyTorch")[0]
    assert "the policy holds about" in ended.out


def test_steps_images_epochs_and_pairs_are_told(everstep: Everstep, words: tuple[object, ...]) -> None:
    told = planned(everstep, *words, "--optim.max-steps", 29, "--optim.accumulation-steps", 3)
    assert (told["steps"], told["images_per_step"], told["images_seen"], told["versions"]) == (29, 6, 174, 16)
    assert (told["training_pairs"], told["held_out_pairs"], told["epochs"]) == (27, 3, 174 / 27)
    assert (told["slots"], told["fits"], told["goes_on_from"]) == (3, True, None)
    assert told["arena_bytes"] >= 3 * told["file_bytes"][WEIGHTS]  # type: ignore[index,operator]
    shown = everstep("plan", *words, "--optim.max-steps", 29, "--quick")
    for part in ("29 of 2 images", "27 to train on, 3 held out", "One version is", "3 slots"):
        assert part in shown.out


def test_what_a_step_takes_is_told_with_its_parts(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = planned(everstep, *words)["memory"]
    assert isinstance(memory, dict)
    stays = ("base", "weights", "moments", "averaged", "libraries", "gradients", "batch")
    assert memory["device"] == "cpu"
    assert memory["step_bytes"] == sum(memory[f"{part}_bytes"] for part in stays)
    assert memory["peak_bytes"] == max(memory["step_bytes"], memory["loading_bytes"])
    assert f"a step takes {size(memory['step_bytes'])} at its most (base " in everstep("plan", *words, "--quick").out
    monkeypatch.setattr("everstep.launch.plan.available_bytes", lambda: memory["peak_bytes"] - 2_000_000)
    scarce = everstep("plan", *words, "--quick")
    assert "2.0 MB more than there is to spare" in scarce.out
    assert "versions are written while training waits" in scarce.out
    assert (scarce.code, "fits with" in scarce.out) == (1, True)


def test_a_step_of_a_network_that_is_not_known_is_not_told(
    everstep: Everstep, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstep.launch.plan.step_memory", lambda config, base, start: None)
    assert planned(everstep, *words)["memory"] is None
    assert "what a step takes cannot be told" in everstep("plan", *words, "--quick").out


def test_a_run_that_is_there_is_counted_in(everstep: Everstep, words: tuple[object, ...], workplace: Path) -> None:
    line = (*words, "--optim.max-steps", 6, "--keep.everything")
    assert everstep("train", *line).code == 0
    for last in ("version_3", "version_2"):
        (workplace / "runs/a" / last).rename(workplace / last)
    told = planned(everstep, *line)
    run = Run.open(workplace / "runs/a")
    there = sum(path.stat().st_size for version in run.versions() for path in version.path.rglob("*") if path.is_file())
    assert (told["goes_on_from"], told["versions"], told["images_seen"]) == ("version_1", 2, 12)
    assert told["there_bytes"] == pytest.approx(there, abs=2 * 20_000)  # give or take the manifests
    assert told["next_two_bytes"] == 2 * told["version_bytes"]  # type: ignore[operator]
    other = everstep("plan", *words, "--optim.max-steps", 9, "--quick")
    assert "a-2, new, because runs/a is there with other settings" in other.out


def test_weights_to_start_from_tell_their_own_size(
    everstep: Everstep, words: tuple[object, ...], workplace: Path
) -> None:
    assert everstep("train", *words, "--optim.max-steps", 1).code == 0
    other = ("--run", "b", *words[2:])
    sizes = planned(everstep, *words)["file_bytes"]
    folder = workplace / "runs/a/version_1/controlnet"
    for start in ("a@1", folder):
        assert planned(everstep, *other, "--from", start)["file_bytes"][WEIGHTS] == sizes[WEIGHTS]  # type: ignore[index]
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    told = planned(everstep, *other, "--from", folder)  # its config.json is left
    assert told["file_bytes"][OPTIMIZER] == sizes[OPTIMIZER]  # type: ignore[index]
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    refused = everstep("plan", *other, "--from", folder, "--quick")
    assert (refused.code, "is damaged, or was not downloaded to its end" in refused.out) == (2, True)


def test_what_would_be_refused_by_train_is_refused_by_plan(everstep: Everstep, words: tuple[object, ...]) -> None:
    assert everstep("plan", "--set", "optim.max_step=3").code == 2
    assert everstep("plan", "--data", "nowhere").code == 2
    assert everstep("plan", *words, "--data.resolution", 17, "--quick").code == 2


# --- a disk that is too small ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(workplace: Path) -> Iterator[Path]:
    """runs/ is a disk with room for one version and no more."""
    folder = workplace / "runs"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_too_small_for_two_versions_is_refused_before_anything_is_written(
    everstep: Everstep, words: tuple[object, ...], small_disk: Path, workplace: Path
) -> None:
    told = everstep("plan", *words, "--quick")
    assert told.code == 1
    assert "refused" in told.out
    refused = everstep("train", *words, "--optim.max-steps", 4)
    assert refused.code == 2
    assert "the first two versions need" in refused.out
    assert "runs/ has 819.2 kB free" in refused.out
    assert "--run /PATH/TO/DISK/a" in refused.out
    assert "PyTorch" not in refused.out
    assert list(small_disk.iterdir()) == []
    elsewhere = everstep("train", "--run", workplace / "other/a", *words[2:], "--optim.max-steps", 2)
    assert elsewhere.code == 0, elsewhere.out


def test_a_run_whose_disk_has_filled_up_is_not_gone_on_with_and_nothing_of_it_changes(
    everstep: Everstep, words: tuple[object, ...], small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert everstep("train", *words, "--optim.max-steps", 4).code == 0
    hparams = (small_disk / "a/hparams.yaml").read_text()
    with (small_disk / "ballast").open("wb") as file:
        free = subprocess.run(["df", "-k", "--output=avail", small_disk], capture_output=True, text=True, check=True)
        file.write(bytes((int(free.stdout.split()[1]) - 300) << 10))
    refused = everstep("resume", "a", "--set", "optim.max_steps=8")
    assert refused.code == 2
    assert "the next two versions need" in refused.out
    assert "everstep prune" in refused.out
    assert (small_disk / "a/hparams.yaml").read_text() == hparams
    (small_disk / "ballast").unlink()
    assert everstep("resume", "a", "--set", "optim.max_steps=8").code == 0
