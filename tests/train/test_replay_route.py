"""From which version a replay begins, along which line, and what it refuses before anything is loaded."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everstep.models.files import OPTIMIZER
from everstep.versions import Run
from forging import seal
from law import SETTINGS
from program import Ended

Everstep = Callable[..., Ended]


def test_what_went_back_is_replayed_along_its_own_line(everstep: Everstep, copied: Run) -> None:
    changed = ("--set", "optim.learning_rate=5e-4", "--set", "optim.max_steps=20")
    assert everstep("resume", "a@1", *changed).code == 0  # version_5: steps 11 to 20, written over the lines of then
    again = ("--set", "optim.ema_decay=0.8", "--set", "optim.batch_size=3", "--set", "optim.max_steps=24")
    assert everstep("resume", "a", *again).code == 0  # version_6: steps 21 to 24
    for number, told in ((5, 10), (6, 4), (1, 10), (2, 0), (3, 0), (4, 0)):
        ended = everstep("replay", f"a@{number}")
        assert ended.code == 0, ended.out
        assert (f"loss, rate and examples of {told} steps" in ended.out) == (told > 0)
        assert ("10 of 10 steps have no line of theirs" in ended.out) == (told == 0)
    ended = everstep("replay", "a@6", "--from", "a@1")  # both changes on the way
    assert ended.code == 0, ended.out
    assert "training again from version_1 gives (14 steps)" in ended.out
    ended = everstep("replay", "a@4", "--from", "a@0")
    assert ended.code == 0, ended.out
    assert "examples of 10 steps" in ended.out
    assert "30 of 40 steps have no line" in ended.out

    ended = everstep("replay", "a@6", "--from", "a@3")
    assert ended.code == 2
    assert "version_6 did not come from version_3" in ended.out
    assert "--from" in ended.out

    shutil.rmtree(copied.layout.version(5))
    ended = everstep("replay", "a@6", "--from", "a@1")
    assert ended.code == 2
    assert "Between version_1 and version_6 optim." in ended.out
    assert "at a version that is not there any more" in ended.out


def test_where_the_parent_is_slim_or_gone_the_nearest_way_is_told_and_works(everstep: Everstep, copied: Run) -> None:
    assert everstep("slim", "a@2").code == 0
    refused = everstep("replay", "a@3")
    assert refused.code == 2
    assert "version_3 went on from version_2, which is slim" in refused.out
    shutil.rmtree(copied.layout.version(2))
    gone = everstep("replay", "a@3")
    assert gone.code == 2
    assert "version_3 went on from version_2, which is not there any more" in gone.out
    for ended in (refused, gone):
        way = ended.out.strip().splitlines()[-1]
        assert "The nearest to begin from is version_1, 20 steps before: everstep replay " in way
    ended = everstep(*shlex.split(way.split(": everstep ")[1]))
    assert ended.code == 0, ended.out
    assert "examples of 20 steps" in ended.out


def test_a_start_that_was_made_slim_is_made_anew(everstep: Everstep, copied: Run) -> None:
    for number in range(4):
        assert everstep("slim", f"a@{number}").code == 0
    ended = everstep("replay", "a@0")
    assert ended.code == 0, ended.out
    assert "It is slim: only its weights" in ended.out
    ended = everstep("replay", "a@1")
    assert ended.code == 0, ended.out
    assert "training again from the start gives (10 steps)" in ended.out
    ended = everstep("replay", "a@4")
    assert ended.code == 2
    assert "The nearest to begin from is version_0" in ended.out
    assert "is slim" in everstep("replay", "a@4", "--from", "a@3").out
    shutil.rmtree(copied.layout.version(0))
    ended = everstep("replay", "a@4")
    assert ended.code == 2
    assert "No earlier version of its line is whole" in ended.out


def test_a_run_that_began_with_another_is_replayed_from_there(
    everstep: Everstep, copied: Run, tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("train", "--run", "b", "--base", tiny_base, "--data", pairs_folder, *SETTINGS, "--from", "a@2")
    assert everstep(*words, "--set", "optim.max_steps=3").code == 0
    for number in (0, 1):
        ended = everstep("replay", f"b@{number}")
        assert ended.code == 0, ended.out
    shutil.rmtree(copied.layout.version(2))
    ended = everstep("replay", "b@0")
    assert ended.code == 2
    assert "version_0 began with version_2 of " in ended.out
    assert "which is not there any more" in ended.out


def test_other_base_and_other_data_are_refused(everstep: Everstep, copied: Run) -> None:
    seal(copied.version(2), lambda facts: facts["data"].update(fingerprint="xxh3-128:0"))
    seal(copied.version(3), lambda facts: facts["base"].update(digest="xxh3-128:0"))
    ended = everstep("replay", "a@2")
    assert ended.code == 2
    assert "have changed since version_2 was made, so it cannot be replayed" in ended.out
    seal(copied.version(3), lambda facts: facts["parent"].update(manifest_digest=copied.version(2).manifest_digest))
    ended = everstep("replay", "a@3")
    assert ended.code == 2
    assert "The base is not the one that version_3 was trained on" in ended.out


def break_(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damage_is_told_apart_from_difference(everstep: Everstep, copied: Run) -> None:
    break_(copied.layout.version(2) / OPTIMIZER)
    ended = everstep("replay", "a@2")
    assert ended.code == 1
    assert "version_2 has damage: 1 of 600 tensors fails its digest" in ended.out
    ended = everstep("replay", "a@3")
    assert ended.code == 2
    assert "version_3 cannot be replayed from it" in ended.out


def test_versions_of_other_programs_and_other_runs_are_refused(everstep: Everstep, copied: Run) -> None:
    seal(copied.version(4), lambda facts: facts.pop("config"))
    ended = everstep("replay", "a@4")
    assert ended.code == 2
    assert "was not made by everstep train" in ended.out
    for spec in ("b@1", "1"):
        ended = everstep("replay", "a@3", "--from", spec)
        assert ended.code == 2
        assert "write it as a@M" in ended.out


@pytest.mark.parametrize("words", ["a@9", "a@3 --from a@9", "a@2"])
def test_what_is_refused_is_refused_before_pytorch_is_loaded(copied: Run, workplace: Path, words: str) -> None:
    (copied.layout.version(1) / OPTIMIZER).unlink()
    asked = (
        "import sys; from everstep.cli.main import run; code = run(['replay', *sys.argv[1:]]);"
        "sys.exit('torch' in sys.modules or code != 2)"
    )
    ended = subprocess.run([sys.executable, "-c", asked, *words.split()], cwd=workplace, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
