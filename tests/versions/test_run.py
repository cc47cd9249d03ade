"""A version is what was committed, or it is not offered."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, tzinfo
from pathlib import Path

import numpy as np
import pytest
from drafts import OPTIMIZER, WEIGHTS, arrays, draft
from safetensors import safe_open

from everstep.errors import DamageFound, UserError
from everstep.versions import Course, Run, read_small, read_tensors, rows, status, verify, write_annotation


def test_what_is_committed_is_read_back_bit_for_bit(run: Run) -> None:
    for version in run.versions():
        for path, named in arrays(version.step).items():
            loaded = read_tensors(version, path)
            assert loaded.keys() == named.keys()
            for name, array in named.items():
                assert loaded[name].shape == array.shape
                assert bytes(loaded[name].buffer) == array.tobytes()
        assert json.loads(read_small(version, "training/state.json")) == {"step": version.step}
        assert verify(version) == []


def test_the_safetensors_library_reads_our_files_and_data_starts_on_a_page(run: Run) -> None:
    path = run.find("latest").path / WEIGHTS
    with safe_open(path, framework="numpy") as file:
        for name, array in arrays(20)[WEIGHTS].items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 4096 == 0


def test_the_header_is_the_same_at_every_step(run: Run) -> None:
    starts = {(version.path / OPTIMIZER).read_bytes()[:4096] for version in run.versions()}
    assert len(starts) == 1


def test_versions_are_found_by_number_name_place_and_label(run: Run) -> None:
    write_annotation(run.layout, 1, labels=("good hands",))
    found = {spec: run.find(spec).number for spec in ("latest", "1", "version_1", "-1", "-3", "good hands")}
    assert found == {"latest": 2, "1": 1, "version_1": 1, "-1": 2, "-3": 0, "good hands": 1}


@pytest.mark.parametrize("spec", ["7", "-4", "-0", "version_9", "version_01", ""])
def test_a_version_that_is_not_there_is_an_error_that_says_what_is(run: Run, spec: str) -> None:
    with pytest.raises(UserError, match="3 versions from version_0 to version_2"):
        run.find(spec)


def test_the_best_version_goes_by_its_score_and_is_not_guessed(run: Run) -> None:
    with pytest.raises(UserError, match="names no score"):
        run.find("best")
    run.tell_best_score("control_gain")
    with pytest.raises(UserError, match="no version with a score control_gain yet"):
        run.find("best")
    write_annotation(run.layout, 1, scores={"control_gain": 0.3})
    write_annotation(run.layout, 0, scores={"control_gain": 0.2, "loss": 9.0})
    assert run.find("best").number == 1


def test_a_mistyped_run_is_an_error_that_names_the_near_one(run: Run) -> None:
    with pytest.raises(UserError, match=r"did you mean r\?$"):
        Run.open(run.path.parent / "rr")


def test_a_run_is_not_made_over_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="is not empty"):
        Run.create(tmp_path / "photos", "a: 1\n")
    assert [entry.name for entry in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_folders_of_other_names_break_nothing(run: Run) -> None:
    (run.path / "version_1").rename(run.path / "version_best")
    (run.path / "version_007").mkdir()
    (run.path / "notes").mkdir()
    (run.path / "version_9").write_text("a file")
    assert [version.number for version in run.versions()] == [0, 2]
    assert run.commit(draft(30)).number == 3  # the log remembers number 1, and the file's name is no version's


def test_numbers_are_never_used_again(run: Run) -> None:
    said: list[str] = []
    flip(run.find("2").path / WEIGHTS, -3)
    assert run.newest_whole(said.append).number == 1  # type: ignore[union-attr]
    run.layout.log.unlink()
    assert run.commit(draft(30)).number == 3


@pytest.mark.fault("foreign folder under the name of a version")
def test_a_foreign_folder_that_is_named_as_a_version_is_left_alone(run: Run) -> None:
    (run.path / "version_40").mkdir()
    (run.path / "version_40" / "mine.txt").write_text("mine")
    said: list[str] = []
    assert run.newest_whole(said.append).number == 2  # type: ignore[union-attr]
    assert said == ["version_40 has no manifest, so it is no version; it was left as it is."]
    assert run.commit(draft(30)).number == 41


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def swap_tensors(path: Path) -> None:
    """Exchange the bytes of a.weight and b.weight, which have one shape."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start : start + 60], content[start + 60 : start + 120] = (
        content[start + 60 : start + 120],
        content[start : start + 60],
    )
    path.write_bytes(content)


