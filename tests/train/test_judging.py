"""What a training says of its versions: filed at each, shown, never in the way."""

import json
import shutil

import pytest

from everstep.records.scores import marks, points, read_scores
from everstep.versions import Run


@pytest.fixture
def words(tiny_base, pairs_folder):
    return ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--optim.batch-size", 2)


@pytest.fixture
def trained(everstep, words, workplace):
    every = ("--scoring.patience", 9)  # so that no clock decides which versions are measured
    ended = everstep(*words, "--optim.max-steps", 4, "--versions.every", 2, "--sampling.pairs", 2, *every)
    assert ended.code == 0, ended.out
    return Run.open(workplace / "runs/a"), ended.out


def test_every_version_has_gain_pictures_and_verdict_on_record(trained):
    run, said = trained
    scored = read_scores(run)
    assert list(scored) == [0, 1, 2]
    assert scored[0].gain.value == 0.0
    assert (
        "control gain 0.000 (0.000 to 0.000, 0.000 near the lines), benefit 0.000 (0.000 to 0.000): gain 0.000" in said
    )
    assert "gain 0.000 on 3 held-out pairs, too few to tell whether it is obeyed: 10 can" in said
    for version in run.versions():
        assert scored[version.number].manifest_digest == version.manifest_digest
        assert run.annotation(version.number).scores["control_gain"] == scored[version.number].gain.value
        facts = json.loads((run.layout.samples / f"{version.name}.json").read_text())
        assert (run.layout.samples / f"{version.name}.png").stat().st_size > 1000
        assert facts["sampler"]["steps"] == 20
        assert facts["sampler"]["scheduler_config"]["class"] == "UniPCMultistepScheduler"
        assert len(facts["digests"]) == len(facts["captions"]) == 2
    assert json.loads((run.layout.records / "verdict.json").read_text())["state"] == "unknown"
    assert (run.layout.records / "scores.png").stat().st_size > 1000


def test_a_sheet_is_drawn_again_bit_for_bit_and_one_changed_weight_is_told(everstep, trained):
    run, _ = trained
    again = everstep("reproduce", "a@1")
    assert again.code == 0, again.out
    assert "the same, bit for bit" in again.out
    sheet = run.layout.samples / "version_1.json"
    facts = json.loads(sheet.read_text())
    sheet.write_text(json.dumps({**facts, "digests": ["xxh3-128:0", facts["digests"][1]]}))
    again = everstep("reproduce", "a@1")
    assert again.code == 1
    assert "1 of 2 pictures differ" in again.out
    sheet.write_text(json.dumps({**facts, "manifest_digest": "xxh3-128:0"}))
    assert "speaks of another version_1" in everstep("reproduce", "a@1").out
    sheet.unlink()
    assert "everstep score a@1 draws one" in everstep("reproduce", "a@1").out


def test_scores_are_made_up_for_later_the_same_as_in_training(everstep, trained):
    run, _ = trained
    then = {number: scored.gain for number, scored in read_scores(run).items()}
    assert "All 3 versions of a have a score" in everstep("score", "a", "--all").out
    records = run.layout.records / "scores.jsonl"
    records.write_text(records.read_text().splitlines()[1] + "\n" + '{"version": 2, "cut')
    ended = everstep("score", "a", "--all")
    assert ended.code == 0, ended.out
    assert "[1/2] version_0" in ended.out
    assert "[2/2] version_2" in ended.out
    assert {number: scored.gain for number, scored in read_scores(run).items()} == then
    told = everstep("score", "a@2", "--json").out  # after what may be said of a slow machine
    assert json.loads(told[told.index("[\n") :])[0]["gain"]["value"] == then[2].value
    for wrong in (("score", "a"), ("score", "a@1", "--all")):
        assert everstep(*wrong).code == 2


class FailToDraw:
    def __call__(self):
        import everstep.evaluation.pictures.painter as painter

        def fail(*arguments):
            raise RuntimeError("CUDA out of memory")

        painter.paint = fail


class FailToRecord:
    def __call__(self):
        import everstep.train.judging as judging

        def fail(*arguments):
            raise OSError(28, "No space left on device")

        judging.file_found = fail


@pytest.mark.fault("pictures that fail: out of memory on the device")
def test_pictures_that_fail_are_said_noted_and_cost_no_training(start, words, workplace):
    program = start(*words, "--optim.max-steps", 2, "--sampling.pairs", 2, prepare=FailToDraw())
    assert program.wait() == 0, program.output
    assert "Step 2: the pictures failed (CUDA out of memory); training goes on." in program.output
    scored = read_scores(Run.open(workplace / "runs/a"))
    assert scored[1].failed == {"pictures": "CUDA out of memory"}
    assert scored[1].gain is not None


@pytest.mark.fault("records that a full disk refuses")
def test_records_that_fail_cost_no_training(start, words, workplace):
    program = start(*words, "--optim.max-steps", 2, prepare=FailToRecord())
    assert program.wait() == 0, program.output
    assert "The records of version_1 could not be written" in program.output


