"""What each version is worth, while training runs: measured when its copy is made, filed once it has a number.

Whatever fails here is said, noted as failed, and costs no training.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from everstep.contracts import COMPLETE, ExampleSettings
from everstep.data import Framer, Split
from everstep.evaluation.allowance import Allowance
from everstep.evaluation.filing import as_scored, file_found, in_words
from everstep.evaluation.paired import paired_test
from everstep.evaluation.scorer import Found, Scorer
from everstep.keeping.claims import Claim, Observer
from everstep.models.family import Family
from everstep.records.scores import points
from everstep.records.verdict import Control, Verdict, is_worn_out, verdict
from everstep.train.metrics import Metrics
from everstep.train.notes import Notes
from everstep.train.progress import Reporter
from everstep.train.ready import Ready
from everstep.train.state import TrainState
from everstep.train.together import TeamRounds
from everstep.train.wanted import while_wanted
from everstep.units import duration
from everstep.versions import Run, Version

NAMES = {
    "gain": "control gain",
    "pictures": "the pictures",
    "further": "further pictures",
    "adherence": "adherence",
    "quality": "CLIP score, FID or KID",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What was measured of the state at a step."""

    step: int
    found: Found
    averaged: bool  # drawn and measured with the averaged weights
    loss: float | None
    is_cut: bool = False  # somebody asked to stop meanwhile


class Judge(Observer):
    """Measures the live state at each version of one training, and knows what the line of versions says."""

    def __init__(
        self,
        run: Run,
        scorer: Scorer,
        reporter: Reporter,
        state: TrainState,
        metrics: Metrics,
        is_wanted: Callable[[], bool],
    ) -> None:
        self._run, self.scorer, self._reporter, self._is_wanted = run, scorer, reporter, is_wanted
        self._state, self._metrics = state, metrics
        self._judged: dict[Claim, Judged] = {}
        self._notes = Notes(run.layout, reporter.say)
        self._images_per_step = scorer.config.optim.images_per_step
        self.verdict: Verdict = verdict(points(run), self._images_per_step, paired_test(run))
        self._has_said_put_off = False
        self.is_worn_out = False  # whether training shall end because the benefit rises no more

    def copied(self, claim: Claim) -> None:
        """Measure the state as it is now, while the version is written."""
        self._judged[claim] = self.measure(self._state, self._metrics.smoothed_loss)

    def committed(self, claim: Claim, version: Version) -> None:
        """Note what was measured under the version, now that it has a number."""
        self._metrics.version(version)
        judged = self._judged.pop(claim, None)
        if judged is not None and judged.loss is not None:
            self._notes.add(version.number, scores={"loss": judged.loss})
        if judged is not None:
            self.file(version, judged, self._metrics)
            if judged.is_cut:
                self._say_cut(version, judged)
            else:
                self._say_put_off(claim, version, judged.found)

    def _say_cut(self, version: Version, judged: Judged) -> None:
        how = "not" if judged.found.gain is None else "not wholly"
        again = f"everstep score {self._run.path}@{version.number}"
        self._reporter.say(f"  {version.name} was {how} measured, since somebody asked to stop; {again} does it.")

    def _say_put_off(self, claim: Claim, version: Version, found: Found) -> None:
        """Why a version has no control gain: once, and of the last version, since nothing comes after it."""
        allowance = self.scorer.allowance
        if not found.is_put_off or allowance is None:
            return
        if claim.reason in COMPLETE:
            self._reporter.say(
                f"  {version.name} was not measured; everstep score {self._run.path}@{version.number} does it."
            )
        elif not self._has_said_put_off:
            self._has_said_put_off = True
            needed, more = duration(allowance.needed_s or 0.0), duration(allowance.trained_until_enough_s)
            self._reporter.say(
                f"  Control gain takes about {needed} here, and may take {100 * allowance.share:g} % of the training "
                f"(scoring.overhead): {version.name} is not measured, the first version after {more} more of it is."
            )

    def measure(self, state: TrainState, loss: float | None) -> Judged:
        """Draw and score the state as it is now; with the averaged weights where there are any."""
        with state.averaged():
            found = self.scorer(state.controlnet)
        is_cut = bool(found.failed) and not self._is_wanted()
        if is_cut:
            found.failed.clear()
        for name, why in found.failed.items():
            self._reporter.say(f"Step {state.step:,}: {NAMES[name]} failed ({why}); training goes on.")
        return Judged(state.step, found, state.ema is not None, loss, is_cut)

    def file(self, version: Version, judged: Judged, metrics: Metrics | None) -> None:
        """Put what was measured into the run's records, under the version's number."""
        found, before = judged.found, self.verdict.state
        try:
            self.verdict, page = file_found(self._run, version, self.scorer, found, judged.averaged, judged.loss)
            patience = self.scorer.config.scoring.patience
            self.is_worn_out = patience is not None and is_worn_out(points(self._run), patience)
            if metrics is not None:
                metrics.scores(as_scored(version, found).curves, version.step)
            if metrics is not None and page is not None:
                metrics.picture("samples", np.asarray(page), version.step)
        except Exception as error:  # a record must never cost a training
            self._reporter.say(f"The records of {version.name} could not be written ({error}); training goes on.")
            return
        if found.gain is not None:
            self._reporter.say(f"  {in_words(found)}: {self.verdict.sentence}")
        if self.verdict.since_step is not None and before is Control.NOT_YET:
            self._reporter.say("  The condition has come to be obeyed: two versions running agree.")


def scorer_of(
    ready: Ready,
    family: Family,
    framer: Framer,
    pairs: Split,
    settings: ExampleSettings,
    reporter: Reporter,
    is_wanted: Callable[[], bool],
    rounds: TeamRounds | None = None,
) -> Scorer:
    """Measures the versions of a training, until somebody has asked it to stop.

    Where patience ends the training, every version is measured: no clock may decide how long is trained."""
    scoring = ready.config.scoring
    allowance = Allowance(scoring.overhead) if scoring.overhead and scoring.patience is None else None
    pictures = Allowance(scoring.pictures_overhead, start_s=0.0) if scoring.pictures_overhead else None
    with reporter.during("Reading held-out pairs"):
        scorer = Scorer(
            family,
            ready.config,
            framer,
            pairs,
            settings,
            during=while_wanted(reporter.during, is_wanted),
            allowance=allowance,
            pictures_allowance=pictures,
            rounds=rounds,
        )
        if rounds is not None:
            rounds.do = scorer.helper.piece
        if ready.version is None:
            scorer.refuse_too_few()
        return scorer
