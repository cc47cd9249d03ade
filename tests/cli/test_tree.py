"""everstep list --tree, on real runs."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from everstep.versions import write_annotation
from everstep.versions.layout import RunLayout
from program import Ended

Everstep = Callable[..., Ended]


def test_a_resume_inside_a_run_is_drawn_as_a_branch_with_what_was_changed(everstep: Everstep, branched: Path) -> None:
    assert everstep("list", "a", "--tree").out.splitlines() == [
        "version_0  step 0  start",
        "version_1  step 2  interval",
        "├─ version_2  step 4  final",
        "└─ version_3  step 4  interval  optim.max_steps 4 -> 6, optim.learning_rate 0.001 -> 0.002",
        "   version_4  step 6  final",
    ]


def test_control_gain_is_a_column_of_the_list_once_a_version_has_it(everstep: Everstep, branched: Path) -> None:
    for number in range(5):
        (branched / f"a/records/version_{number}.json").unlink(missing_ok=True)
    assert "gain" not in everstep("list", "a").out
    write_annotation(RunLayout(branched / "a"), 4, scores={"control_gain": 0.25})
    assert re.search(r"gain +parent .*0\.2500 +a@3", everstep("list", "a").out, re.DOTALL)


def test_labels_pins_and_what_is_gone_are_named(everstep: Everstep, branched: Path) -> None:
    everstep("label", "a@3", "faster")
    everstep("pin", "a@0")
    shutil.rmtree(branched / "a/version_1")
    shutil.rmtree(branched / "a/version_2/training")
    assert everstep("list", "a", "--tree").out.splitlines() == [
        "version_0  step 0  start  pinned",
        "├─ version_2  step 4  final  slim  (after version_1, which is gone)",
        "└─ version_3  step 4  interval  faster  optim.max_steps 4 -> 6, optim.learning_rate 0.001 -> 0.002  "
        "(after version_1, which is gone)",
        "   version_4  step 6  final",
    ]
    shutil.rmtree(branched / "a/version_3")
    drawn = everstep("list", "a", "--tree").out
    assert "version_4  step 6  final  (after 2 versions that are gone, version_1 to version_3)" in drawn
    (branched / "a/log.jsonl").unlink()
    assert "version_2  step 4  final  slim  (from version_1, which is gone)" in everstep("list", "a", "--tree").out


def test_a_run_that_began_with_the_weights_is_drawn_where_it_began(everstep: Everstep, branched: Path) -> None:
    # The copy lies elsewhere than the run that b began from, as a folder that was moved does.
    log, manifest = branched / "b/log.jsonl", branched / "b/version_0/manifest.json"
    origin = everstep("list", "b", "--tree").out.splitlines()[0].partition("weights of ")[2].removesuffix("@2)")
    assert origin.endswith("runs/a")
    log.write_text(log.read_text().replace(origin, str(branched / "a")))
    drawn = everstep("list", "a", "--tree").out.splitlines()
    assert drawn[2:4] == [
        "├─ version_2  step 4  final",
        "│  └─ run b, from the weights: 2 versions to step 2",
    ]
    assert everstep("list", "b", "--tree").out.splitlines()[1:] == ["version_1  step 2  final"]
    assert origin in manifest.read_text()


def test_a_damaged_version_is_left_out_and_said(everstep: Everstep, branched: Path) -> None:
    (branched / "a/version_2/manifest.json").write_text("{}")
    drawn = everstep("list", "a", "--tree").out
    assert "version_2  step" not in drawn
    assert "not listed" in drawn
    assert "version_4  step 6" in drawn
