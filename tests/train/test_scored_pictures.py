"""Scores of pictures in a training and after it: on as many as time allows, how sure, and refused where too few."""

import json

import networks
import pytest
import torch

from everstep.models.sd import StableDiffusion
from everstep.records.scores import read_scores
from everstep.versions import Run


@pytest.fixture
def words(tiny_base):
    def of(*more, run="a", data="builtin:circles", pairs=2):
        small = ("--sampling.pairs", pairs, "--sampling.steps", 1, "--optim.batch-size", 2, "--scoring.overhead", 0)
        return ("train", "--run", run, "--base", tiny_base, "--data", data, *small, *more)

    return of


def features(pixels):
    """48 of them, so that FID would take 49 pictures."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)


def test_further_pictures_are_drawn_in_training_and_any_number_afterwards(everstep, words, workplace):
    ended = everstep(*words("--optim.max-steps", 40, "--versions.every", 20, "--scoring.pictures-overhead", 1))
    assert ended.code == 0, ended.out
    run = Run.open(workplace / "runs/a")
    first, *_, last = read_scores(run).values()
    assert first.pictures == 2  # nothing was trained yet
    assert last.pictures > 2
    assert (last.pictures - 2) % 8 == 0 or last.pictures == 64
    low, high = last.intervals["circle_iou"]
    assert low <= last.others["circle_iou"] <= high

    sheet = run.layout.samples / f"{run.find('latest').name}.json"
    facts = json.loads(sheet.read_text())
    assert len(facts["digests"]) == len(facts["pairs"]) == 2
    assert facts["drawn_together"] == 8

    told = everstep("score", "a@latest", "--pairs", 12)
    assert told.code == 0, told.out
    again = read_scores(run)[last.version]
    assert again.pictures == 12
    assert (
        f"({again.intervals['circle_iou'][0]:z.3f} to {again.intervals['circle_iou'][1]:z.3f}, 12 pictures)" in told.out
    )
    assert json.loads(sheet.read_text()) == facts  # the sheet's are drawn as they were

    everstep("score", "a@latest", "--pairs", last.pictures)
    assert read_scores(run)[last.version].others["circle_iou"] == last.others["circle_iou"]
    assert read_scores(run)[last.version].intervals == last.intervals
    everstep("score", "a@latest")
    assert read_scores(run)[last.version].pictures == 2

    sheet.write_text(json.dumps({name: fact for name, fact in facts.items() if name != "drawn_together"}))
    assert "the same, bit for bit" in everstep("reproduce", "a@latest").out


def test_a_training_may_draw_the_contact_sheet_alone_or_nothing(everstep, words, workplace):
    ended = everstep(*words("--optim.max-steps", 2, "--scoring.pictures-overhead", 0))
    assert ended.code == 0, ended.out
    assert {scored.pictures for scored in read_scores(Run.open(workplace / "runs/a")).values()} == {2}
    ended = everstep(*words("--optim.max-steps", 2, run="b", pairs=0))
    assert ended.code == 0, ended.out
    run = Run.open(workplace / "runs/b")
    assert {scored.pictures for scored in read_scores(run).values()} == {None}
    everstep("score", "b@latest", "--pairs", 3)
    assert read_scores(run)[1].pictures == 3


def test_kid_is_measured_where_pictures_are_too_few_for_fid_and_the_number_that_would_do_is_said(
    everstep, words, workplace
):
    model = networks.export(workplace / "features.pt2", features)
    fid = ("--scoring.fid", model, "--optim.max-steps", 1)
    ended = everstep(*words(*fid))
    assert ended.code == 0, ended.out
    assert "CLIP score, FID or KID failed (kid needs 16 drawn pictures, not 2; everstep score --pairs 16" in ended.out
    assert "circle_iou" in read_scores(Run.open(workplace / "runs/a"))[1].others
    told = everstep("score", "a@latest", "--pairs", 16)
    assert " kid " in told.out
    assert "16 pictures)" in told.out
    assert "kid" in read_scores(Run.open(workplace / "runs/a"))[1].intervals
    assert "quality failed: kid needs 16" in everstep("score", "a@latest").out
    told = everstep("score", "a@latest", "--pairs", 15)
    assert told.code == 2
    assert "fid needs 49 drawn pictures, and what could be measured instead 16, but 15 are asked for" in told.out
    assert "--pairs 49 draws more" in told.out
    assert " fid " in everstep("score", "a@latest", "--pairs", 49).out


@pytest.mark.parametrize(
    ("more", "pairs", "said"),
    [
        (("--scoring.pictures-overhead", 0), 2, ["there are at most 2. Nothing was started", "sampling.pairs=16"]),
        (("--data.held-out-pairs", 15), 2, ["there are at most 15.", "with --set data.held_out_pairs=16"]),
        ((), 0, ["there are at most 0."]),
    ],
)
def test_a_distance_that_could_never_be_measured_is_refused_before_anything_starts(
    everstep, words, workplace, more, pairs, said
):
    model = networks.export(workplace / "features.pt2", features)
    ended = everstep(*words("--scoring.fid", model, "--optim.max-steps", 1, *more, pairs=pairs))
    assert ended.code == 2, ended.out
    assert all(part in " ".join(ended.out.split()) for part in said), ended.out
    assert not (workplace / "runs/a").exists()


def test_data_that_holds_out_too_few_pairs_is_refused_and_leaves_no_run(everstep, words, workplace, pairs_folder):
    model = networks.export(workplace / "features.pt2", features)
    ended = everstep(*words("--scoring.fid", model, "--optim.max-steps", 1, data=pairs_folder))
    assert ended.code == 2, ended.out
    assert "16, but only 3 are held out" in " ".join(ended.out.split())
    assert not (workplace / "runs/a").exists()


def test_a_run_whose_pairs_are_too_few_for_a_distance_goes_on_and_says_so(everstep, words, workplace, pairs_folder):
    """As earlier programs began it, which measured FID on any number."""
    assert everstep(*words("--optim.max-steps", 1, data=pairs_folder)).code == 0
    model = networks.export(workplace / "features.pt2", features)
    more = ("--set", f"scoring.fid={model}", "--set", "optim.max_steps=2")
    ended = everstep("resume", "a", *more)
    assert ended.code == 0, ended.out
    assert "CLIP score, FID or KID failed (kid needs 16" in " ".join(ended.out.split())
    assert Run.open(workplace / "runs/a").find("latest").step == 2


class Hold:
    """Memory for so many pictures at once; those that fit are drawn by the real pipeline."""

    def __init__(self, most):
        self.most, self.tried = most, []

    def __call__(self):
        StableDiffusion.pipeline = self.around(StableDiffusion.pipeline)

    def around(self, pipeline):
        def small(family, controlnet, scheduler):
            whole = pipeline(family, controlnet, scheduler)

            def drawing(**asked):
                self.tried.append(len(asked["prompt"]))
                if self.tried[-1] > self.most:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                return whole(**asked)

            return drawing

        return small


@pytest.mark.fault("memory that does not hold as many pictures as are drawn at once")
def test_a_sheet_that_memory_cut_into_batches_is_drawn_again_by_the_same(
    everstep, start, words, workplace, monkeypatch
):
    program = start(*words("--optim.max-steps", 1, "--scoring.pictures-overhead", 0, pairs=5), prepare=Hold(2))
    assert program.wait() == 0, program.output
    assert "failed" not in program.output
    run = Run.open(workplace / "runs/a")
    sheet = run.layout.samples / f"{run.find('latest').name}.json"
    facts = json.loads(sheet.read_text())
    assert facts["drawn_together"] == 2

    now = Hold(99)
    monkeypatch.setattr(StableDiffusion, "pipeline", now.around(StableDiffusion.pipeline))
    assert "all 5 pictures are the same, bit for bit" in everstep("reproduce", "a@latest").out
    assert now.tried == [2, 2, 1]
    now.most = 1
    sheet.write_text(json.dumps({**facts, "digests": ["xxh3-128:0"] * 5}))
    assert "2 pictures drawn at once then, 1 now, for want of memory" in everstep("reproduce", "a@latest").out