def obey(run, *gains):
    """Put gains on record as if they had been measured."""
    lines = [json.loads(line) for line in (run.layout.records / "scores.jsonl").read_text().splitlines()]
    for line, gain in zip(lines, gains, strict=True):
        line["gain"] |= {"value": gain, "pairs": 64, "p": 0.0001 if gain else 1.0, "benefit": gain}
    (run.layout.records / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_training_ends_early_when_the_gain_rises_no_more_and_says_how_to_go_on(everstep, words, trained, workplace):
    run, _ = trained
    obey(run, 0.0, 0.3, 0.4)
    ended = everstep("resume", "a", "--set", "optim.max_steps=20", "--set", "scoring.patience=2")
    assert ended.code == 0, ended.out
    assert "Ended early at step" in ended.out
    last = Run.open(workplace / "runs/a").find("latest")
    assert last.reason == "early"
    assert 8 <= last.step < 20  # the second version without a rise is at 8; training went on while it was written
    again = everstep("resume", "a")
    assert again.code == 0
    assert "already complete: it ended early at version_" in again.out
    ended = everstep("resume", "a", "--set", "scoring.patience=null")
    assert ended.code == 0, ended.out
    assert Run.open(workplace / "runs/a").find("latest").step == 20


def test_the_versions_at_the_jump_are_marked(trained):
    run, _ = trained
    assert marks(run) == {}
    obey(run, 0.0, 0.3, 0.4)
    assert marks(run) == {1: "just after the jump"}  # version_0 adds nothing: there is no level before
    assert len(points(run)) == 3


def test_without_held_out_pairs_there_is_no_gain_and_training_says_nothing_of_it(everstep, words, workplace):
    ended = everstep(*words, "--optim.max-steps", 1, "--data.held-out-pairs", 0)
    assert ended.code == 0, ended.out
    assert "control gain" not in ended.out
    assert read_scores(Run.open(workplace / "runs/a"))[1].gain is None
    shutil.rmtree(workplace / "runs/a")
    assert "control gain" not in everstep(*words, "--optim.max-steps", 1, "--scoring.overhead", 0).out


def test_what_adherence_needs_is_missed_before_training_starts(everstep, words, workplace):
    ended = everstep(*words, "--optim.max-steps", 1, "--scoring.adherence", "depth")
    assert ended.code == 2, ended.out
    assert "scoring.extractor is not set" in ended.out
    assert not (workplace / "runs/a").exists()


def test_adherence_is_measured_on_the_drawn_pictures_and_listed(everstep, words, workplace):
    ended = everstep(
        *words, "--optim.max-steps", 2, "--versions.every", 1, "--sampling.pairs", 1, "--scoring.adherence", "canny"
    )
    assert ended.code == 0, ended.out
    run = Run.open(workplace / "runs/a")
    for version in run.versions():
        assert 0 <= run.annotation(version.number).scores["canny_f1"] <= 1
    assert "canny_f1" in ended.out


class SlowToMeasure:
    """Every batch of held-out examples takes a second: 12 s for all of them."""

    def __call__(self):
        import time

        from everstep.models import objective

        errors = objective.error_maps

        def slow(family, controlnet, task, conditions):
            if controlnet is not None:
                print("denoising", flush=True)
                time.sleep(1)
            return errors(family, controlnet, task, conditions)

        objective.error_maps = slow


# Batches of 8 are measured by 16: few passes, so that little but the sleep counts on a machine that is busy.
SLOW = ("--optim.max-steps", 6, "--sampling.pairs", 0, "--optim.batch-size", 8)


@pytest.mark.fault("a measurement that would hold training for longer than its share")
def test_a_measurement_that_takes_longer_than_its_share_is_put_off_and_said(everstep, start, words, workplace):
    program = start(*words[:-2], *SLOW, "--versions.every", 2, prepare=SlowToMeasure())
    assert program.wait() == 0, program.output
    run = Run.open(workplace / "runs/a")
    assert [point.version for point in points(run)] == [0]  # which is the base, and takes no time
    assert program.output.count("denoising") == 2  # to warm up, and to see how long it takes: once, not at each version
    said = [line for line in program.output.splitlines() if "Control gain takes about" in line]
    assert len(said) == 1
    assert "may take 2 % of the training (scoring.overhead): version_1 is not measured, the first version" in said[0]
    assert f"version_3 was not measured; everstep score {run.path}@3 does it." in program.output
    assert everstep(*words[:2], "b", *words[3:-2], *SLOW, "--versions.every", 2, "--scoring.overhead", 0).code == 0
    trained = [json.loads((path / "version_3/digests.json").read_text()) for path in (run.path, workplace / "runs/b")]
    assert trained[0] == trained[1]
    assert everstep("score", "a@3").code == 0
    assert [point.version for point in points(run)] == [0, 3]


@pytest.mark.fault("a slow measurement that decides when training ends")
def test_where_patience_ends_the_training_no_clock_decides_what_is_measured(start, words, workplace):
    program = start(*words[:-2], *SLOW, "--versions.every", 6, "--scoring.patience", 3, prepare=SlowToMeasure())
    assert program.wait() == 0, program.output
    assert [point.version for point in points(Run.open(workplace / "runs/a"))] == [0, 1]
    assert "Measuring control gain: " in program.output  # in words, since it takes more than two seconds
    assert "Measuring control gain: done after" in program.output