def swap_files(first: Path, second: Path) -> None:
    beside = first.with_suffix(".swap")
    first.rename(beside)
    second.rename(first)
    beside.rename(second)


DAMAGE = {
    "a bit in the header": (lambda v: flip(v / WEIGHTS, 20), "header"),
    "a bit in the header's length": (lambda v: flip(v / WEIGHTS, 0), "header"),
    "a bit in a tensor": (lambda v: flip(v / WEIGHTS, -3), "1 of 6 tensors fails its digest (c.half"),
    "two tensors swapped": (lambda v: swap_tensors(v / WEIGHTS), "2 of 6 tensors fail their digests (a.weight"),
    "a bit in the counters": (lambda v: flip(v / "training/state.json", 3), "training/state.json: fails its digest"),
    "a bit in the settings": (lambda v: flip(v / "hparams.yaml", 0), "hparams.yaml: fails its digest"),
    "a bit in the digests": (lambda v: flip(v / "digests.json", 30), "digests.json: fails its digest"),
    "a bit in the manifest": (lambda v: flip(v / "manifest.json", 40), "manifest"),
    "one byte less": (lambda v: (v / WEIGHTS).write_bytes((v / WEIGHTS).read_bytes()[:-1]), "bytes long"),
    "one byte more": (lambda v: (v / WEIGHTS).write_bytes((v / WEIGHTS).read_bytes() + b"\0"), "bytes long"),
    "half of it": (lambda v: (v / OPTIMIZER).write_bytes((v / OPTIMIZER).read_bytes()[:2000]), "header"),
    "nothing of it": (lambda v: (v / OPTIMIZER).write_bytes(b""), "cut short"),
    "a missing file": (lambda v: (v / OPTIMIZER).unlink(), "is missing"),
    "zeros": (lambda v: (v / WEIGHTS).write_bytes(bytes((v / WEIGHTS).stat().st_size)), "header"),
    "another version's file": (lambda v: swap_files(v / OPTIMIZER, v.parent / "version_0" / OPTIMIZER), "tensors fail"),
    "another version's manifest": (
        lambda v: shutil.copy(v.parent / "version_1/manifest.json", v / "manifest.json"),
        "holds the manifest of version_1",
    ),
}


@pytest.mark.fault("damage to a version: {kind}")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_set_aside_and_the_version_before_is_used(run: Run, kind: str) -> None:
    damage, named = DAMAGE[kind]
    before = run.find("2").path
    damage(before)
    content = {path.relative_to(before): path.read_bytes() for path in before.rglob("*") if path.is_file()}
    said: list[str] = []
    found = run.newest_whole(said.append)
    assert found is not None
    assert found.number == 1
    assert named in said[0]
    aside = next(run.layout.quarantine.iterdir())
    assert {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()} == content


