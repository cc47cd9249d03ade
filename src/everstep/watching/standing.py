"""Where a run stands: what `everstep status` prints, and the page shows."""

from dataclasses import asdict, dataclass
from typing import Any

from everstep.config.load import read_hparams
from everstep.config.policy import course
from everstep.config.schema import Config
from everstep.keeping.memory import Found
from everstep.keeping.remnants import as_json, forgotten, of_run
from everstep.records.scores import VERDICT, latest_verdict
from everstep.versions import Run, RunStatus, outlook, read_live, status
from everstep.versions.forecast import Course
from everstep.watching.remembered import RememberedRun, stamp_of

OUTLOOK_S, OUTLOOK_SHARE = 60.0, 0.05  # how old, and how dear, what is said of the disk's future may be


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one run, at one moment."""

    found: RunStatus
    verdict: dict[str, Any] | None
    memory: list[Found]  # that lies there of this run
    others: list[Found]  # of runs that are gone

    def as_json(self) -> dict[str, Any]:
        """As `everstep status --json` prints it."""
        verdict = self.verdict or {}
        return {
            **asdict(self.found),
            "control": verdict.get("sentence"),
            "control_gain": verdict.get("gain"),
            "benefit": verdict.get("benefit"),
            "memory": [as_json(one, one in self.memory) for one in (*self.memory, *self.others)],
        }


def standing(run: RememberedRun) -> Standing:
    """Raises: UserError if its settings cannot be read."""
    settings = settings_kept(run)
    going = _course(run, settings)
    ram_dir = None if settings is None else settings.keeper.ram_dir
    made = stamp_of(run.path, run.layout.trash)
    seen = run.once("outlook", made, lambda: outlook(run, going), OUTLOOK_S, OUTLOOK_SHARE)
    said = run.once("verdict", stamp_of(run.layout.records / VERDICT), lambda: latest_verdict(run))
    return Standing(status(run, going, seen), said, of_run(run, ram_dir), forgotten(run, ram_dir))


def settings_of(run: Run) -> Config | None:
    """The run's settings; None of a loop that is not ours, whose settings say nothing to us. Raises: UserError."""
    return read_hparams(run.layout.hparams) if run.best_score() else None  # only such a loop has no best


def settings_kept(run: RememberedRun) -> Config | None:
    """The same, read once. Raises: UserError."""
    return run.once("settings", stamp_of(run.layout.hparams, run.layout.best_score), lambda: settings_of(run))


def _course(run: RememberedRun, settings: Config | None) -> Course:
    """Where it goes by its settings; a loop that is not ours tells it."""
    if settings is not None:
        return course(settings)
    live = read_live(run.layout)
    if live is None:
        return Course(max_steps=0)
    return Course(max_steps=live.max_steps, images_per_step=max(1, live.images_seen // max(1, live.step)))
