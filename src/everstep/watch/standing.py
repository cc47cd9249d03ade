"""Where a run stands: what `everstep status` prints, and the page shows."""

from dataclasses import asdict, dataclass
from typing import Any

from everstep.config import Config, read_hparams
from everstep.config.policy import course
from everstep.keeping.memory import Found
from everstep.keeping.remnants import as_json, forgotten, of_run
from everstep.records.scores import latest_verdict
from everstep.versions import Run, RunStatus, read_live, status
from everstep.versions.forecast import Course


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


def standing(run: Run) -> Standing:
    """Raises: UserError if its settings cannot be read."""
    going, ram_dir = _course(run)
    return Standing(status(run, going), latest_verdict(run), of_run(run, ram_dir), forgotten(run, ram_dir))


def settings_of(run: Run) -> Config | None:
    """The run's settings; None of a loop that is not ours, whose settings say nothing to us. Raises: UserError."""
    return read_hparams(run.layout.hparams) if run.best_score() else None  # only such a loop has no best


def _course(run: Run) -> tuple[Course, str | None]:
    """Where it goes and its ram_dir by its settings; a loop that is not ours tells where it goes."""
    settings = settings_of(run)
    if settings is not None:
        return course(settings), settings.keeper.ram_dir
    live = read_live(run.layout)
    if live is None:
        return Course(max_steps=0), None
    return Course(max_steps=live.max_steps, images_per_step=max(1, live.images_seen // max(1, live.step))), None