SEEN_BY_SIZE = {
    "a bit in the manifest", "one byte less", "one byte more", "half of it", "nothing of it", "a missing file",
    "another version's manifest",
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_resume_reads_no_tensors_and_what_it_then_finds_damaged_is_set_aside(
    run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, named = DAMAGE[kind]
    damage(run.find("2").path)
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("everstep.versions.quarantine.verify", lambda _: pytest.fail("it was read"))
        found = run.newest_resumable(said.append)
    assert found is not None
    assert (found.number == 1) is (kind in SEEN_BY_SIZE)
    if found.number == 2:
        assert said == []
        assert run.set_aside_damaged(2, said.append)
        assert named in said[0]
        found = run.newest_resumable(said.append)
        assert found is not None
    assert found.number == 1
    assert [path.name.partition("-")[0] for path in run.layout.quarantine.iterdir()] == ["version_2"]


def test_a_version_that_is_whole_gone_slim_or_none_is_not_set_aside(run: Run) -> None:
    said: list[str] = []
    shutil.rmtree(run.find("1").path / "training")
    (run.path / "version_9").mkdir()
    assert [run.set_aside_damaged(number, said.append) for number in (0, 1, 2, 7, 9)] == [False] * 5
    assert said == ["version_9 has no manifest, so it is no version; it was left as it is."]
    shutil.rmtree(run.find("2").path / "training")
    assert run.newest_resumable(said.append).number == 0  # type: ignore[union-attr]
    assert len(run.versions()) == 3


@pytest.mark.fault("damage to a tensor that is loaded")
def test_loading_a_damaged_tensor_names_it(run: Run) -> None:
    version = run.find("2")
    flip(version.path / WEIGHTS, -3)
    with pytest.raises(DamageFound, match=r"weights\.safetensors fails its digest in tensor c\.half"):
        read_tensors(version, WEIGHTS)


@pytest.mark.fault("version of a newer format")
def test_a_newer_format_is_refused_by_its_number_and_left_alone(run: Run) -> None:
    path = run.find("2").path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(UserError, match="newer Everstep: format 2, this one reads 1"):
        run.newest_whole(print)
    assert path.exists()


def test_a_version_without_its_training_files_is_whole_but_not_resumable(run: Run) -> None:
    shutil.rmtree(run.find("2").path / "training")
    assert [row["resumable"] for row in rows(run)] == [True, True, False]
    assert run.newest_whole(print).number == 1  # type: ignore[union-attr]


@pytest.mark.fault("staging folder left by a crash, log cut in a line")
def test_leftovers_of_a_crash_are_cleared_and_the_log_is_mended(run: Run) -> None:
    (run.path / ".version_3.0a1b2c3d.part").mkdir()
    (run.path / ".version_3.0a1b2c3d.part" / "half").write_text("x")
    (run.path / ".version_mine.part").mkdir()
    lines = run.layout.log.read_text().splitlines()
    run.layout.log.write_text("\n".join([lines[0], lines[1][:30]]))
    done = run.recover()
    assert len(done) == 2
    assert not (run.path / ".version_3.0a1b2c3d.part").exists()
    assert (run.path / ".version_mine.part").exists()
    whole = [json.loads(line)["version"] for line in run.layout.log.read_text().splitlines() if line.endswith("}")]
    assert sorted(whole) == [0, 1, 2]
    assert run.recover() == []


@pytest.mark.fault("annotation that cannot be read")
def test_notes_are_kept_beside_and_a_damaged_note_costs_nothing(run: Run) -> None:
    write_annotation(run.layout, 1, scores={"loss": 0.5}, pinned=True)
    write_annotation(run.layout, 1, scores={"gain": 0.1})
    assert rows(run)[1]["scores"] == {"loss": 0.5, "gain": 0.1}
    assert rows(run)[1]["pinned"] is True
    run.layout.annotation(1).write_text("{")
    assert rows(run)[1]["scores"] == {}


@pytest.mark.fault("second writer of a run; death of the first")
def test_a_second_writer_is_refused_and_told_who_the_first_is(run: Run, tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from everstep.versions import Run\n"
        f"with Run.open(Path({str(run.path)!r})).lock('everstep train'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    assert status(run, Course(20)).state == "running"
    assert status(run, Course(20)).pid == other.pid
    with pytest.raises(UserError, match=f"written by process {other.pid} on"), run.lock("mine"):
        pass
    assert run.holder() is not None
    other.kill()
    other.wait()
    other.stdout.close()
    assert run.holder() is None
    with run.lock("mine"):
        pass


def test_the_store_loads_neither_torch_nor_any_model_library() -> None:
    asked = (
        "import sys, everstep.versions; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.fault("clock that jumps back by decades, file times lost")
def test_neither_clocks_nor_file_times_decide_which_version_is_newest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Jumped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Jumped":
            return cls(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr("everstep.versions.commit.datetime", Jumped)
    made = run.commit(draft(30))
    assert made.created_at.startswith("1999")
    for path in (run.path, *run.path.rglob("*")):
        os.utime(path, (0, 0))
    newest = run.newest_whole(print)
    assert newest is not None
    assert newest.number == run.find("latest").number == made.number
    assert status(run, Course(100)).last_version == made.name


@pytest.mark.fault("damage to a version that was read whole a moment ago")
def test_what_was_whole_a_moment_ago_is_looked_at_again_when_it_has_changed(run: Run) -> None:
    """damaged() does not read again what this process has read whole; a manifest that changed since then it does."""
    assert len(run.versions()) == 3
    assert run.damaged() == []
    flip(run.path / "version_1" / "manifest.json", 40)
    assert [path.name for path, _ in run.damaged()] == ["version_1"]
    shutil.rmtree(run.path / "version_0")
    assert [path.name for path, _ in run.damaged()] == ["version_1"]
